package spine

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/tool"
)

// buildctl runs distci-buildctl and returns what it prints.
func (l *lab) buildctl(args ...string) string {
	l.t.Helper()
	cmd := exec.Command(filepath.Join(l.bin, "distci-buildctl"), args...)
	cmd.Env, cmd.Dir = l.env(), l.dir
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		l.t.Fatalf("distci-buildctl %v: %v: %s", args, err, &stderr)
	}
	return string(out)
}

// objects reads one JSON object a line.
func objects[T any](l *lab, text string) (list []T) {
	l.t.Helper()
	for s := bufio.NewScanner(strings.NewReader(text)); s.Scan(); {
		var v T
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			l.t.Fatalf("%s: %v", s.Bytes(), err)
		}
		list = append(list, v)
	}
	return list
}

func (l *lab) members(args ...string) []member.Member {
	l.t.Helper()
	return objects[member.Member](l, l.buildctl(append([]string{"members", "--json"}, args...)...))
}

// who finds the member that is a process.
func who(ms []member.Member, p *proc) *member.Member {
	for _, m := range ms {
		if m.PID == p.Process.Pid {
			return &m
		}
	}
	return nil
}

// TestMembers: real processes are members, with what they are and run; one that
// is killed is none any more when its session has ended, and its ticket waits.
func TestMembers(t *testing.T) { inEach(t, testMembers) }

