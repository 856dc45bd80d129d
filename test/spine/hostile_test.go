package spine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/rootfs"
)

// TestEndlessOutput: a step that prints without end fails, and says why; what it
// printed up to there is kept, and others are not disturbed.
func TestEndlessOutput(t *testing.T) {
	l := newLab(t)
	l.frontend()
	l.worker("w", "--jobs", "2", "--log-limit", "100000")
	l.job(`{"job_id": "endless", "tasks": [
		{"type": "execute-shell", "params": {"script": "echo the first line; yes"}}]}`)
	l.job(`{"job_id": "quick", "tasks": [
		{"type": "execute-shell", "params": {"script": "head -c 200000 /dev/zero | tr '\\0' x; exit 0"}}]}`)
	l.shellJob("other", "echo fine")
	n, q, o := l.trigger("endless"), l.trigger("quick"), l.trigger("other")
	s := l.finished("endless", n)
	console := l.console("endless", n)
	if s.Result != ticket.Failure || !strings.Contains(s.Tasks["0"].Error, "too much output") || !strings.Contains(s.Tasks["0"].Error, "100000") || s.Tasks["0"].Attempt != 1 {
		t.Errorf("%s: %+v", s.Result, s.Tasks["0"])
	}
	if !strings.Contains(console, "the first line\ny\ny\n") || !strings.Contains(console, "\ndistci: failure: too much output") || len(console) < 100_000 || len(console) > 105_000 {
		t.Errorf("a console of %d bytes: %.200s … %.500s", len(console), console, console[max(0, len(console)-500):])
	}
	// One that is through before anybody has looked has failed as well.
	if s := l.finished("quick", q); s.Result != ticket.Failure || !strings.Contains(s.Tasks["0"].Error, "too much output") {
		t.Errorf("%s: %+v", s.Result, s.Tasks["0"])
	}
	if s := l.finished("other", o); s.Result != ticket.Success {
		t.Errorf("another build: %s", s.Result)
	}
}

// hostileTool is one that speaks REST, as distci-publish does.
const hostileTool = `#!/bin/sh
t=$(cat)
for r in "POST $OWN/artifacts" "POST $OTHER/artifacts" "PUT $OTHER/artifacts/00000000-0000-7000-8000-000000000000" "POST $OTHER/console" "POST $OWN/cancel" \
	"DELETE $OWN" "PUT /jobs/own" "POST /jobs/own/builds" "GET /tasks" "POST /tasks" "GET /members" "GET /queue" "GET /" "PUT $OTHER/state" "POST $OTHER/../1/artifacts"; do
	probe rest $r >&2
done
probe connect unix /run/distci/api >&2
ls -A /run/distci >&2
printf %s "$t"
`

// TestContainerIsScoped: what a step in a container finds of its worker is the
// socket for its own build, behind which there is nothing of others.
func TestContainerIsScoped(t *testing.T) {
	rootfs.Need(t)
	l := newLab(t)
	programs, flags := l.containers()
	if err := os.WriteFile(filepath.Join(programs, "distci-hostile"), []byte(strings.NewReplacer("$OWN", "/jobs/own/builds/1", "$OTHER", "/jobs/other/builds/1").Replace(hostileTool)), 0o755); err != nil {
		t.Fatal(err)
	}
	l.frontend()
	l.startCommand("w", append(l.env(), "WORKERS_SECRET=hunter2"), filepath.Join(programs, "distci-claim"),
		append([]string{"--loop", "--name", "w", "--state", l.path("state"), "--path", programs}, flags...)...)
	l.shellJob("other", "echo fine")
	l.finished("other", l.trigger("other"))
	l.job(`{"job_id": "own", "tasks": [{"type": "hostile"},
		{"type": "execute-shell", "params": {"script": "env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'; ls -A /run/distci /run/distci/*; ls -l /proc/self/fd | wc -l; cat /proc/net/unix; cat /proc/net/tcp"}}]}`)
	n := l.trigger("own")
	s := l.finished("own", n)
	console := l.console("own", n)
	if s.Result != ticket.Success {
		t.Fatalf("%s: %s", s.Result, console)
	}
	for line := range strings.Lines(console) {
		method, _, rest := strings.Cut(line, " /")
		if !rest || method != "GET" && method != "PUT" && method != "POST" && method != "DELETE" {
			continue
		}
		own := strings.HasPrefix(line, "POST /jobs/own/builds/1/artifacts: ")
		if refused := strings.HasSuffix(line, ": 403\n") || strings.HasSuffix(line, ": 404\n"); refused == own {
			t.Errorf("its own build's %v: %s", own, line)
		}
	}
	if n := strings.Count(console, ": 403\n"); n < 12 {
		t.Errorf("%d requests were refused: %s", n, console)
	}
	for _, secret := range []string{"hunter2", "WORKERS_SECRET", "coord.db", "DISTCI_COORD", "DISTCI_STORE", l.dir, "local:", "dir:"} {
		if strings.Contains(console, secret) {
			t.Errorf("the steps found %q: %s", secret, console)
		}
	}
}

