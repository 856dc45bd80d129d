package spine

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/rootfs"
)

// vault is an operator's folder of secrets, outside of the lab's.
type vault struct {
	t   *testing.T
	dir string
}

func newVault(t *testing.T) vault {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return vault{t, dir}
}

// grant gives a job a secret, and returns the value, which occurs nowhere else.
func (v vault) grant(job, name string) string {
	v.t.Helper()
	value := "value-" + rand.Text()
	path := filepath.Join(v.dir, job, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		v.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
		v.t.Fatal(err)
	}
	return value
}

// inEachSandbox runs a test with workers that have containers, and with workers
// that have none.
func inEachSandbox(t *testing.T, test func(t *testing.T, l *lab, worker func(name string, args ...string) *proc)) {
	t.Run("plain", func(t *testing.T) {
		l := newLab(t)
		l.frontend()
		test(t, l, func(name string, args ...string) *proc { return l.worker(name, args...) })
	})
	t.Run("lxc", func(t *testing.T) {
		rootfs.Need(t)
		l := newLab(t)
		l.frontend()
		test(t, l, l.containerWorkers())
	})
}

// containerWorkers returns what starts workers that run steps in containers.
func (l *lab) containerWorkers() func(name string, args ...string) *proc {
	l.t.Helper()
	programs, flags := l.containers()
	return func(name string, args ...string) *proc {
		l.t.Helper()
		all := append([]string{"--loop", "--name", name, "--state", l.path(name), "--session-timeout", "3s", "--path", programs}, flags...)
		return l.startCommand(name, l.env(), filepath.Join(programs, "distci-claim"), append(all, args...)...)
	}
}

// waits is the end of a script that says "begun" and goes on when goOn lets it.
const waits = "echo begun; while [ ! -e go ]; do sleep 0.02; done; rm go\n"

// goOn lets go of the steps of a worker that wait in their workspaces.
func (l *lab) goOn(worker string) {
	l.t.Helper()
	dirs, err := filepath.Glob(l.path(worker) + "/work/*/*/workspace")
	if err != nil || len(dirs) == 0 {
		l.t.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		if err := os.WriteFile(dir+"/go", nil, 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) begun(job string, n ticket.Number) {
	l.t.Helper()
	l.until(job+" to begin", func() bool {
		if l.state(job, n).Status == build.Complete {
			l.t.Fatalf("%s has ended:\n%s", job, l.console(job, n))
		}
		return strings.Contains(l.console(job, n), "begun\n")
	})
}

// contain lists the files below the folders that contain the text. Layers are
// compressed.
func contain(t *testing.T, text string, dirs ...string) (files []string) {
	t.Helper()
	zr, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer zr.Close()
	for _, dir := range dirs {
		filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return nil // it went away, as the working files of running programs do
			}
			b, _ := os.ReadFile(path)
			if bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")) {
				if b, err = zr.DecodeAll(b, nil); err != nil {
					t.Errorf("%s: %v", path, err)
				}
			}
			if bytes.Contains(b, []byte(text)) {
				files = append(files, path)
			}
			return nil
		})
	}
	return files
}

// held lists the files in memory that contain the text.
func held(t *testing.T, text string) []string {
	var dirs []string
	for _, base := range []string{"/run", "/dev/shm"} {
		found, _ := filepath.Glob(base + "/distci-secrets-*")
		dirs = append(dirs, found...)
	}
	return contain(t, text, dirs...)
}

// told lists the processes that have the text in their environment or arguments.
func told(text string) (processes []string) {
	for _, what := range []string{"environ", "cmdline"} {
		files, _ := filepath.Glob("/proc/[0-9]*/" + what)
		for _, f := range files {
			if b, _ := os.ReadFile(f); bytes.Contains(b, []byte(text)) {
				processes = append(processes, f)
			}
		}
	}
	return processes
}