func testMembers(t *testing.T, l *lab) {
	f := l.frontend()
	w := l.worker("w", "--jobs", "2", "--label", "gpu")
	// A second one of the same name that can do nothing of this job.
	twin := l.start("distci-claim", "--loop", "--name", "w", "--state", l.path("twin"), "--capability", "odd", "--", "true")
	fifo := l.outside("fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	l.job(`{"job_id":"j","tasks":[{"type":"execute-shell","name":"read","labels":["gpu"],"params":{"script":` + quote("cat "+fifo) + `}}]}`)
	n := l.trigger("j")
	var m *member.Member
	l.until("the worker is shown with the step", func() bool {
		m = who(l.members(), w)
		return m != nil && len(m.Runs) == 1 && m.Runs[0].Step == "0"
	})
	host, _ := os.Hostname()
	if m.ID == "" || m.Kind != member.Worker || m.Name != "w" || m.Host != host || m.Version != tool.Version || m.Since == nil || m.Slots != 2 ||
		!slices.Equal(m.Labels, []string{"gpu"}) || !slices.Contains(m.Capabilities, "nodelabel_gpu") || !slices.Contains(m.Capabilities, "execute_shell_v1") || m.Sandbox == "" {
		t.Errorf("the worker: %+v", m)
	}
	if r := m.Runs[0]; r.JobID != "j" || r.Build != int64(n) || r.Name != "read" || r.Type != "execute-shell" || r.Attempt != 1 || r.Since == nil || r.Since.Before(*m.Since) || r.Until != nil {
		t.Errorf("it runs: %+v", r)
	}
	l.until("the frontend and the other worker are shown", func() bool {
		ms := l.members("--url", l.url()) // the same over REST
		return len(ms) == 3 && who(ms, f) != nil && who(ms, twin) != nil
	})
	ms := l.members()
	if m := who(ms, f); m.Kind != member.Frontend || m.Listen != l.url() || m.Version != tool.Version {
		t.Errorf("the frontend: %+v", m)
	}
	if m := who(ms, twin); m.Name != "w" || len(m.Runs) > 0 || !slices.Contains(m.Capabilities, "odd") || slices.Contains(m.Capabilities, "execute_shell_v1") {
		t.Errorf("the worker of the same name: %+v", m)
	}
	if table := l.buildctl("members"); !regexp.MustCompile(`(?m)^worker +w +.* j #1 step 0 \(read\), for \d+s$`).MatchString(table) {
		t.Errorf("the table:\n%s", table)
	}

	w.kill()
	l.until("the dead worker's session has ended", func() bool { return who(l.members(), w) == nil })
	if ms := l.members(); who(ms, twin) == nil || who(ms, f) == nil || len(ms) != 2 {
		t.Errorf("there is %+v", ms)
	}
	l.until("its ticket waits", func() bool { // the other worker gives it back
		ls := objects[queue.Load](l, l.buildctl("queue", "--json"))
		return len(ls) == 1 && ls[0].Ready == 1 && ls[0].Running == 0 && slices.Equal(ls[0].Capabilities, []string{"execute_shell_v1", "nodelabel_gpu"})
	})
	third := l.worker("third", "--label", "gpu")
	l.until("the next worker is at its second attempt", func() bool {
		m := who(l.members(), third)
		return m != nil && len(m.Runs) == 1 && m.Runs[0].Attempt == 2
	})
	if err := os.WriteFile(fifo, nil, 0o600); err != nil { // opens when the step does
		t.Fatal(err)
	}
	if s := l.finished("j", n); s.Result != "success" {
		t.Errorf("%+v", s)
	}
	l.until("the worker is shown with nothing to do", func() bool {
		m = who(l.members(), third)
		return m != nil && len(m.Runs) == 0
	})

	// One that was only paused beyond its session comes back.
	third.Process.Signal(syscall.SIGSTOP)
	l.until("the paused worker's session has ended", func() bool { return who(l.members(), third) == nil })
	third.Process.Signal(syscall.SIGCONT)
	var again *member.Member
	l.until("it is shown again", func() bool { again = who(l.members(), third); return again != nil })
	if again.ID != m.ID || !again.Since.Equal(*m.Since) {
		t.Errorf("it was %+v, is %+v", m, again)
	}
	third.Process.Signal(syscall.SIGTERM)
	third.status()
	if m := who(l.members(), third); m != nil {
		t.Errorf("it has left, and is shown: %+v", m)
	}
}

// TestQueueShown: a ticket for a label that nobody offers waits, and its age
// grows.
func TestQueueShown(t *testing.T) {
	l := newLab(t)
	l.frontend()
	l.worker("w")
	l.job(`{"job_id":"j","tasks":[{"type":"execute-shell","labels":["nobody"],"params":{"script":":"}}]}`)
	for range 2 {
		n := l.trigger("j")
		l.until("the build runs", func() bool { return l.state("j", n).Status == build.Running })
	}
	age := 0.0
	for _, args := range [][]string{nil, {"--url", l.url()}} {
		was := age
		l.until("its age grows", func() bool {
			ls := objects[queue.Load](l, l.buildctl(append([]string{"queue", "--json"}, args...)...))
			i := slices.IndexFunc(ls, func(q queue.Load) bool { return slices.Contains(q.Capabilities, "nodelabel_nobody") })
			if i < 0 || ls[i].Ready != 2 || ls[i].Running != 0 {
				t.Fatalf("the queue: %+v", ls)
			}
			age = ls[i].OldestAge
			return age >= was+1
		})
	}
	if table := l.buildctl("queue"); !regexp.MustCompile(`(?m)^2 +0 +\d+s +0 +execute_shell_v1 nodelabel_nobody$`).MatchString(table) {
		t.Errorf("the table:\n%s", table)
	}
}

// TestNewerFormat: every program that meets a later version's data says so with
// the status of a wrong configuration.
func TestNewerFormat(t *testing.T) {
	l := newLab(t)
	l.buildctl("members")
	conn, err := local.Open(t.Context(), l.path("coord.db"), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Txn(t.Context(), coord.Set("/format", []byte(`{"format":2,"by":"distci 9.9"}`), 0)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"distci-claim", "--state", l.path("x")}, {"distci-frontend", "--listen", "127.0.0.1:0"}, {"distci-buildctl", "list"}} {
		p := l.start(args[0], args[1:]...)
		if status := p.status(); status != 78 || !strings.Contains(p.stderr(), `format 2, made by "distci 9.9"; distci `+tool.Version+" knows formats up to 1") {
			t.Errorf("%v: status %d: %s", args, status, p.stderr())
		}
	}
}
