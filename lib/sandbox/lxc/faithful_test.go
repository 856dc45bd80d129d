package lxc

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/wire"
)

// TestEveryExitStatusOfOneContainer goes through all statuses as the first
// process sees them: it reaps each, and tells the program's own.
func TestEveryExitStatusOfOneContainer(t *testing.T) {
	h := newHost(t)
	out, r := h.sh(`i=0; while [ $i -lt 256 ]; do sh -c "exit $i"; [ $? = $i ] || echo wrong: $i; (setsid sh -c "exit $i" &); i=$((i+1)); done; exit 77`)
	if out != "" || r.Status != 77 || r.Signal != 0 {
		t.Errorf("%+v: %s", r, out)
	}
}

// TestCannotBeRun: why, and of what kind it is, is told.
func TestCannotBeRun(t *testing.T) {
	h := newHost(t)
	arm := append([]byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x28\x00\x01\x00\x00\x00"), make([]byte, 40)...)
	for name, file := range map[string]struct {
		content []byte
		mode    os.FileMode
	}{
		"plain": {[]byte("#!/bin/sh\n"), 0o644}, "empty": {nil, 0o755}, "text": {[]byte("echo no\n"), 0o755}, "garbage": {bytes.Repeat([]byte{0xff}, 99), 0o755},
		"arm": {arm, 0o755}, "interpreter": {[]byte("#!/no/such/interpreter\n"), 0o755}, "loops": {[]byte("#!/workspace/loops\n"), 0o755},
		"shut": {[]byte("#!/bin/sh\n"), 0},
	} {
		if err := os.WriteFile(filepath.Join(h.workspace, name), file.content, file.mode); err != nil {
			t.Fatal(err)
		}
	}
	for link, target := range map[string]string{"loop": "loop", "broken": "nowhere", "folder-link": "/tmp"} {
		if err := os.Symlink(target, filepath.Join(h.workspace, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, says string
		args       []string
		kind       fault.Kind
	}{
		{"Missing", "no such", []string{"/no/such/program"}, fault.MissingTool},
		{"MissingInPath", "no such program", []string{"no-such-program"}, fault.MissingTool},
		{"InFolderThatIsAFile", "not a directory", []string{"/workspace/plain/x"}, fault.MissingTool},
		{"Folder", "permission denied", []string{"/tmp"}, fault.MissingTool},
		{"LinkToFolder", "permission denied", []string{"./folder-link"}, fault.MissingTool},
		{"NotExecutable", "permission denied", []string{"./plain"}, fault.MissingTool},
		{"Shut", "permission denied", []string{"./shut"}, fault.MissingTool},
		{"Empty", "exec format error", []string{"./empty"}, fault.MissingTool},
		{"NoShebang", "exec format error", []string{"./text"}, fault.MissingTool},
		{"Garbage", "exec format error", []string{"./garbage"}, fault.MissingTool},
		{"OtherMachine", "exec format error", []string{"./arm"}, fault.MissingTool},
		{"MissingInterpreter", "no such file", []string{"./interpreter"}, fault.MissingTool},
		{"InterpretsItself", "too many levels", []string{"./loops"}, fault.MissingTool},
		{"LinkLoop", "too many levels", []string{"./loop"}, fault.MissingTool},
		{"BrokenLink", "no such file", []string{"./broken"}, fault.MissingTool},
		{"LongName", "file name too long", []string{"/" + strings.Repeat("x", 300)}, fault.MissingTool},
		{"LongArgument", "argument list too long", []string{"true", strings.Repeat("x", 200<<10)}, fault.Config},
		{"ZeroInArgument", "invalid argument", []string{"true", "a\x00b"}, fault.Config},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := h.spec
			spec.Args = c.args
			_, err := h.s.Run(t.Context(), spec)
			if fault.Of(err) != c.kind || !strings.Contains(strings.ToLower(fmt.Sprint(err)), c.says) {
				t.Errorf("%.300v (%s), want %q (%s)", err, fault.Of(err), c.says, c.kind)
			}
		})
	}
	if left := leftovers(mustOptions(t).State); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// pattern checks that it gets the same 251 bytes again and again.
type pattern struct {
	n   int64
	bad bool
}

func (p *pattern) Write(b []byte) (int, error) {
	for _, c := range b {
		p.bad = p.bad || c != byte(p.n%251)
		p.n++
	}
	return len(b), nil
}

// TestManyBytesOnBothStreams: 200 MB of bytes of all values on standard output
// and on standard error at the same time, with another 200 MB on the input.
func TestManyBytesOnBothStreams(t *testing.T) {
	h := newHost(t)
	const size = 200 << 20
	block := make([]byte, 251<<10)
	for i := range block {
		block[i] = byte(i % 251)
	}
	file, err := os.Create(filepath.Join(h.workspace, "bytes"))
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < size; n += len(block) {
		if _, err := file.Write(block[:min(len(block), size-n)]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out, errs pattern
	spec := h.spec
	spec.Args = []string{"sh", "-c", "cat bytes >&2 & cat; wait; exit 3"}
	spec.Stdin, spec.Stdout, spec.Stderr = struct{ io.Reader }{file}, &out, &errs // no file: it goes through pipes
	r, err := h.s.Run(t.Context(), spec)
	if err != nil || r.Status != 3 || out.n != size || errs.n != size || out.bad || errs.bad {
		t.Errorf("%+v, %v; %d (%v) and %d (%v) bytes", r, err, out.n, out.bad, errs.n, errs.bad)
	}
}

// TestStatsFile reads what distci-lxc writes about containers.
func TestStatsFile(t *testing.T) {
	newHost(t)
	o := mustOptions(t)
	file := filepath.Join(t.TempDir(), "stats")
	run := func(status int, args ...string) (s wire.Stats, raw map[string]any) {
		t.Helper()
		cmd := exec.Command(o.Program, append([]string{"--init", o.Init, "--state", o.State, "--rootfs", o.Root, "--stats", file}, args...)...)
		said, _ := cmd.CombinedOutput()
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
		if err == nil {
			err = json.Unmarshal(b, &raw)
		}
		if err != nil || cmd.ProcessState.ExitCode() != status || !bytes.HasSuffix(b, []byte("}\n")) {
			t.Fatalf("status %d, %v: %s\n%s", cmd.ProcessState.ExitCode(), err, said, b)
		}
		return s, raw
	}
	s, raw := run(9, "--memory", "64M", "--", "sh", "-c", "probe allocate 20000000; sleep 0.2; setsid sleep 600 & exit 9")
	for _, key := range []string{"status", "user_seconds", "system_seconds", "max_rss_bytes", "peak_memory_bytes", "start_seconds", "run_seconds", "stop_seconds", "leftovers", "container", "first_id"} {
		if raw[key] == nil {
			t.Errorf("no %s in %v", key, raw)
		}
	}
	if s.Status != 9 || s.Signal != 0 || s.OOM || s.DiskFull || s.Leftovers != 1 || s.Kept != "" || s.IDs == 0 || !strings.HasPrefix(s.Container, "distci.") ||
		s.PeakMemory < 20_000_000 || s.PeakMemory > 65<<20 || s.MaxRSS < 20_000_000 || s.User+s.System <= 0 || s.Start <= 0 || s.Run < 0.2 || s.Run > 60 || s.Stop <= 0 {
		t.Errorf("%+v", s)
	}
	if s, _ := run(137, "--memory", "32M", "--", "probe", "allocate", "1000000000"); !s.OOM || s.Signal != 9 || s.Status != 137 || s.PeakMemory < 30<<20 {
		t.Errorf("out of memory: %+v", s)
	}
	if s, _ := run(137, "--disk", "4M", "--user", "0", "--", "probe", "unlinked", "/var", "1"); !s.DiskFull || s.Signal != 9 {
		t.Errorf("too much disk: %+v", s)
	}
	if s, _ := run(124, "--timeout", "0.3", "--", "sleep", "600"); s.Signal != 15 || s.Status != 143 {
		t.Errorf("too much time: %+v", s)
	}
	s, _ = run(0, "--keep", "--user", "0", "--", "touch", "/kept")
	if _, err := os.Stat(filepath.Join(s.Kept, "kept")); err != nil {
		t.Errorf("%+v: %v", s, err)
	}
	if err := os.RemoveAll(filepath.Dir(s.Kept)); err != nil {
		t.Error(err)
	}
}

// TestLimitsAreReadFromOutside reads the limits of a container that runs, where
// the kernel has them.
func TestLimitsAreReadFromOutside(t *testing.T) {
	h := newHost(t)
	h.spec.Limits = sandbox.Limits{Memory: 100 << 20, CPUs: 1.5, Processes: 50, Disk: 30 << 20}
	reader, writer := io.Pipe()
	word := marker()
	h.spec.Args, h.spec.Stdout = []string{"sh", "-c", "echo begun; sleep " + word + " & read x"}, writer
	in, stop := io.Pipe()
	h.spec.Stdin = in
	done := make(chan error)
	go func() {
		_, err := h.s.Run(t.Context(), h.spec)
		writer.Close()
		done <- err
	}()
	if _, err := io.ReadFull(reader, make([]byte, len("begun\n"))); err != nil {
		t.Fatal(err)
	}
	pid := processOf(t, word)
	groups := map[string]string{} // by controller; "" is version 2
	b, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		for c := range strings.SplitSeq(f[1], ",") {
			groups[c] = f[2]
		}
	}
	read := func(v1, key1, key2 string) string {
		path := filepath.Join("/sys/fs/cgroup", v1, groups[v1], key1)
		if groups[v1] == "" {
			path = filepath.Join("/sys/fs/cgroup", groups[""], key2)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Error(err)
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
		return first
	}
	for _, c := range []struct{ got, want string }{
		{read("memory", "memory.limit_in_bytes", "memory.max"), strconv.Itoa(100 << 20)},
		{read("pids", "pids.max", "pids.max"), "51"}, // and the first process
		{read("cpu", "cpu.cfs_quota_us", "cpu.max"), "150000"},
	} {
		if c.got != c.want {
			t.Errorf("found %s, want %s", c.got, c.want)
		}
	}
	limits, err := os.ReadFile("/proc/" + pid + "/limits")
	for _, want := range []string{"Max file size             31457280             31457280", "Max core file size        0                    0"} {
		if err != nil || !strings.Contains(string(limits), want) {
			t.Errorf("no %q in %v\n%s", want, err, limits)
		}
	}
	stop.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// processOf finds the process that sleeps for so long, and nothing else.
func processOf(t *testing.T, word string) string {
	t.Helper()
	for {
		for _, p := range processes("sleep\x00" + word) {
			return strings.Split(p, "/")[2]
		}
		if t.Context().Err() != nil {
			t.Fatal("there is no such process")
		}
	}
}