// TestPlantedForTheWorker: links that a step leaves lead neither a later tool,
// nor the worker that takes and restores layers, nor its clean-up to the host's
// files.
func TestPlantedForTheWorker(t *testing.T) {
	rootfs.Need(t)
	l := newLab(t)
	programs, flags := l.containers()
	l.frontend()
	canary := t.TempDir()
	if err := os.WriteFile(filepath.Join(canary, "secret"), []byte("hunter2"), 0o644); err != nil {
		t.Fatal(err)
	}
	start := func(name string) *proc {
		return l.startCommand(name, l.env(), filepath.Join(programs, "distci-claim"),
			append([]string{"--loop", "--name", name, "--state", l.path("state-" + name), "--path", programs}, flags...)...)
	}
	first := start("first")
	plant := `mkdir d; echo x > d/f; ln -s ` + canary + ` out; ln -s ` + canary + `/secret leak; ln -s ../../../../../../../.. up; mkdir -p shut/s; chmod 000 shut`
	for name, artifacts := range map[string]string{"all": `["**"]`, "through": `["out/secret"]`, "link": `["leak"]`, "swapped": `["d/secret"]`,
		"upwards": `["up` + canary + `/secret"]`, "none": `["fine"]`} {
		l.job(`{"job_id": "` + name + `", "tasks": [{"type": "execute-shell", "params": {"script": ` + quote(plant) + `}},
			{"type": "execute-shell", "params": {"script": "rm -rf d; ln -s ` + canary + ` d; test ! -e out/secret; echo y > fine"}},
			{"type": "publish-artifacts", "params": {"artifacts": ` + artifacts + `}}]}`)
		s := l.finished(name, l.trigger(name))
		want := ticket.Failure
		if name == "none" {
			want = ticket.Success
		}
		if s.Result != want {
			t.Errorf("%s: %s: %s", name, s.Result, l.console(name, 1))
		}
		for _, a := range s.Artifacts {
			if p := strings.Join(a, "/"); strings.Contains(p, "secret") || strings.Contains(p, "leak") {
				t.Errorf("%s: published %s", name, p)
			}
		}
	}
	if err := first.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-first.Done
	if out, err := exec.Command("grep", "-rl", "hunter2", l.store, l.path("state-first")).CombinedOutput(); err == nil {
		t.Errorf("the host's secret is in %s", out)
	}
	if b, err := os.ReadFile(filepath.Join(canary, "secret")); string(b) != "hunter2" || err != nil {
		t.Errorf("the host's file: %q, %v", b, err)
	}
	if entries, err := os.ReadDir(canary); len(entries) != 1 {
		t.Errorf("the host's folder: %v, %v", entries, err)
	}
	if left, _ := filepath.Glob(l.path("state-first/work/*")); len(left) > 0 {
		t.Errorf("the worker left %q", left)
	}
}
