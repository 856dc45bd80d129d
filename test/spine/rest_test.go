package spine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/need"
)

// url is where the frontend that was started last is.
func (l *lab) url() string {
	l.t.Helper()
	b, err := os.ReadFile(l.path("port"))
	if err != nil {
		l.t.Fatal(err)
	}
	return "http://127.0.0.1:" + strings.TrimSpace(string(b))
}

// restWorker starts the worker that is a shell script, and speaks REST. It does
// one ticket, if there is one for it.
func (l *lab) restWorker(name string) *proc {
	l.t.Helper()
	script, err := filepath.Abs("../../examples/rest-worker.sh")
	if err != nil {
		l.t.Fatal(err)
	}
	p := l.startCommand(name, append(l.env(), `CAPABILITIES=["execute_shell_v1","nodelabel_odd"]`),
		"sh", "-c", `exec sh "$0" "$@" >&2`, script, l.url(), name)
	l.t.Cleanup(p.kill)
	return p
}

// buildController starts a worker that does nothing but the control of builds.
func (l *lab) buildController() {
	l.t.Helper()
	l.worker("control", "--capability", "build_control_v1", "--", filepath.Join(l.bin, "distci-buildctl"))
}

// work lets workers that are scripts come and go until the build is finished.
func (l *lab) work(job string, n ticket.Number, workers int) {
	l.t.Helper()
	l.until("the build is finished", func() bool {
		var ps []*proc
		for i := range workers {
			ps = append(ps, l.restWorker(fmt.Sprint("shell-", i)))
		}
		for _, p := range ps {
			if status := p.status(); status != 0 {
				l.t.Fatalf("the worker ended with %d:\n%s", status, p.stderr())
			}
		}
		return l.state(job, n).Status == "complete"
	})
}

// TestRESTWorker: a worker that is a shell script and knows nothing but REST
// does the steps of a build, which moves on as if distci-claim had done them. The
// steps run in whatever the script runs in: there is no sandbox to choose.
func TestRESTWorker(t *testing.T) {
	need.Programs(t, "rest", "curl", "jq", "tar")
	l := newLab(t)
	l.frontend()
	l.buildController()
	l.job(`{"job_id":"shell","env":{"GREETING":"it's \"me\"\n$HOME"},"tasks":[
		{"type":"execute-shell","params":{"script":"echo from the first: $JOB_NAME $BUILD_NUMBER; mkdir d; echo one >d/file; echo 1 >>` + l.outside("ran") + `"}},
		{"type":"execute-shell","labels":["odd"],"params":{"script":["printenv GREETING >text","cat file text; echo 2 >>` + l.outside("ran") + `"],"working_directory":"d"}},
		{"type":"execute-shell","params":{"script":"cat d/text; echo 3 >>` + l.outside("ran") + `"}}]}`)
	n := l.trigger("shell")
	l.work("shell", n, 2) // two of them: each step is done once all the same
	s := l.finished("shell", n)
	if s.Result != ticket.Success {
		t.Errorf("result %q, %q", s.Result, s.Error)
	}
	for key, task := range s.Tasks {
		if task.Status != ticket.Complete || task.Result != ticket.Success || task.Attempt != 1 || task.Started == nil || task.Ended == nil || task.Assignee != "" {
			t.Errorf("step %s: %+v", key, task)
		}
	}
	if got := l.lines("ran"); !slices.Equal(got, []string{"1", "2", "3"}) {
		t.Errorf("steps ran as %v", got)
	}
	log := l.console("shell", n)
	for _, want := range []string{"from the first: shell 1\n", "one\nit's \"me\"\n$HOME\n"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not say %q:\n%s", want, log)
		}
	}
	if strings.Count(log, "it's") != 2 {
		t.Errorf("the log is not each step's once:\n%s", log)
	}
}

// TestRESTWorkerFails: the verdict of a script is the build's; what needs the
// step is not run.
func TestRESTWorkerFails(t *testing.T) {
	need.Programs(t, "rest", "curl", "jq", "tar")
	l := newLab(t)
	l.frontend()
	l.buildController()
	l.shellJob("red", "echo so far; false; echo no further", "echo never")
	n := l.trigger("red")
	l.work("red", n, 1)
	s := l.finished("red", n)
	if s.Result != ticket.Failure || s.Tasks["0"].Result != ticket.Failure || s.Tasks["1"].Result != ticket.Canceled {
		t.Errorf("%+v", s)
	}
	if log := l.console("red", n); !strings.Contains(log, "so far\n") || strings.Contains(log, "no further") || strings.Contains(log, "never") {
		t.Errorf("the log says\n%s", log)
	}
}

// TestRESTAndNativeWorker: steps of one build by both kinds of workers hand
// the workspace on to each other.
func TestRESTAndNativeWorker(t *testing.T) { inEach(t, testRESTAndNativeWorker) }

func testRESTAndNativeWorker(t *testing.T, l *lab) {
	need.Programs(t, "rest", "curl", "jq", "tar")
	l.frontend()
	l.worker("native", "--label", "native")
	l.job(`{"job_id":"mixed","tasks":[
		{"type":"execute-shell","labels":["native"],"params":{"script":"echo native >a"}},
		{"type":"execute-shell","labels":["odd"],"params":{"script":"cat a; rm a; echo rest >b"}},
		{"type":"execute-shell","labels":["native"],"params":{"script":"test ! -e a; cat b"}}]}`)
	n := l.trigger("mixed")
	l.work("mixed", n, 1)
	if s := l.finished("mixed", n); s.Result != ticket.Success {
		t.Errorf("%+v\n%s", s, l.console("mixed", n))
	}
	if log := l.console("mixed", n); !strings.Contains(log, "native\n") || !strings.Contains(log, "rest\n") {
		t.Errorf("the log says\n%s", log)
	}
}
