package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/control"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// stage is a cluster in a folder, in which the test itself is the worker.
type stage struct {
	*testing.T
	dir  string
	repo *repo.Repo
}

func newStage(t *testing.T, jobs ...string) *stage {
	t.Helper()
	dir := t.TempDir()
	cl, err := cluster.Open(t.Context(), cluster.Options{Coord: "local:" + filepath.Join(dir, "coord.db"), Store: "dir:" + filepath.Join(dir, "store"),
		Session: time.Minute, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	s := &stage{t, dir, cl.Repo}
	for _, id := range jobs {
		step := func(name string) string {
			return `{"type":"execute-shell","name":"` + name + `","params":{"script":":"}}`
		}
		if err := cl.Repo.PutJob(t.Context(), id, []byte(fmt.Sprintf(`{"job_id":%q,"tasks":[%s,%s]}`, id, step("compile"), step("test")))); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *stage) env(more ...string) (env []string) {
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "DISTCI_") && !strings.HasPrefix(e, "TERM=") && !strings.HasPrefix(e, "NO_COLOR=") {
			env = append(env, e)
		}
	}
	return append(append(env, "DISTCI_COORD=local:"+filepath.Join(s.dir, "coord.db"), "DISTCI_STORE=dir:"+filepath.Join(s.dir, "store"),
		"XDG_CONFIG_HOME="+s.dir, "XDG_STATE_HOME="+s.dir, "TERM=xterm"), more...)
}

func (s *stage) trigger(job string) *build.Build {
	s.Helper()
	b, err := s.repo.Trigger(s.Context(), job, nil)
	if err != nil {
		s.Fatal(err)
	}
	return b
}

// controls does the control tickets that are ready, as distci-claim does.
func (s *stage) controls() {
	s.Helper()
	for {
		c, err := s.repo.Queue().Claim(s.Context(), []string{"build_control_v1"}, "control", nil)
		if err != nil {
			s.Fatal(err)
		}
		if c == nil {
			return
		}
		for err = repo.ErrChanged; errors.Is(err, repo.ErrChanged); { // somebody cancels meanwhile
			t := c.Ticket.Clone()
			var ctl *repo.Control
			if ctl, err = s.repo.Prepare(s.Context(), t); err == nil && ctl != nil {
				t.Finish(control.Act(s.Context(), t, time.Now()))
				_, err = s.repo.CommitControl(s.Context(), c, ctl, t, nil)
			}
		}
		if err != nil {
			s.Fatal(err)
		}
	}
}

// step claims a step and prints to its log; the function that it returns ends it.
func (s *stage) step(text string) func(result error) {
	s.Helper()
	c, err := s.repo.Queue().Claim(s.Context(), []string{"execute_shell_v1"}, "worker-7", nil)
	if err != nil || c == nil {
		s.Fatalf("no step to claim: %v", err)
	}
	log := s.repo.NewLog(context.WithoutCancel(s.Context()), c.Ticket.JobID, c.Ticket.BuildNumber, c.Ticket.Step, 1)
	io.WriteString(log, text)
	return func(result error) {
		s.Helper()
		if err := log.Close(); err != nil {
			s.Fatal(err)
		}
		t := c.Ticket.Clone()
		t.Finish(result)
		if _, err := s.repo.Commit(s.Context(), c, t, nil); err != nil && !errors.Is(err, queue.ErrLost) {
			s.Fatal(err)
		}
	}
}

// screen is a program on a terminal.
type screen struct {
	*exec.Cmd
	t    *testing.T
	tty  *os.File
	done chan struct{}

	mu  sync.Mutex
	all bytes.Buffer
}

func (s *stage) terminal(width, height uint16, env []string, args ...string) *screen {
	s.Helper()
	p := &screen{Cmd: exec.Command(name, args...), t: s.T, done: make(chan struct{})}
	p.Env = env
	tty, err := pty.StartWithSize(p.Cmd, &pty.Winsize{Cols: width, Rows: height})
	if err != nil {
		s.Fatal(err)
	}
	p.tty = tty
	go func() {
		defer close(p.done)
		buf := make([]byte, 4096)
		for {
			n, err := tty.Read(buf)
			p.mu.Lock()
			p.all.Write(buf[:n])
			p.mu.Unlock()
			if err != nil { // the program has ended
				return
			}
		}
	}()
	s.Cleanup(func() {
		p.Process.Kill()
		<-p.done
		p.Wait()
		tty.Close()
	})
	return p
}

func (p *screen) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.String()
}

