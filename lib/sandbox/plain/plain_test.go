package plain

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/sandboxtest"
)

func open() (sandbox.Sandbox, error) { return New() }

func TestMain(m *testing.M) { sandboxtest.Main(m, open) }

func TestSandbox(t *testing.T) { sandboxtest.Run(t, open) }

func newT(t testing.TB) *Sandbox {
	t.Helper()
	s, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

var nothing = sandbox.Spec{Args: []string{"/bin/true"}, Env: []string{"A=b"}, Dir: "/"}

// TestIgnoredSignals: what a process ignores from its beginning, as nohup(1)
// makes it, its programs do not.
func TestIgnoredSignals(t *testing.T) {
	const again = "PLAIN_TEST_IGNORES"
	if os.Getenv(again) == "" {
		exe, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("/bin/sh", "-c", `trap "" HUP INT; exec "$0" -test.run '^TestIgnoredSignals$'`, exe)
		cmd.Env = append(os.Environ(), again+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if !signal.Ignored(syscall.SIGHUP) || !signal.Ignored(syscall.SIGINT) {
		t.Fatal("nothing is ignored")
	}
	s := newT(t)
	for _, n := range []int{int(syscall.SIGHUP), int(syscall.SIGINT)} {
		spec := sandbox.Spec{Args: []string{"/bin/sh", "-c", fmt.Sprintf("kill -%d $$; exit 3", n)}, Dir: "/"}
		if r, err := s.Run(t.Context(), spec); err != nil || r.Signal != n {
			t.Errorf("signal %d: %+v, %v", n, r, err)
		}
	}
}

// TestLeavesNoTrace runs programs with orphans that end by themselves: they
// are reaped, and no file stays open.
func TestLeavesNoTrace(t *testing.T) {
	s := newT(t)
	spec := sandbox.Spec{Args: []string{"/bin/sh", "-c", "(setsid true &) ; (true &)"}, Dir: "/"}
	run := func() {
		t.Helper()
		if r, err := s.Run(t.Context(), spec); err != nil || r.Status != 0 {
			t.Fatal(r, err)
		}
	}
	run()
	files, err := numbers("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for range 30 {
		run()
	}
	if now, err := numbers("/proc/self/fd"); err != nil || len(now) > len(files) {
		t.Errorf("%d files are open, before it were %d; %v", len(now), len(files), err)
	}
	pids, err := children()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if p, ok := readProcess(pid); ok && p.session != s.session {
			t.Errorf("left: %+v", p)
		}
	}
	if len(s.running) != 0 {
		t.Errorf("still on the list: %v", s.running)
	}
}

func TestChildren(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	for name, list := range map[string]func() ([]int, error){"children": children, "childrenByParent": childrenByParent} {
		if pids, err := list(); err != nil || !slices.Contains(pids, cmd.Process.Pid) {
			t.Errorf("%s: %v, %v; want %d among them", name, pids, err, cmd.Process.Pid)
		}
	}
}

// TestWatchdogKilled kills the watchdog: the next program gets another.
func TestWatchdogKilled(t *testing.T) {
	s := newT(t)
	if _, err := s.Run(t.Context(), nothing); err != nil {
		t.Fatal(err)
	}
	first := s.watchdog.cmd.Process.Pid
	if err := unix.Kill(first, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	unix.Waitid(unix.P_PID, first, nil, unix.WEXITED|unix.WNOWAIT, nil)
	if _, err := s.Run(t.Context(), nothing); err != nil {
		t.Fatal(err)
	}
	if second := s.watchdog.cmd.Process.Pid; second == first || !s.watchdog.alive() {
		t.Errorf("the watchdog is %d, before %d", second, first)
	}
	if _, err := os.Stat("/proc/" + strconv.Itoa(first)); err == nil {
		t.Error("the dead watchdog was not reaped")
	}
}

// BenchmarkRun runs a program that does nothing, by os/exec and confined.
func BenchmarkRun(b *testing.B) {
	b.Run("exec", func(b *testing.B) {
		for b.Loop() {
			if err := exec.Command("/bin/true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("plain", func(b *testing.B) {
		s := newT(b)
		for b.Loop() {
			if _, err := s.Run(b.Context(), nothing); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// TestDeepChains stops programs whose descendants, in sessions of their own,
// become ours one after the other while they are looked for.
func TestDeepChains(t *testing.T) {
	s := newT(t)
	script := `sh -c 'setsid sh -c "setsid sh -c \"sleep 600; :\"; :" & echo; sleep 600; :'; :`
	var runs sync.WaitGroup
	for n := range 4 {
		runs.Go(func() {
			for i := range 25 {
				ctx, stop := context.WithCancel(t.Context())
				r, w := io.Pipe()
				go func() { r.Read(make([]byte, 1)); stop() }()
				name := fmt.Sprintf("RUN=%d.%d.%d", os.Getpid(), n, i)
				s.Run(ctx, sandbox.Spec{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin", name}, Dir: "/", Stdout: w})
				stop()
				w.Close()
				if left := withVariable(t, name); len(left) > 0 {
					t.Errorf("processes %v are left", left)
				}
			}
		})
	}
	runs.Wait()
}

// withVariable lists the processes that have a variable in their environment.
func withVariable(t *testing.T, variable string) (found []int) {
	pids, err := numbers("/proc")
	if err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if slices.Contains(strings.Split(string(b), "\x00"), variable) {
			found = append(found, pid)
		}
	}
	return found
}
