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
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/sandbox/sandboxtest"
	"github.com/distci/distci/lib/sandbox/wire"
	"github.com/distci/distci/test/need"
)

// userVar is set in a test's process that is an ordinary user's.
const userVar = "LXC_TEST_USER"

const (
	testUser  = 1000
	firstID   = 100_000_000 // of the user's ranges, of which there are ten
	rangeSize = 1 << 16
)

// user is an ordinary user with the set-up of distci-lxc(1).
type user struct {
	*place
	o   Options
	env []string
}

// newUser makes one, in a mount namespace of its own, so that the machine does
// not get to know it.
func newUser(t *testing.T) *user {
	t.Helper()
	newHost(t)
	need.Programs(t, "lxc", "newuidmap", "newgidmap")
	o, err := options()
	if err != nil {
		t.Fatal(err)
	}
	u := &user{place: newPlace(t, 0), o: o}
	u.ranges(fmt.Sprintf("tester:%d:%d\n", firstID, 10*rangeSize))
	for _, name := range []string{"home", "run", "tmp", "home/ws"} {
		path := filepath.Join(u.dir, name)
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, testUser, testUser); err != nil {
			t.Fatal(err)
		}
	}
	u.env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.dir + "/home", "XDG_RUNTIME_DIR=" + u.dir + "/run", "TMPDIR=" + u.dir + "/tmp"}
	return u
}

// ranges says what is in /etc/subuid and /etc/subgid.
func (u *user) ranges(text string) {
	u.t.Helper()
	passwd := fmt.Sprintf("root:x:0:0::/root:/bin/sh\ntester:x:%d:%[1]d::%s/home:/bin/sh\n", testUser, u.dir)
	u.etc(map[string]string{"passwd": passwd, "subuid": text, "subgid": text, "group": fmt.Sprintf("root:x:0:\ntester:x:%d:\n", testUser)})
}

func (u *user) home(path string) string { return filepath.Join(u.dir, "home", path) }

// state lists what there is of containers on disk.
func (u *user) state() []string {
	found, _ := filepath.Glob(u.home(".local/state/distci/lxc/*"))
	return found
}

// command is one of the user's.
func (u *user) command(args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env = u.home(""), u.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: testUser, Gid: testUser}}
	return cmd
}

// lxc is distci-lxc with these options.
func (u *user) lxc(args ...string) *exec.Cmd {
	return u.command(append([]string{u.o.Program, "--init", u.o.Init}, args...)...)
}