// last is what the screen shows now: the last frame.
func (p *screen) last() string {
	text := p.text()
	return text[strings.LastIndex(text, "\x1b[H")+1:]
}

func (p *screen) until(what string, ok func() bool) {
	p.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("waited in vain for %s: %q", what, p.last())
		}
	}
}

func (p *screen) shows(parts ...string) {
	p.t.Helper()
	p.until(fmt.Sprintf("%q", parts), func() bool {
		s := p.last()
		for _, part := range parts {
			if !regexp.MustCompile(part).MatchString(s) {
				return false
			}
		}
		return true
	})
}

// status waits for the end, after which the terminal is as it was.
func (p *screen) status() int {
	p.t.Helper()
	<-p.done
	p.Wait()
	if text := p.text(); strings.Count(text, enter) != strings.Count(text, leave) {
		p.t.Errorf("the terminal is not as it was: %q", text)
	}
	return p.ProcessState.ExitCode()
}

// TestLive: on a terminal there is a table of the steps with the log of the one
// that runs, whatever size the terminal has; at the end the table and the
// result stay.
func TestLive(t *testing.T) {
	s := newStage(t, "web")
	s.trigger("web")
	s.controls()
	p := s.terminal(60, 12, s.env(), "follow", "web", "1")
	p.shows(`web #1  .*running`, `0 +compile +ready`, `1 +test +waiting`)
	end := s.step("one\n\x1b[2Jtwo\rthree \x1b[31mred\x1b[0m\n" + strings.Repeat("x", 200) + "\n")
	p.shows(`compile +\S*running.* worker-7`, `one`, `\r\nthree red\x1b`, `\r\nx{60}\x1b`)
	if strings.Contains(p.text(), "\x1b[2J") || strings.Contains(p.last(), "two") {
		t.Errorf("the log has spoken to the terminal: %q", p.last())
	}
	if err := pty.Setsize(p.tty, &pty.Winsize{Cols: 30, Rows: 4}); err != nil {
		t.Fatal(err)
	}
	p.shows(`\r\n-{30}\x1b`)
	frame := p.last()
	if n := strings.Count(frame, "\r\n"); n > 3 && strings.Contains(frame, "\x1b[J") {
		t.Errorf("%d lines on a terminal of 4: %q", n+1, frame)
	}
	end(nil)
	p.shows(`and 2 more`)
	end = s.step("wrong\n")
	end(errors.New("boo"))
	s.controls()
	if status := p.status(); status != 70 {
		t.Errorf("status %d of an error: %q", status, p.text())
	}
	_, stays, _ := strings.Cut(p.text(), leave)
	for _, want := range []string{"web #1", "compile", "\x1b[32msuccess", "\x1b[31merror", "wrong", "web #1: error"} {
		if !strings.Contains(stays, want) {
			t.Errorf("%q does not stay: %q", want, stays)
		}
	}
}

// TestLiveFinished: a build that is finished already is shown with the end of
// its log, however soon that comes.
func TestLiveFinished(t *testing.T) {
	s := newStage(t, "web")
	s.trigger("web")
	s.controls()
	s.step("wrong\n")(errors.New("boo"))
	s.controls()
	for range 20 {
		p := s.terminal(60, 12, s.env(), "follow", "web", "1")
		if status := p.status(); status != 70 || !strings.Contains(p.text(), "\nwrong\r\n") || !strings.Contains(p.text(), "web #1: error") {
			t.Fatalf("status %d: %q", status, p.text())
		}
	}
}

// TestPlain: without colors, without a terminal that can do it, and without one
// at all.
func TestPlain(t *testing.T) {
	s := newStage(t, "web")
	s.trigger("web")
	s.controls()
	colorless := s.terminal(80, 24, s.env("NO_COLOR=1"), "follow", "web", "1")
	dumb := s.terminal(80, 24, s.env("TERM=dumb"), "follow", "web", "1")
	asked := s.terminal(80, 24, s.env(), "log", "-f", "web", "1")
	said := s.terminal(80, 24, s.env(), "follow", "--plain", "web", "1")
	colorless.shows(`compile +ready`)
	s.step("hello\n")(nil)
	s.step("world\n")(nil)
	s.controls()
	for what, p := range map[string]*screen{"colorless": colorless, "dumb": dumb, "log": asked, "plain": said} {
		if status := p.status(); status != 0 {
			t.Errorf("%s: status %d: %q", what, status, p.text())
		}
		if what != "colorless" && (strings.Contains(p.text(), "\x1b") || !strings.Contains(p.text(), "hello\r\nworld")) {
			t.Errorf("%s: %q", what, p.text())
		}
	}
	if regexp.MustCompile(`\x1b\[[1-9][0-9]*m`).MatchString(colorless.text()) {
		t.Errorf("there are colors: %q", colorless.text())
	}
	cmd := exec.Command(name, "follow", "web", "1")
	cmd.Env = s.env()
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "hello\nworld\nweb #1: success\n" {
		t.Errorf("%v, %q", err, out)
	}
}

