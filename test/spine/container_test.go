package spine

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/rootfs"
)

// containers makes the programs and an image for workers that run steps in
// containers. It returns the folder of the programs, and the flags.
func (l *lab) containers() (programs string, flags []string) {
	l.t.Helper()
	dir, err := os.MkdirTemp("", "distci-kit-")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // containers' users pass through it
		l.t.Fatal(err)
	}
	kit, err := rootfs.Make(dir)
	if err != nil {
		l.t.Fatal(err)
	}
	entries, err := os.ReadDir(bin)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "distci-lxc" { // bin has the one without LXC
			if err := os.Link(filepath.Join(bin, e.Name()), filepath.Join(kit.Bin, e.Name())); err != nil {
				l.t.Fatal(err)
			}
		}
	}
	images := filepath.Join(dir, "images")
	cmd := exec.Command(kit.Program, "image", "import", "small", kit.Root, "--images", images)
	cmd.Env = l.env()
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("import: %v: %s", err, out)
	}
	return kit.Bin, []string{"--sandbox", "lxc", "--image", "small", "--images", images}
}

// TestContainers runs a build whose steps are in containers of their own: they
// share the workspace and nothing else, publish and copy, and leave nothing.
func TestContainers(t *testing.T) {
	rootfs.Need(t)
	l := newLab(t)
	programs, flags := l.containers()
	l.frontend()
	secret := l.path("secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	worker := func(name string) *proc {
		return l.startCommand(name, append(l.env(), "WORKERS_SECRET=x"), filepath.Join(programs, "distci-claim"),
			append([]string{"--loop", "--name", name, "--state", l.path("state-" + name), "--path", programs}, flags...)...)
	}
	worker("w")
	l.job(`{"job_id": "made", "tasks": [
		{"type": "execute-shell", "image": "small", "params": {"script": "echo user $(id -u); echo text > file; mkdir sub; ln -s /etc/passwd sub/link; echo x > /tmp/left; sleep 4711 & setsid nohup sleep 4711 >/dev/null 2>&1 &"}},
		{"type": "execute-shell", "params": {"script": "set -e; cat file; test -L sub/link; test ! -e /tmp/left; test ! -e ` + secret + `; test -z \"$WORKERS_SECRET\"; test \"$(pwd)\" = /workspace; ps | cat; echo more >> file"}},
		{"type": "publish-artifacts", "params": {"artifacts": ["file"]}}]}`)
	l.job(`{"job_id": "used", "tasks": [
		{"type": "copy-artifacts", "params": {"job": "made", "artifacts": ["file"]}},
		{"type": "execute-shell", "params": {"script": "cat file; exit 7"}}]}`)
	n := l.trigger("made")
	s := l.finished("made", n)
	console := l.console("made", n)
	if s.Result != ticket.Success || !strings.Contains(console, "user 1000\n") || strings.Contains(console, "4711") {
		t.Fatalf("%s:\n%s", s.Result, console)
	}
	n = l.trigger("used")
	s = l.finished("used", n)
	console = l.console("used", n)
	if s.Result != ticket.Failure || !strings.Contains(console, "text\nmore\n") || !strings.Contains(s.Tasks["1"].Error, "7") {
		t.Fatalf("%s (%s):\n%s", s.Result, s.Tasks["1"].Error, console)
	}
	for _, m := range l.members() {
		if m.Kind == "worker" && (!slices.Contains(m.Capabilities, "image_small") || !strings.Contains(m.Sandbox, "container")) {
			t.Errorf("the worker says of itself: %+v", m)
		}
	}
}

// TestContainerKilled: when a worker is killed in a step, its container goes,
// and another worker does the step again.
func TestContainerKilled(t *testing.T) {
	rootfs.Need(t)
	l := newLab(t)
	programs, flags := l.containers()
	l.frontend()
	worker := func(name string) *proc {
		return l.startCommand(name, l.env(), filepath.Join(programs, "distci-claim"),
			append([]string{"--loop", "--name", name, "--session-timeout", "2s", "--state", l.path("state-" + name), "--path", programs}, flags...)...)
	}
	l.job(`{"job_id": "long", "tasks": [
		{"type": "execute-shell", "params": {"script": "echo first > file"}},
		{"type": "execute-shell", "params": {"script": "cat file; if [ ! -e again ]; then touch again; echo begun; sleep 4712; fi"}}]}`)
	first := worker("first")
	n := l.trigger("long")
	l.until("the step to begin", func() bool { return strings.Contains(l.console("long", n), "begun") })
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-first.Done
	l.until("its processes to go", func() bool {
		out, _ := exec.Command("pgrep", "-f", "sleep 4712").Output()
		return len(out) == 0
	})
	worker("second")
	l.until("the step to begin again", func() bool { return strings.Count(l.console("long", n), "begun") == 2 })
	if err := l.Cancel(t.Context(), "long", n); err != nil {
		t.Fatal(err)
	}
	if s := l.finished("long", n); s.Result != ticket.Canceled || s.Tasks["1"].Attempt != 2 {
		t.Errorf("%s, attempt %d", s.Result, s.Tasks["1"].Attempt)
	}
}
