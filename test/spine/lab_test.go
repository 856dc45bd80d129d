// Package spine runs the real programs, as processes, against each other.
package spine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
	testlab "github.com/distci/distci/test/lab"
)

// bin is the folder with the programs under test.
var bin string

func TestMain(m *testing.M) { testlab.Main(m, &bin) }

// lab is one cluster: a coordination file, a store folder, and processes.
type lab struct {
	t       *testing.T
	dir     string
	bin     string // the programs
	store   string
	sandbox []string // variables that say in what workers run steps
	spawn   *testlab.Spawner
	*client.Client
}

// newLab makes a cluster whose workers run steps plain.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, dir: testlab.Dir(t), bin: bin, sandbox: []string{"DISTCI_SANDBOX=plain"}}
	l.store, l.spawn = filepath.Join(l.dir, "store"), testlab.NewSpawner(t)
	if err := os.Mkdir(l.outside(""), 0o755); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

// outside is a file outside of any workspace that steps can use, in every
// sandbox by the same name.
func (l *lab) outside(name string) string { return filepath.Join(l.dir, "outside", name) }

func (l *lab) env() []string {
	return testlab.Env(l.bin, l.dir, append(l.sandbox, "DISTCI_COORD=local:"+l.path("coord.db"), "DISTCI_STORE=dir:"+l.store)...)
}

// proc is a process under test.
type proc struct{ *testlab.Proc }

func (l *lab) start(program string, args ...string) *proc {
	l.t.Helper()
	return l.startCommand(program, l.env(), filepath.Join(l.bin, program), args...)
}

func (l *lab) startCommand(name string, env []string, program string, args ...string) *proc {
	l.t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = env
	return l.startProc(name, cmd)
}

func (l *lab) startProc(name string, cmd *exec.Cmd) *proc {
	l.t.Helper()
	return &proc{testlab.Start(l.t, l.spawn, l.dir, name, cmd)}
}

// kill ends the process as a power cut would.
func (p *proc) kill() { p.Kill() }

func (p *proc) stderr() string { return p.Said() }

// status waits for the process to end.
func (p *proc) status() int { return p.Status() }

// frontend starts a frontend, and makes the lab speak to it.
func (l *lab) frontend() *proc {
	l.t.Helper()
	port := l.path("port")
	os.Remove(port)
	p := l.start("distci-frontend", "--listen", "127.0.0.1:0", "--port-file", port)
	l.until("the frontend listens", func() bool {
		b, err := os.ReadFile(port)
		if err != nil {
			return false
		}
		l.Client, err = client.New("http://127.0.0.1:"+strings.TrimSpace(string(b)), client.Options{})
		return err == nil
	})
	return p
}

// worker starts a worker with a short session.
func (l *lab) worker(name string, args ...string) *proc {
	l.t.Helper()
	return l.start("distci-claim", append([]string{"--loop", "--name", name, "--state", l.path(name), "--session-timeout", "3s"}, args...)...)
}

// until waits for a condition; the limit is for a test that hangs.
func (l *lab) until(what string, ok func() bool) {
	l.t.Helper()
	testlab.Until(l.t, what, ok)
}

// shellJob sets a job of scripts.
func (l *lab) shellJob(id string, scripts ...string) {
	l.t.Helper()
	var tasks []string
	for _, s := range scripts {
		tasks = append(tasks, fmt.Sprintf(`{"type":"execute-shell","params":{"script":%s}}`, quote(s)))
	}
	l.job(fmt.Sprintf(`{"job_id":%q,"tasks":[%s]}`, id, strings.Join(tasks, ",")))
}

func quote(s string) string {
	r := strings.NewReplacer("\\", "\\\\", "\"", "\\\"", "\n", "\\n", "\t", "\\t")
	return `"` + r.Replace(s) + `"`
}

func (l *lab) job(config string) {
	l.t.Helper()
	cmd := exec.Command(filepath.Join(l.bin, "distci-buildctl"), "job", "set", "-")
	cmd.Env, cmd.Stdin = l.env(), strings.NewReader(config)
	if out, err := cmd.CombinedOutput(); err != nil {
		l.t.Fatalf("%v\n%s", err, out)
	}
}

func (l *lab) trigger(job string) ticket.Number {
	l.t.Helper()
	n, err := l.Trigger(l.t.Context(), job)
	if err != nil {
		l.t.Fatal(err)
	}
	return n
}

func (l *lab) state(job string, n ticket.Number) *build.State {
	l.t.Helper()
	s, err := l.Build(l.t.Context(), job, n)
	if err != nil {
		l.t.Fatal(err)
	}
	return s
}

// finished waits for a build's end.
func (l *lab) finished(job string, n ticket.Number) *build.State {
	l.t.Helper()
	var s *build.State
	l.until(fmt.Sprintf("%s #%d is finished", job, n), func() bool {
		s = l.state(job, n)
		return s.Status == build.Complete
	})
	return s
}

func (l *lab) console(job string, n ticket.Number) string {
	l.t.Helper()
	var b bytes.Buffer
	if err := l.Console(context.Background(), job, n, &b); err != nil {
		l.t.Fatal(err)
	}
	return b.String()
}

// lines reads a file outside to which steps append.
func (l *lab) lines(name string) []string {
	b, _ := os.ReadFile(l.outside(name))
	return strings.Fields(string(b))
}

// exists tells whether a file outside is there.
func (l *lab) exists(name string) func() bool {
	return func() bool {
		_, err := os.Stat(l.outside(name))
		return err == nil
	}
}

// alive tells whether a process with this argument exists.
func alive(argument string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, _ := os.ReadFile(f); slices.Contains(strings.Split(string(b), "\x00"), argument) {
			return true
		}
	}
	return false
}