// TestUserSandbox has the user run the tests that all sandboxes must pass.
func TestUserSandbox(t *testing.T) {
	u := newUser(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(u.dir, "test") // the original is in a folder of root's
	if out, err := exec.Command("cp", exe, copied).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	o := u.o
	o.State = u.home("state")
	kit, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := u.command(copied, "-test.run=^TestInUser$", "-test.v")
	cmd.Env = append(u.env, userVar+"=1", kitVar+"="+string(kit))
	out, errs, status := u.run(cmd)
	t.Logf("%s\n%s", out, errs)
	if status != 0 || !strings.Contains(out, "--- PASS: TestInUser/KilledWorker") {
		t.Errorf("status %d", status)
	}
	if left, _ := filepath.Glob(u.home("state/*")); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestInUser is what TestUserSandbox runs.
func TestInUser(t *testing.T) {
	if os.Getenv(userVar) == "" {
		t.Skip("it is run by another test")
	}
	sandboxtest.Run(t, open)
}

// TestUser runs programs as people do by hand.
func TestUser(t *testing.T) {
	u := newUser(t)
	if out, errs, status := u.run(u.command(u.o.Program, "check")); status != 0 || !strings.HasPrefix(out, "containers can be made here") {
		t.Fatalf("check: status %d: %s%s", status, out, errs)
	}
	t.Run("Status", func(t *testing.T) {
		for _, want := range []int{0, 1, 200} {
			if _, errs, status := u.run(u.lxc("--rootfs", u.o.Root, "--", "sh", "-c", "exit "+strconv.Itoa(want))); status != want {
				t.Errorf("status %d, want %d: %s", status, want, errs)
			}
		}
	})
	t.Run("Streams", func(t *testing.T) {
		cmd := u.lxc("--rootfs", u.o.Root, "--", "sh", "-c", "cat; echo said >&2")
		cmd.Stdin = strings.NewReader("input")
		if out, errs, status := u.run(cmd); out != "input" || errs != "said" || status != 0 {
			t.Errorf("status %d: %q, %q", status, out, errs)
		}
	})
	t.Run("Workspace", func(t *testing.T) {
		ws := u.home("ws")
		script := "id -u; mkdir -p a/b; echo text >a/b/c; ln -s c a/b/d; touch ../etc/new && mkdir -p /etc/shut/in && chmod 0 /etc/shut"
		own := filepath.Join(u.dir, "root") // an image of the user's own: the program may change it
		if out, err := exec.Command("cp", "-a", u.o.Root, own).CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
		if out, err := exec.Command("chown", "-hR", fmt.Sprint(testUser, ":", testUser), own).CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
		if out, errs, status := u.run(u.lxc("--rootfs", own, "--workspace", ws, "--", "sh", "-c", script)); status != 0 || out != "1000" {
			t.Fatalf("status %d: %s%s", status, out, errs)
		}
		for _, name := range []string{"a", "a/b", "a/b/c", "a/b/d"} {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(ws, name), &st); err != nil || st.Uid != testUser || st.Gid != testUser {
				t.Errorf("%s: %d:%d, %v", name, st.Uid, st.Gid, err)
			}
		}
		for _, name := range []string{"etc/new", "etc/shut"} {
			if _, err := os.Lstat(filepath.Join(own, name)); err == nil {
				t.Errorf("%s is in the image", name)
			}
		}
	})
	t.Run("ReadOnly", func(t *testing.T) {
		_, errs, status := u.run(u.lxc("--rootfs", u.o.Root, "--read-only", "--user", "0", "--", "sh", "-c", "touch /tmp/x && ! touch /x"))
		if status != 0 || !strings.Contains(errs, "Read-only file system") {
			t.Errorf("status %d: %s", status, errs)
		}
	})
	t.Run("Image", func(t *testing.T) {
		if _, errs, status := u.run(u.command(u.o.Program, "image", "import", "base", u.o.Root)); status != 0 {
			t.Fatalf("import: status %d: %s", status, errs)
		}
		out, errs, status := u.run(u.lxc("--image", "base", "--", "sh", "-c", "echo changed >/etc/passwd; cat /etc/passwd"))
		if status != 0 || out != "changed" {
			t.Errorf("status %d: %s%s", status, out, errs)
		}
		if _, errs, status := u.run(u.command(u.o.Program, "image", "verify", "base")); status != 0 {
			t.Errorf("the image has changed: %s", errs)
		}
	})
	t.Run("HostNetwork", func(t *testing.T) {
		out, errs, status := u.run(u.lxc("--rootfs", u.o.Root, "--network", "host", "--", "sh", "-c", "cat /proc/net/dev; cat /etc/resolv.conf"))
		want, err := os.ReadFile("/etc/resolv.conf")
		if err != nil {
			t.Skip(err)
		}
		if status != 0 || !strings.HasSuffix(out, strings.TrimSpace(string(want))) {
			t.Errorf("status %d: %s%s", status, out, errs)
		}
	})
	t.Run("BridgeIsRefused", func(t *testing.T) {
		if _, errs, status := u.run(u.lxc("--rootfs", u.o.Root, "--network", "bridge:b", "--", "true")); status != 78 || !strings.Contains(errs, "only root can connect") {
			t.Errorf("status %d: %s", status, errs)
		}
	})
	if left := u.state(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestUserKilled kills distci-lxc while programs run, and its engine.
func TestUserKilled(t *testing.T) {
	u := newUser(t)
	for i, victim := range []string{"Worker", "Engine", "Worker"} {
		word := fmt.Sprintf("%d.%d", 500_000+os.Getpid(), i)
		cmd := u.lxc("--rootfs", u.o.Root, "--", "sh", "-c", "setsid sleep $1 & echo ready; sleep $1", "sh", word)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		u.start(cmd)
		if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		pid := cmd.Process.Pid
		if victim == "Engine" {
			pid = child(pid, func(c string) bool { return strings.HasSuffix(c, "engine\x00") })
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		eventually(t, "nothing is left", func() string {
			b, _ := os.ReadFile("/proc/self/mountinfo")
			if strings.Contains(string(b), u.home("")) {
				return "a mount"
			}
			return strings.Join(append(processes(word), u.state()...), "\n")
		})
	}
}

// eventually waits until nothing is wrong; the limit only ends a test that
// fails.
func eventually(t *testing.T, what string, wrong func() string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		w := wrong()
		if w == "" {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never came true: %s: %s", what, w)
		}
	}
}

// TestUserAfterPowerLoss has in the way of a container what one has left whose
// file system was in the middle of a change, and no note of it.
func TestUserAfterPowerLoss(t *testing.T) {
	u := newUser(t)
	state := u.home(".local/state/distci/lxc")
	stale := filepath.Join(state, fmt.Sprintf("distci.%d.0", testUser))
	if _, errs, status := u.run(u.lxc("--rootfs", u.o.Root, "--", "true")); status != 0 {
		t.Fatal(errs)
	}
	for _, d := range []struct {
		path string
		id   int
		mode os.FileMode
	}{
		{stale, testUser, 0o711}, {stale + "/root", testUser, 0o755}, {stale + "/root/work", testUser, 0o755}, {stale + "/root/work/work", firstID, 0},
		{stale + "/root/work/work/#1", firstID + 7, 0o700}, {stale + "/root/work/work/#1/x", firstID + 7, 0},
	} {
		if err := os.Mkdir(d.path, d.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(d.path, d.id, d.id); err != nil {
			t.Fatal(err)
		}
	}
	if out, errs, status := u.run(u.lxc("--rootfs", u.o.Root, "--", "echo", "well")); status != 0 || out != "well" {
		t.Errorf("status %d: %s", status, errs)
	}
	if left := u.state(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// TestUserLimits asks for limits without control groups that are the user's,
// and with.
func TestUserLimits(t *testing.T) {
	u := newUser(t)
	limits := map[string][]string{"memory": {"--memory", "64M"}, "processes": {"--pids", "20"}, "processors": {"--cpus", "0.5"}}
	for what, flags := range limits {
		t.Run("Refused/"+what, func(t *testing.T) {
			_, errs, status := u.run(u.lxc(append(flags, "--rootfs", u.o.Root, "--", "true")...))
			if status != 78 || !strings.Contains(errs, "no limit on "+what+": ") || !strings.Contains(errs, "do without the limit, or ") {
				t.Errorf("status %d: %s", status, errs)
			}
		})
	}
	var groups []string
	for _, c := range []string{"memory", "pids", "cpu", "cpuacct"} {
		dir := filepath.Join("/sys/fs/cgroup", c, fmt.Sprint("distci-test-", os.Getpid()))
		if _, err := os.Stat(filepath.Join("/sys/fs/cgroup", c, "tasks")); err != nil {
			t.Skipf("no control groups of version 1 for %s: with version 2 only root can limit", c)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = os.Remove(filepath.Join(dir, "lxc.pivot")) // LXC keeps it for itself
			eventually(t, "the group can be removed", func() string {
				if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
					return err.Error()
				}
				return ""
			})
		})
		for _, f := range []string{"", "cgroup.procs", "tasks"} {
			if err := os.Chown(filepath.Join(dir, f), testUser, testUser); err != nil {
				t.Fatal(err)
			}
		}
		groups = append(groups, filepath.Join(dir, "cgroup.procs"))
	}
	// delegated runs distci-lxc in the user's own groups.
	delegated := func(args ...string) (string, string, int, wire.Stats) {
		file := u.home("stats")
		_ = os.Remove(file)
		cmd := u.lxc(append([]string{"--stats", file, "--rootfs", u.o.Root}, args...)...)
		cmd.Args = append([]string{"sh", "-c", "for g in " + strings.Join(groups, " ") + `; do echo $$ >$g; done; exec "$@"`, "sh"}, cmd.Args...)
		cmd.Path = "/bin/sh"
		out, errs, status := u.run(cmd)
		var stats wire.Stats
		b, err := os.ReadFile(file)
		if err == nil {
			err = json.NewDecoder(bytes.NewReader(b)).Decode(&stats)
		}
		if err != nil {
			t.Errorf("%v: %s", err, errs)
		}
		return out, errs, status, stats
	}
	t.Run("Memory", func(t *testing.T) {
		_, errs, status, stats := delegated("--memory", "64M", "--", "probe", "allocate", "1000000000")
		if status != 137 || !stats.OOM || stats.PeakMemory < 60<<20 || stats.PeakMemory > 65<<20 || !strings.Contains(errs, "out of memory") {
			t.Errorf("status %d, %+v: %s", status, stats, errs)
		}
	})
	t.Run("Processes", func(t *testing.T) {
		out, errs, status, _ := delegated("--pids", "20", "--", "sh", "-c", "i=0; while [ $i -lt 40 ]; do sleep 60 & i=$((i+1)); done")
		if status == 0 || !strings.Contains(strings.ToLower(out+errs), "fork") {
			t.Errorf("status %d: nothing was refused: %s%s", status, out, errs)
		}
	})
	t.Run("Processors", func(t *testing.T) {
		_, errs, status, stats := delegated("--cpus", "0.2", "--", "sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done")
		if status != 0 || stats.User+stats.System > 0.5*stats.Run+0.1 {
			t.Errorf("status %d, %+v: %s", status, stats, errs)
		}
	})
	for _, g := range groups {
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(g), "lxc.[mp]*.distci*")); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}

// TestUserCounters runs a container whose processes are in a group with others:
// what those use is not its.
func TestUserCounters(t *testing.T) {
	u := newUser(t)
	file := u.home("stats")
	if _, errs, status := u.run(u.lxc("--stats", file, "--rootfs", u.o.Root, "--", "true")); status != 0 {
		t.Fatal(errs)
	}
	var stats wire.Stats
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &stats)
	}
	if err != nil || stats.OOM || stats.PeakMemory != 0 || stats.User+stats.System > stats.Run+1 {
		t.Errorf("%s, %v", b, err)
	}
}

// TestUserCheck takes away one thing at a time: the check and the attempt to
// run something say what it is and what to do.
func TestUserCheck(t *testing.T) {
	u := newUser(t)
	says := func(t *testing.T, want string, change func(cmd *exec.Cmd)) {
		t.Helper()
		for _, cmd := range []*exec.Cmd{u.command(u.o.Program, "check"), u.lxc("--rootfs", u.o.Root, "--", "true")} {
			change(cmd)
			if _, errs, status := u.run(cmd); status != 78 || !strings.Contains(errs, want) || strings.Count(errs, "\n") > 0 {
				t.Errorf("%v: status %d: %s; want %q", cmd.Args[1:], status, errs, want)
			}
		}
	}
	path := func(dir string) func(*exec.Cmd) {
		return func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "PATH="+dir) }
	}
	t.Run("NoHelpers", func(t *testing.T) {
		says(t, "there is no newuidmap in PATH: install it (Debian: uidmap); there is no newgidmap in PATH", path(filepath.Join(u.dir, "nothing")))
	})
	t.Run("HelpersNotSetUID", func(t *testing.T) {
		for _, name := range []string{"newuidmap", "newgidmap"} {
			if err := os.WriteFile(filepath.Join(u.dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		says(t, "/newuidmap is not set-user-ID root: chown root "+u.dir+"/newuidmap; chmod 4755 ", path(u.dir))
	})
	t.Run("NoNewPrivileges", func(t *testing.T) {
		setpriv, err := exec.LookPath("setpriv")
		if err != nil {
			t.Skip(err)
		}
		says(t, "no_new_privs: in a systemd unit, NoNewPrivileges=no", func(cmd *exec.Cmd) {
			cmd.Args, cmd.Path = append([]string{"setpriv", "--no-new-privs", cmd.Path}, cmd.Args[1:]...), setpriv
		})
	})
	t.Run("HomeOfOthers", func(t *testing.T) {
		if err := os.Chown(u.home(""), testUser, 12345); err != nil {
			t.Fatal(err)
		}
		defer os.Chown(u.home(""), testUser, testUser)
		says(t, "cannot pass through "+u.home("")+": chmod o+x "+u.home(""), func(*exec.Cmd) {})
	})
	t.Run("NoRanges", func(t *testing.T) {
		for _, text := range []string{"", "somebody:100000000:65536\n", "tester:100000000:1000\n"} {
			u.ranges(text)
			says(t, "give user 1000 no range of 65536 ids in common: as root, usermod --add-subuids", func(*exec.Cmd) {})
		}
	})
}