// TestSecret follows a secret through a build: it is where its step looks for
// it while the step runs, and nowhere else at any time.
func TestSecret(t *testing.T) {
	inEachSandbox(t, func(t *testing.T, l *lab, worker func(string, ...string) *proc) {
		v := newVault(t)
		value, common := v.grant("deploy", "TOKEN"), v.grant("_all", "COMMON")
		worker("w", "--secrets", v.dir)
		script := quote(`
			ls "$DISTCI_SECRETS"; t=$DISTCI_SECRETS/TOKEN
			test -r $t && test ! -x $t; stat -c 'mode %a' $t; test "$(stat -c %u $t)" = "$(id -u)"
			if grep -slFf $t /proc/[0-9]*/environ /proc/[0-9]*/cmdline; then exit 9; fi
			echo canary > file
			echo "token $(cat $t), common $(cat $DISTCI_SECRETS/COMMON)"
			head -c 10 $t; dd if=$t bs=1 skip=10 2>/dev/null
			` + waits)
		l.job(`{"job_id": "deploy", "tasks": [
			{"type": "execute-shell", "secrets": ["TOKEN", "COMMON"], "params": {"script": ` + script + `}},
			{"type": "execute-shell", "params": {"script": "test -z \"$DISTCI_SECRETS\"; test ! -e /run/distci/secrets; cat file"}},
			{"type": "execute-shell", "secrets": ["COMMON"], "params": {"script": "ls $DISTCI_SECRETS; exit 3"}}]}`)
		n := l.trigger("deploy")
		l.begun("deploy", n)
		files := held(t, value)
		if len(files) != 1 || filepath.Base(files[0]) != "TOKEN" {
			t.Fatalf("while the step runs it is in %v", files)
		}
		if fi, err := os.Stat(filepath.Dir(filepath.Dir(files[0]))); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("the folder of the copies: %v, %v", fi.Mode(), err)
		}
		if p := told(value); p != nil {
			t.Errorf("processes are told the secret: %v", p)
		}
		l.goOn("w")
		s := l.finished("deploy", n)
		console := l.console("deploy", n)
		if s.Result != ticket.Failure || s.Tasks["2"].Error != "script: exit status 3" {
			t.Errorf("%s: %s, %s, %s", s.Result, s.Tasks["0"].Error, s.Tasks["1"].Error, s.Tasks["2"].Error)
		}
		for _, want := range []string{"\nCOMMON\nTOKEN\nmode 400\ntoken ***, common ***\n***\nbegun\n", "\ncanary\n", "attempt 1\nCOMMON\ndistci-exec: "} {
			if !strings.Contains(console, want) {
				t.Errorf("the console lacks %q:\n%s", want, console)
			}
		}
		for _, secret := range []string{value, common} {
			if files := contain(t, secret, l.dir); files != nil {
				t.Errorf("it is in %v", files)
			}
			if files := held(t, secret); files != nil {
				t.Errorf("after the step it is in %v", files)
			}
		}
		found := strings.Join(contain(t, "canary", l.dir), " ")
		if !strings.Contains(found, "/log/") || !strings.Contains(found, "/layers/sha256/") {
			t.Errorf("the search for secrets would not have found one in a log and a layer: %s", found)
		}
	})
}

// TestSecretNotGranted: naming a secret is not enough; the step is not begun, and
// not tried again.
func TestSecretNotGranted(t *testing.T) {
	inEachSandbox(t, func(t *testing.T, l *lab, worker func(string, ...string) *proc) {
		v := newVault(t)
		v.grant("deploy", "TOKEN")
		worker("w", "--secrets", v.dir)
		for job, name := range map[string]string{"thief": "TOKEN", "deploy": "KEY"} {
			l.job(`{"job_id": "` + job + `", "tasks": [{"type": "execute-shell", "secrets": ["` + name + `"], "params": {"script": "echo begun"}}]}`)
			n := l.trigger(job)
			s := l.finished(job, n)
			task, console := s.Tasks["0"], l.console(job, n)
			want := `secret "` + name + `" of job "` + job + `": this worker's operator has not granted it; to do so, put it into the file ` + job + "/" + name
			if s.Result != ticket.Error || task.Attempt != 1 || task.Fault != fault.Config || !strings.HasPrefix(task.Error, want) ||
				!strings.Contains(console, want) || strings.Contains(console, "begun") {
				t.Errorf("%s, attempt %d (%s): %s\n%s", s.Result, task.Attempt, task.Fault, task.Error, console)
			}
		}
	})
}

