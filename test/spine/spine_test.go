package spine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// threeSteps is a job whose second step hangs on its first attempt, with a
// child of its own session that does not listen to SIGTERM.
func (l *lab) threeSteps(sleep string) {
	l.shellJob("three",
		fmt.Sprintf("echo 0 >>%s; echo one >file", l.outside("ran")),
		fmt.Sprintf(`echo 1 >>%[1]s
test "$(cat file)" = one
test ! -e more
echo two >more
if [ ! -e %[2]s ]; then
	setsid sh -c 'trap "" TERM; sleep %[3]s; sleep %[3]s' &
	touch %[2]s
	sleep %[3]s
fi`, l.outside("ran"), l.outside("hung"), sleep),
		fmt.Sprintf("echo 2 >>%s; cat file more", l.outside("ran")))
}

// TestKilledWorker: of a worker that is killed in the middle of the second
// step, another one redoes just that step, from the workspace as the first has
// left it.
func TestKilledWorker(t *testing.T) { inEach(t, testKilledWorker) }

func testKilledWorker(t *testing.T, l *lab) {
	l.frontend()
	l.threeSteps("61001")
	n := l.trigger("three")
	first := l.worker("first")
	l.until("step 1 hangs", l.exists("hung"))
	first.kill()
	l.until("the dead worker's processes are gone", func() bool { return !alive("61001") })
	l.worker("second")
	s := l.finished("three", n)
	if s.Result != ticket.Success {
		t.Errorf("result %q", s.Result)
	}
	if got := l.lines("ran"); !slices.Equal(got, []string{"0", "1", "1", "2"}) {
		t.Errorf("steps ran as %v", got)
	}
	if a0, a1, a2 := s.Tasks["0"].Attempt, s.Tasks["1"].Attempt, s.Tasks["2"].Attempt; a0 != 1 || a1 != 2 || a2 != 1 {
		t.Errorf("attempts %d, %d, %d", a0, a1, a2)
	}
	log := l.console("three", n)
	for _, want := range []string{"attempt 2", "the attempt before, on first, ended without a result", "one\ntwo\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
}

// TestPausedWorker: a worker that wakes up after its session has expired
// commits nothing.
func TestPausedWorker(t *testing.T) { inEach(t, testPausedWorker) }

func testPausedWorker(t *testing.T, l *lab) {
	l.frontend()
	l.threeSteps("61002")
	n := l.trigger("three")
	first := l.worker("first")
	l.until("step 1 hangs", l.exists("hung"))
	first.Process.Signal(syscall.SIGSTOP)
	l.worker("second")
	s := l.finished("three", n)
	first.Process.Signal(syscall.SIGCONT)
	l.until("the first worker finds out", func() bool { return strings.Contains(first.stderr(), "the claim can no longer be relied on") })
	l.until("its step is gone", func() bool { return !alive("61002") })
	if s.Result != ticket.Success || s.Tasks["1"].Attempt != 2 {
		t.Errorf("%q, attempt %d", s.Result, s.Tasks["1"].Attempt)
	}
	if again := l.state("three", n); again.Tasks["1"].Attempt != 2 || again.Result != ticket.Success {
		t.Errorf("the late worker has changed the build: %+v", again)
	}
	if got := l.lines("ran"); !slices.Equal(got, []string{"0", "1", "1", "2"}) {
		t.Errorf("steps ran as %v", got)
	}
	// It is a worker like any other again.
	if m := l.trigger("three"); l.finished("three", m).Result != ticket.Success {
		t.Error("the next build fails")
	}
}

// TestKilledFrontend: nothing is lost with a frontend.
func TestKilledFrontend(t *testing.T) { inEach(t, testKilledFrontend) }

func testKilledFrontend(t *testing.T, l *lab) {
	f := l.frontend()
	l.shellJob("slow", "until [ -e "+l.outside("go")+" ]; do sleep 0.05; done; echo went")
	n := l.trigger("slow")
	l.worker("w")
	l.until("the step runs", func() bool {
		s := l.state("slow", n)
		return s.Tasks["0"] != nil && s.Tasks["0"].Status == ticket.Running
	})
	f.kill()
	if err := os.WriteFile(l.outside("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l.frontend()
	if s := l.finished("slow", n); s.Result != ticket.Success || !strings.Contains(l.console("slow", n), "went\n") {
		t.Errorf("%+v", s)
	}
	if m := l.trigger("slow"); m != n+1 {
		t.Errorf("the next build is %d after %d", m, n)
	}
}

// TestManyWorkers: two frontends and ten worker processes run 200 builds of
// three steps; every step exactly once, numbers without a gap.
func TestManyWorkers(t *testing.T) { inEach(t, testManyWorkers) }

func testManyWorkers(t *testing.T, l *lab) {
	const workers = 10
	builds := 200
	if l.contained() {
		builds = 40 // of 200 containers, which is enough of them at the same time
	}
	l.frontend()
	one := l.Client
	l.frontend()
	two := l.Client
	// Appending a short line is atomic.
	step := func(i int) string { return fmt.Sprintf("echo $BUILD_NUMBER.%d >>%s", i, l.outside("ran")) }
	l.shellJob("many", step(0), step(1), step(2))
	for i := range workers {
		l.worker(fmt.Sprint("w", i), "--session-timeout", "30s")
	}
	var numbers []ticket.Number
	for i := range builds {
		l.Client = one
		if i%2 == 1 {
			l.Client = two
		}
		numbers = append(numbers, l.trigger("many"))
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != ticket.Number(i+1) {
			t.Fatalf("numbers %v", numbers)
		}
		if s := l.finished("many", n); s.Result != ticket.Success {
			t.Errorf("build %d: %+v", n, s)
		}
	}
	ran := l.lines("ran")
	slices.Sort(ran)
	if len(ran) != 3*builds || len(slices.Compact(ran)) != 3*builds {
		t.Errorf("%d steps ran, %d different ones", len(ran), len(slices.Compact(ran)))
	}
	if ids, err := l.Tasks(t.Context()); err != nil || len(ids) > 0 {
		t.Errorf("tickets left: %v, %v", ids, err)
	}
}

func TestCancel(t *testing.T) { inEach(t, testCancel) }

func testCancel(t *testing.T, l *lab) {
	l.frontend()
	l.worker("w")
	l.shellJob("long", "touch "+l.outside("hung")+"; sleep 61003", "echo never >>"+l.outside("ran"))
	n := l.trigger("long")
	l.until("the step runs", l.exists("hung"))
	if err := l.Cancel(t.Context(), "long", n); err != nil {
		t.Fatal(err)
	}
	s := l.finished("long", n)
	if s.Result != ticket.Canceled || s.Tasks["0"].Result != ticket.Canceled || len(l.lines("ran")) > 0 {
		t.Errorf("%+v", s)
	}
	if alive("61003") {
		t.Error("the step's process lives on")
	}
	// Without a worker for it, a waiting build ends at once, too.
	l.job(`{"job_id":"waits","tasks":[{"type":"execute-shell","labels":["nobody"],"params":{"script":":"}}]}`)
	n = l.trigger("waits")
	l.until("it waits", func() bool { return l.state("waits", n).Status == build.Running })
	if err := l.Cancel(t.Context(), "waits", n); err != nil {
		t.Fatal(err)
	}
	if s := l.finished("waits", n); s.Result != ticket.Canceled {
		t.Errorf("%+v", s)
	}
}

// TestSignals: TERM lets the running step end; a second one gives the ticket
// back, and the attempt does not count.
func TestSignals(t *testing.T) { inEach(t, testSignals) }

func testSignals(t *testing.T, l *lab) {
	l.frontend()
	l.shellJob("two", "touch "+l.outside("hung")+"; until [ -e "+l.outside("go")+" ]; do sleep 0.05; done", "echo second")
	n := l.trigger("two")
	w := l.worker("w")
	l.until("the step runs", l.exists("hung"))
	w.Process.Signal(syscall.SIGTERM)
	l.until("it says so", func() bool { return strings.Contains(w.stderr(), "finishing what runs") })
	w.Process.Signal(syscall.SIGTERM)
	if status := w.status(); status != 0 {
		t.Errorf("status %d", status)
	}
	s := l.state("two", n)
	if task := s.Tasks["0"]; task.Status != ticket.Pending || task.Spared != 1 {
		t.Errorf("given back as %+v", task)
	}
	os.Remove(l.outside("hung"))
	w = l.worker("w")
	l.until("the step runs again", l.exists("hung"))
	w.Process.Signal(syscall.SIGTERM)
	l.until("it says so", func() bool { return strings.Contains(w.stderr(), "finishing what runs") })
	if err := os.WriteFile(l.outside("go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if status := w.status(); status != 0 {
		t.Errorf("status %d", status)
	}
	s = l.state("two", n)
	if a, b := s.Tasks["0"], s.Tasks["1"]; a.Result != ticket.Success || b.Status != ticket.Pending || b.ID == "" {
		t.Errorf("after the drain: %+v, %+v", a, b)
	}
	l.worker("w")
	if s := l.finished("two", n); s.Result != ticket.Success || s.Tasks["0"].Attempt != 2 {
		t.Errorf("%+v", s.Tasks["0"])
	}
}

// TestOnce: without --loop one ticket is taken, and with nothing to do there is
// silence.
func TestOnce(t *testing.T) { inEach(t, testOnce) }

func testOnce(t *testing.T, l *lab) {
	l.frontend()
	for _, c := range []struct {
		args []string
		want int
	}{{nil, 0}, {[]string{"-E", "3"}, 3}, {[]string{"--wait", "200ms", "-E", "3"}, 3}} {
		p := l.start("distci-claim", append(c.args, "--state", l.path("once"))...)
		if status := p.status(); status != c.want || p.stderr() != "" {
			t.Errorf("%v: status %d, said %q", c.args, status, p.stderr())
		}
	}
	l.shellJob("one", "echo x")
	n := l.trigger("one")
	for range 3 { // start, the step, finish
		if p := l.start("distci-claim", "--state", l.path("once"), "-E", "3"); p.status() != 0 {
			t.Fatal(p.stderr())
		}
	}
	if s := l.state("one", n); s.Result != ticket.Success {
		t.Errorf("%+v", s)
	}
}

// TestOwnProgram: distci-claim with a program of the operator's own.
func TestOwnProgram(t *testing.T) { inEach(t, testOwnProgram) }

func testOwnProgram(t *testing.T, l *lab) {
	l.frontend()
	tk := ticket.New("translate", "translate_v1")
	if err := tk.Set("word", "hello"); err != nil {
		t.Fatal(err)
	}
	posted, err := l.PostTask(t.Context(), tk)
	if err != nil {
		t.Fatal(err)
	}
	p := l.start("distci-claim", "--state", l.path("w"), "--capability", "translate_v1", "--", "sed", "s/hello/hallo/")
	if p.status() != 0 {
		t.Fatal(p.stderr())
	}
	got, err := l.Task(t.Context(), posted.ID)
	if err != nil || got.Status != ticket.Complete || got.Result != ticket.Success || string(got.Extra["word"]) != `"hallo"` {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestStepsThatMisbehave: each gets its result, and harms nothing else.
func TestStepsThatMisbehave(t *testing.T) { inEach(t, testStepsThatMisbehave) }

func testStepsThatMisbehave(t *testing.T, l *lab) {
	l.frontend()
	l.worker("w")
	for _, c := range []struct{ name, script, result, says string }{
		{"prints-much", "head -c 200000000 /dev/zero | tr '\\0' x", ticket.Success, ""},
		{"closes-stdout", "exec >&- 2>&-; exit 0", ticket.Success, ""},
		{"leaves-a-daemon", "setsid sleep 61004 >/dev/null 2>&1 & setsid sleep 61004 & exit 0", ticket.Success, ""},
		{"deletes-the-workspace", "rm -rf $WORKSPACE || test ! -e $WORKSPACE/*; exit 0", ticket.Success, ""},
		{"fails", "exit 7", ticket.Failure, "exit status 7"},
		{"kills-itself", "kill -9 $$", ticket.Failure, "signal 9"},
		{"makes-a-device", "mknod dev c 1 3", ticket.Failure, "dev"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "makes-a-device" {
				if l.contained() {
					c.says = "exit status" // of mknod, which has no right to
				} else if os.Getuid() != 0 {
					t.Skip("only root can make a device")
				}
			}
			l := *l
			l.t = t
			l.shellJob(c.name, c.script)
			n := l.trigger(c.name)
			s := l.finished(c.name, n)
			if s.Result != c.result || !strings.Contains(s.Tasks["0"].Error, c.says) {
				t.Errorf("%q: %q", s.Result, s.Tasks["0"].Error)
			}
			if c.name == "prints-much" {
				if log := l.console(c.name, n); strings.Count(log, "x") < 200000000 {
					t.Errorf("the log has %d bytes", len(log))
				}
			}
		})
	}
	if alive("61004") {
		t.Error("a daemon has outlived its step")
	}
}

// TestBadParameters: what cannot work ends at once, with a sentence.
func TestBadParameters(t *testing.T) { inEach(t, testBadParameters) }

func testBadParameters(t *testing.T, l *lab) {
	l.frontend()
	l.worker("w")
	repo := l.outside("repo")
	if out, err := exec.Command("sh", "-c", "git init -q -b main "+repo+" && cd "+repo+" && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, c := range []struct {
		name, repository, ref string
		fault                 fault.Kind
		says                  string
	}{
		{"no-repository", l.path("nowhere"), "main", fault.Unavailable, "nowhere"},
		{"no-ref", repo, "refs/heads/none", fault.Unavailable, "none"},
	} {
		l.job(fmt.Sprintf(`{"job_id":%q,"tasks":[{"type":"git-checkout","params":{"repository":%q,"ref":%q}}]}`, c.name, c.repository, c.ref))
		s := l.finished(c.name, l.trigger(c.name))
		task := s.Tasks["0"]
		if s.Result != ticket.Error || task.Fault != c.fault || !strings.Contains(task.Error, c.says) || task.Attempt != 1 {
			t.Errorf("%s: %q, %q: %q, attempt %d", c.name, s.Result, task.Fault, task.Error, task.Attempt)
		}
	}
	// Nobody listens there: it is tried again, and comes to an end.
	l.job(`{"job_id":"refused","tasks":[{"type":"git-checkout","retry":2,"params":{"repository":"http://127.0.0.1:1/x.git"}}]}`)
	s := l.finished("refused", l.trigger("refused"))
	if task := s.Tasks["0"]; s.Result != ticket.Error || task.Fault != fault.Temporary || task.Attempt != 2 {
		t.Errorf("%q, %q: %q, attempt %d", s.Result, task.Fault, task.Error, task.Attempt)
	}
}

// TestTicketThatKillsItsWorkers comes to an end.
func TestTicketThatKillsItsWorkers(t *testing.T) { inEach(t, testTicketThatKillsItsWorkers) }

func testTicketThatKillsItsWorkers(t *testing.T, l *lab) {
	l.frontend()
	l.shellJob("killer", "touch "+l.outside("hung")+"; sleep 61005")
	n := l.trigger("killer")
	for range ticket.DefaultRetry {
		os.Remove(l.outside("hung"))
		w := l.worker("w")
		l.until("the step runs", l.exists("hung"))
		w.kill()
	}
	l.worker("last")
	if s := l.finished("killer", n); s.Result != ticket.Error || s.Tasks["0"].Fault != fault.Lost {
		t.Errorf("%+v", s.Tasks["0"])
	}
}

// TestFullStore: with no space left in the store the build fails with a clear
// sentence, and what was stored before is there.
func TestFullStore(t *testing.T) { inEach(t, testFullStore) }

func testFullStore(t *testing.T, l *lab) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	small := l.store
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("distci-test", small, "tmpfs", 0, "size=24m"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(small, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l.store = filepath.Join(small, "s")
	l.frontend()
	l.worker("w")
	l.job(`{"job_id":"fills","tasks":[
		{"type":"execute-shell","params":{"script":"echo small"}},
		{"type":"execute-shell","retry":2,"params":{"script":"head -c 100000000 /dev/urandom >big"}}]}`)
	s := l.finished("fills", l.trigger("fills"))
	if task := s.Tasks["1"]; s.Result != ticket.Error || task.Fault != fault.Temporary || !strings.Contains(task.Error, "no space left") {
		t.Errorf("%q, %q: %q", s.Result, task.Fault, task.Error)
	}
	l.job(`{"job_id":"floods","tasks":[{"type":"execute-shell","retry":1,"params":{"script":"head -c 100000000 /dev/urandom"}}]}`)
	n := l.trigger("floods")
	if s := l.finished("floods", n); s.Result != ticket.Error || !strings.Contains(s.Tasks["0"].Error, "no space left") {
		t.Errorf("%q: %q", s.Result, s.Tasks["0"].Error)
	}
	if !strings.Contains(l.console("fills", 1), "small\n") {
		t.Error("the log of before is gone")
	}
	if err := l.DeleteBuild(t.Context(), "floods", n); err != nil {
		t.Fatal(err)
	}
	l.shellJob("small", "echo again")
	if s := l.finished("small", l.trigger("small")); s.Result != ticket.Success {
		t.Errorf("with space again: %q: %q", s.Result, s.Tasks["0"].Error)
	}
}

// TestArtifactsAndDownstream: what one job publishes, the job that it triggers
// copies.
func TestArtifactsAndDownstream(t *testing.T) { inEach(t, testArtifactsAndDownstream) }

func testArtifactsAndDownstream(t *testing.T, l *lab) {
	l.frontend()
	l.worker("w1")
	l.worker("w2")
	l.job(`{"job_id":"up","downstream_jobs":["down"],"tasks":[
		{"type":"execute-shell","params":{"script":"mkdir -p out/deep; echo alpha >out/a.txt; echo beta >out/deep/b.txt; echo no >out/c.log"}},
		{"type":"publish-artifacts","params":{"artifacts":["out/**/*.txt"]}}]}`)
	l.job(`{"job_id":"down","tasks":[
		{"type":"copy-artifacts","params":{"job":"up","artifacts":["out/*"],"target_directory":"in"}},
		{"type":"execute-shell","params":{"script":"cat in/out/a.txt in/out/deep/b.txt; test ! -e in/out/c.log"}}]}`)
	n := l.trigger("up")
	if s := l.finished("up", n); s.Result != ticket.Success || len(s.Artifacts) != 2 {
		t.Fatalf("%+v", s)
	}
	s := l.finished("down", 1)
	if s.Result != ticket.Success || s.Cause == nil || s.Cause.JobID != "up" || s.Cause.Number != n {
		t.Fatalf("%+v, %+v", s, s.Cause)
	}
	if log := l.console("down", 1); !strings.Contains(log, "alpha\nbeta\n") {
		t.Errorf("log:\n%s", log)
	}
}

// TestExamples: a whole job without any server, and the same job on workers.
func TestExamples(t *testing.T) { inEach(t, testExamples) }

func testExamples(t *testing.T, l *lab) {
	l.frontend()
	l.worker("w")
	files, _ := filepath.Glob("../../examples/*.json")
	if len(files) == 0 {
		t.Fatal("no examples")
	}
	for _, f := range files {
		config, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		id := strings.TrimSuffix(filepath.Base(f), ".json")
		p := l.start("distci-buildctl", "run", "--artifacts", l.path("artifacts"), mustAbs(t, f))
		if status := p.status(); status != 0 {
			t.Errorf("%s: status %d:\n%s", f, status, p.stderr())
		}
		l.job(string(config))
		if s := l.finished(id, l.trigger(id)); s.Result != ticket.Success {
			t.Errorf("%s: %q\n%s", f, s.Result, l.console(id, 1))
		}
	}
}

func mustAbs(t *testing.T, path string) string {
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// TestPipelineByHand is the README's. Nobody puts the tools into a sandbox.
func TestPipelineByHand(t *testing.T) {
	l := newLab(t)
	script := `set -e
git init -q -b main repo
cd repo
printf 'all:\n\tmkdir -p bin; echo "echo built" >bin/prog; chmod +x bin/prog\n' >Makefile
git add Makefile
git -c user.name=a -c user.email=a@b commit -q -m x
cd ..
echo '{}' |
  distci-checkout --no-mirror --repository "$PWD/repo" --ref main --workspace ws |
  distci-exec --workspace ws --script 'make' |
  distci-publish --workspace ws --to out 'bin/**' >ticket
sh out/bin/prog
`
	run := func(script string) (string, int) {
		cmd := exec.Command("sh", "-c", script)
		cmd.Dir, cmd.Env = l.dir, l.env()
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, status := run(script); status != 0 || !strings.HasSuffix(out, "built\n") {
		t.Errorf("status %d:\n%s", status, out)
	}
	// The same as an example.
	out, status := run("rm -rf out && sh " + mustAbs(t, "../../examples/pipeline.sh") + ` "$PWD/repo" main make 'bin/**' && sh out/bin/prog`)
	if status != 0 || !strings.HasSuffix(out, "built\n") {
		t.Errorf("status %d:\n%s", status, out)
	}
	// The first failure's status comes out at the end of the pipe.
	out, status = run(`echo '{}' | distci-checkout --no-mirror --repository "$PWD/none" --workspace ws2 | distci-exec --workspace ws2 --script 'echo ran' | distci-publish --workspace ws2 --to out2 '*'`)
	if status != 69 || strings.Contains(out, "ran\n") {
		t.Errorf("status %d:\n%s", status, out)
	}
}

// TestToolsOfOnesOwn: a new kind of worker is a new executable. One that lies
// is found out, and its build comes to an end.
func TestToolsOfOnesOwn(t *testing.T) { inEach(t, testToolsOfOnesOwn) }

func testToolsOfOnesOwn(t *testing.T, l *lab) {
	l.frontend()
	tools := l.path("tools")
	if err := os.Mkdir(tools, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"distci-upper":  "tr a-z A-Z <\"$DISTCI_WORKSPACE/in\" >\"$DISTCI_WORKSPACE/out\"; cat",
		"distci-liar":   `echo '{"artifacts":{"0196f1ce-0000-7000-8000-000000000000":["x"]}}'`,
		"distci-mute":   "exit 0",
		"distci-absent": "exit 127",
	} {
		if err := os.WriteFile(filepath.Join(tools, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l.worker("w", "--path", l.bin+":"+tools)
	l.job(`{"job_id":"upper","tasks":[
		{"type":"execute-shell","params":{"script":"echo hello >in"}},
		{"type":"upper","params":{"anything":[1]}},
		{"type":"execute-shell","params":{"script":"cat out"}}]}`)
	if s := l.finished("upper", l.trigger("upper")); s.Result != ticket.Success || !strings.Contains(l.console("upper", 1), "HELLO\n") {
		t.Errorf("%q\n%s", s.Result, l.console("upper", 1))
	}
	for name, says := range map[string]string{"liar": "was not stored", "mute": "is no ticket"} {
		l.job(fmt.Sprintf(`{"job_id":%q,"tasks":[{"type":%q,"retry":2}]}`, name, name))
		s := l.finished(name, l.trigger(name))
		if s.Result != ticket.Error || !strings.Contains(s.Tasks["0"].Error, says) {
			t.Errorf("%s: %q: %q", name, s.Result, s.Tasks["0"].Error)
		}
	}
	// What cannot run here waits for a worker where it can.
	l.job(`{"job_id":"absent","tasks":[{"type":"absent"}]}`)
	n := l.trigger("absent")
	l.until("it was given back", func() bool {
		tk := l.state("absent", n).Tasks["0"]
		return tk != nil && tk.Status == ticket.Pending && tk.Attempt == 1
	})
	if err := os.WriteFile(filepath.Join(tools, "distci-absent"), []byte("#!/bin/sh\ncat\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	l.worker("other", "--path", l.bin+":"+tools)
	if s := l.finished("absent", n); s.Result != ticket.Success || s.Tasks["0"].Attempt != 2 {
		t.Errorf("%q, attempt %d", s.Result, s.Tasks["0"].Attempt)
	}
}