// TestInterrupt: ^C leaves a build alone, and says how to come back; or cancels
// it.
func TestInterrupt(t *testing.T) {
	s := newStage(t, "web")
	s.trigger("web")
	s.controls()
	p := s.terminal(80, 24, s.env(), "follow", "web", "1")
	p.shows(`compile +ready`)
	io.WriteString(p.tty, "\x03")
	if status := p.status(); status != 75 || !strings.Contains(p.text(), "web #1 goes on; to come back: distci-buildctl follow web 1") {
		t.Errorf("status %d: %q", status, p.text())
	}
	if b, err := s.repo.Build(t.Context(), "web", 1); err != nil || b.State.Canceled != "" {
		t.Errorf("the build was touched: %+v, %v", b, err)
	}

	p = s.terminal(80, 24, s.env(), "follow", "--cancel-on-interrupt", "web", "1")
	p.shows(`compile +ready`)
	io.WriteString(p.tty, "\x03")
	p.until("the cancellation", func() bool {
		b, err := s.repo.Build(t.Context(), "web", 1)
		return err == nil && b.State.Canceled != ""
	})
	p.until("the end", func() bool {
		s.controls()
		select {
		case <-p.done:
			return true
		default:
			return false
		}
	})
	if status := p.status(); status != 1 || !strings.Contains(p.text(), "web #1: canceled") {
		t.Errorf("status %d: %q", status, p.text())
	}

	s.trigger("web")
	s.controls()
	end := s.step("it goes on\n") // its worker does not listen
	p = s.terminal(80, 24, s.env(), "follow", "--plain", "--cancel-on-interrupt", "web", "2")
	p.until("the log", func() bool { return strings.Contains(p.text(), "it goes on") })
	p.Process.Signal(syscall.SIGINT)
	p.until("the first", func() bool { return strings.Contains(p.text(), "another ^C leaves it alone") })
	p.until("the cancellation", func() bool {
		b, err := s.repo.Build(t.Context(), "web", 2)
		return err == nil && b.State.Canceled != ""
	})
	p.Process.Signal(syscall.SIGINT)
	if status := p.status(); status != 75 {
		t.Errorf("status %d after the second: %q", status, p.text())
	}
	end(nil)
	s.controls()
}

// TestTable: where there is no room for all steps, those that have ended go
// first, and what is missing is said.
func TestTable(t *testing.T) {
	v := &view{job: "j", n: 3, state: &build.State{Status: build.Running, Tasks: map[string]*ticket.Ticket{}}}
	for i := range 10 {
		k := &ticket.Ticket{Type: "execute-shell", Name: fmt.Sprint("step-", i), ID: "x"}
		if i < 6 {
			k.Status, k.Result = ticket.Complete, ticket.Success
		} else if i == 6 {
			k.Status, k.Assignee = ticket.Running, "w"
		}
		v.state.Tasks[fmt.Sprint(i)] = k
	}
	for most := 3; most < 14; most++ {
		lines := v.table(most, time.Now())
		text := strings.Join(lines, "\n")
		if len(lines) > most || most < 12 && !strings.Contains(text, "more") || !strings.Contains(text, "step-6") {
			t.Errorf("%d: %s", most, text)
		}
	}
	if n := len(v.table(0, time.Now())); n != 11 {
		t.Errorf("%d lines of all", n)
	}
}

// FuzzClean: whatever a log holds, nothing is left that a terminal obeys.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"plain", "\x1b[31mred\x1b[0m", "\x1b]0;title\a", "a\rb\r", "\x1b[", "\x9b31m", "\x1b\x1b[[AA"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if c := clean(s); strings.ContainsFunc(c, func(r rune) bool { return r < ' ' || r >= 0x7f && r < 0xa0 }) {
			t.Errorf("%q became %q", s, c)
		}
	})
}