// TestSecretOfKilledWorker: what a worker has left that was killed is removed
// when another starts.
func TestSecretOfKilledWorker(t *testing.T) {
	inEachSandbox(t, func(t *testing.T, l *lab, worker func(string, ...string) *proc) {
		v := newVault(t)
		value := v.grant("deploy", "TOKEN")
		l.job(`{"job_id": "deploy", "tasks": [{"type": "execute-shell", "secrets": ["TOKEN"], "params": {"script": ` + quote(waits) + `}}]}`)
		first := worker("first", "--secrets", v.dir)
		n := l.trigger("deploy")
		l.begun("deploy", n)
		left := held(t, value)
		if len(left) != 1 {
			t.Fatalf("while the step runs it is in %v", left)
		}
		first.kill()
		worker("second", "--secrets", v.dir)
		l.until("what is left to go", func() bool {
			_, err := os.Stat(left[0])
			return err != nil
		})
		l.until("the step to begin again", func() bool { return strings.Count(l.console("deploy", n), "begun") == 2 })
		l.goOn("second")
		if s := l.finished("deploy", n); s.Result != ticket.Success || s.Tasks["0"].Attempt != 2 {
			t.Errorf("%s, attempt %d: %s", s.Result, s.Tasks["0"].Attempt, s.Tasks["0"].Error)
		}
		if files := held(t, value); files != nil {
			t.Errorf("in the end it is in %v", files)
		}
	})
}

// TestSecretsSideBySide: of two steps that run at the same time on a worker, in
// containers, none sees what is the other's.
func TestSecretsSideBySide(t *testing.T) {
	rootfs.Need(t)
	l := newLab(t)
	l.frontend()
	v := newVault(t)
	jobs := []string{"left", "right"}
	numbers := map[string]ticket.Number{}
	l.containerWorkers()("w", "--secrets", v.dir, "--jobs", "2")
	for _, job := range jobs {
		v.grant(job, "OF_"+job)
		l.job(`{"job_id": "` + job + `", "tasks": [{"type": "execute-shell", "secrets": ["OF_` + job + `"], "params": {"script": ` + quote(waits+`
			find / -name 'OF_*' 2>/dev/null || true
			ls /dev/shm /run $DISTCI_SECRETS/..
			(echo x > $DISTCI_SECRETS/NEW) 2>/dev/null && echo wrote
			chmod 600 $DISTCI_SECRETS/OF_* 2>/dev/null && echo changed
			rm -f $DISTCI_SECRETS/OF_* 2>/dev/null && echo removed
			true`) + `}}]}`)
		numbers[job] = l.trigger(job)
	}
	for _, job := range jobs {
		l.begun(job, numbers[job])
	}
	l.goOn("w")
	for _, job := range jobs {
		s := l.finished(job, numbers[job])
		_, console, _ := strings.Cut(l.console(job, numbers[job]), "begun\n")
		if s.Result != ticket.Success || console != "/run/distci/secrets/OF_"+job+"\n/dev/shm:\n\n/run:\ndistci\n\n/run/distci/secrets/..:\nbin\nsecrets\n" {
			t.Errorf("%s: %s: %s\n%s", job, s.Result, s.Tasks["0"].Error, console)
		}
	}
}

// task runs a job of one script with more members of the task's, to its end.
func (l *lab) task(job, more, script string) (*build.State, string) {
	l.t.Helper()
	l.job(`{"job_id": "` + job + `", "tasks": [{"type": "execute-shell", ` + more + `, "params": {"script": ` + quote(script) + `}}]}`)
	n := l.trigger(job)
	return l.finished(job, n), l.console(job, n)
}

