// Package spine runs the real programs, as processes, against each other.
package spine

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
)

// bin is the folder with the programs under test.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "distci-spine-")
	if err == nil {
		bin = dir
		var out []byte
		cmd := exec.Command("go", "build", "-o", dir, "../../cmd/...")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err = cmd.CombinedOutput(); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(dir)
	os.Exit(status)
}

// lab is one cluster: a coordination file, a store folder, and processes.
type lab struct {
	t     *testing.T
	dir   string
	store string
	*client.Client
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir, err := os.MkdirTemp("", "distci-lab-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs, _ := filepath.Glob(dir + "/*.log")
			for _, l := range logs {
				b, _ := os.ReadFile(l)
				t.Logf("%s:\n%s", filepath.Base(l), b)
			}
		}
		exec.Command("chmod", "-R", "u+rwx", dir).Run()
		os.RemoveAll(dir)
	})
	return &lab{t: t, dir: dir, store: filepath.Join(dir, "store")}
}

func (l *lab) path(name string) string { return filepath.Join(l.dir, name) }

func (l *lab) env() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "DISTCI_") && !strings.HasPrefix(e, "XDG_") {
			env = append(env, e)
		}
	}
	return append(env, "PATH="+bin+":"+os.Getenv("PATH"), "DISTCI_COORD=local:"+l.path("coord.db"), "DISTCI_STORE=dir:"+l.store,
		"XDG_CONFIG_HOME="+l.path("config"), "XDG_STATE_HOME="+l.path("state"), "XDG_CACHE_HOME="+l.path("cache"))
}

// proc is a process under test.
type proc struct {
	*exec.Cmd
	l    *lab
	log  string
	done chan struct{} // closed when it has ended
	err  error
}

func (l *lab) start(program string, args ...string) *proc {
	l.t.Helper()
	f, err := os.CreateTemp(l.dir, program+"-*.log")
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	p := &proc{Cmd: exec.Command(filepath.Join(bin, program), args...), l: l, log: f.Name(), done: make(chan struct{})}
	p.Env, p.Stderr, p.Dir = l.env(), f, l.dir
	if err := p.Start(); err != nil {
		l.t.Fatal(err)
	}
	go func() {
		p.err = p.Wait()
		close(p.done)
	}()
	l.t.Cleanup(func() {
		p.Process.Signal(syscall.SIGCONT)
		p.Process.Signal(syscall.SIGINT)
		select {
		case <-p.done:
		case <-time.After(20 * time.Second):
			p.Process.Kill()
			<-p.done
		}
	})
	return p
}

// kill ends the process as a power cut would.
func (p *proc) kill() {
	p.Process.Kill()
	<-p.done
}

func (p *proc) stderr() string {
	b, _ := os.ReadFile(p.log)
	return string(b)
}

// status waits for the process to end.
func (p *proc) status() int {
	<-p.done
	return p.ProcessState.ExitCode()
}

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
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return
		}
	}
	l.t.Fatalf("waited in vain: %s", what)
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
	cmd := exec.Command(filepath.Join(bin, "distci-buildctl"), "job", "set", "-")
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

// lines reads a file that steps append to, outside of any workspace.
func (l *lab) lines(name string) []string {
	b, _ := os.ReadFile(l.path(name))
	return strings.Fields(string(b))
}

// alive tells whether a process with this word in its command line exists.
func alive(word string) bool {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, _ := os.ReadFile(f); bytes.Contains(b, []byte(word)) {
			return true
		}
	}
	return false
}