// TestAsked: the limits and the network that a step asks for.
func TestAsked(t *testing.T) {
	rootfs.Need(t)
	l := newLab(t)
	l.frontend()
	l.containerWorkers()("w", "--memory", "268435456", "--network", "host")
	for job, c := range map[string]struct{ more, script, result, error string }{
		"memory": {`"limits": {"memory": "64M"}`, "probe allocate 1000000000", ticket.Failure, "out of memory: it used up to 6"},
		"child":  {`"limits": {"memory": "64M"}`, "probe allocate 1000000000 || true; echo on", ticket.Failure, "its limit is 64 MiB"},
		"most":   {`"limits": {"memory": "257M"}`, "true", ticket.Error, "limits.memory: the step asks for 269484032 bytes, and this worker's operator allows 268435456 (distci-claim --memory)"},
		"disk":   {`"limits": {"disk": "8M"}`, "i=0; while :; do dd if=/dev/zero of=$i bs=1M count=1 2>/dev/null; i=$((i+1)); done", ticket.Failure, "too much disk is used: its limit is 8 MiB"},
		"pids":   {`"limits": {"pids": 40}`, "i=0; while [ $i -lt 50 ]; do sleep 5 & i=$((i+1)); done", ticket.Failure, "script: "},
		"within": {`"limits": {"memory": "128M", "cpus": 1.5, "pids": 100, "disk": "100M"}`, "probe allocate 30000000", ticket.Success, ""},
		"none":   {`"network": "none"`, "cat /proc/net/dev", ticket.Success, ""},
		"host":   {`"network": "host"`, "readlink /proc/self/ns/net", ticket.Success, ""},
		"bridge": {`"network": "bridge:br0"`, "true", ticket.Error, `network: the step asks for "bridge:br0", and this worker's operator allows only none, host`},
	} {
		s, console := l.task(job, c.more, c.script)
		task := s.Tasks["0"]
		if s.Result != c.result || !strings.Contains(task.Error, c.error) || task.Attempt != 1 {
			t.Errorf("%s: %s, attempt %d: %s; want %s: %s\n%s", job, s.Result, task.Attempt, task.Error, c.result, c.error, console)
		}
		own, err := os.Readlink("/proc/self/ns/net")
		if job == "host" && (err != nil || !strings.Contains(console, own)) {
			t.Errorf("its network is not %s, %v:\n%s", own, err, console)
		}
		// The kernel's count may pass the limit by some pages before it says no.
		var used struct {
			Memory int64 `json:"memory_bytes"`
		}
		if raw := task.Extra["usage"]; (job == "memory" || job == "within") && (json.Unmarshal(raw, &used) != nil || used.Memory < 30_000_000 || used.Memory > 65<<20) {
			t.Errorf("%s: usage %s", job, raw)
		}
	}
}

// TestAskedWithoutContainers: what cannot be had is said in the log.
func TestAskedWithoutContainers(t *testing.T) {
	l := newLab(t)
	l.frontend()
	l.worker("w")
	s, console := l.task("j", `"limits": {"memory": "64M"}, "network": "none"`, "echo done")
	if want := "\ndistci: not in force, as this worker runs steps without containers: the step's limits, its network \"none\"\ndone\n"; s.Result != ticket.Success || !strings.Contains(console, want) {
		t.Errorf("%s:\n%s", s.Result, console)
	}
}

// TestSecretsByHand: a whole job, and a tool alone, without a worker.
func TestSecretsByHand(t *testing.T) {
	l := newLab(t)
	v := newVault(t)
	value := v.grant("deploy", "TOKEN")
	job := l.path("deploy.json")
	if err := os.WriteFile(job, []byte(`{"job_id": "deploy", "tasks": [
		{"type": "execute-shell", "secrets": ["TOKEN"], "params": {"script": "echo \"the token is $(cat $DISTCI_SECRETS/TOKEN)\""}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(stdin string, env []string, program string, args ...string) string {
		t.Helper()
		cmd := exec.Command(filepath.Join(bin, program), args...)
		cmd.Env, cmd.Dir, cmd.Stdin = append(l.env(), env...), l.dir, strings.NewReader(stdin)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	if out := run("", nil, "distci-buildctl", "run", "--secrets", v.dir, job); !strings.Contains(out, "the token is ***\n") || strings.Contains(out, value) {
		t.Error(out)
	}
	if files := held(t, value); files != nil {
		t.Errorf("it is left in %v", files)
	}
	out := run(`{"params": {"script": "cat $DISTCI_SECRETS/TOKEN"}}`, []string{"DISTCI_SECRETS=" + v.dir + "/deploy"}, "distci-exec")
	if !strings.Contains(out, value) {
		t.Error(out)
	}
}
