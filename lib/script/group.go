package script

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// killTime is how long a group may take to go after SIGKILL. Only a process
// that hangs inside the kernel takes longer; it is left to the sandbox.
const killTime = 5 * time.Second

// group is a process group, known by its leader's pid. That number stays ours,
// and signals to it reach nobody else, as long as the leader is not reaped or
// the group has another process that is a child of ours.
type group struct {
	pid    int
	exited chan struct{} // closed when the leader has ended; it is not reaped
}

// start starts a program as the leader of a new group, with out as its stdout
// and stderr.
func start(argv []string, dir string, env []string, in, out *os.File) (*group, error) {
	// Processes whose parent in the group has ended become our children, so
	// that it is known when the last of them has.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, err
	}
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Dir: dir, Env: env, Files: []uintptr{in.Fd(), out.Fd(), out.Fd()},
		Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return nil, err
	}
	g := &group{pid, make(chan struct{})}
	go func() {
		defer close(g.exited)
		retry(func() error { return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) })
	}()
	return g, nil
}

func (g *group) signal(sig unix.Signal) { unix.Kill(-g.pid, sig) } // that none is left is fine

// reap waits for the leader to end, and returns how it did.
func (g *group) reap() (ws unix.WaitStatus) {
	<-g.exited
	retry(func() error { _, err := unix.Wait4(g.pid, &ws, 0, nil); return err })
	return ws
}

// reapAll waits for all of the group to end.
func (g *group) reapAll() {
	g.reap()
	for {
		if retry(func() error { _, err := unix.Wait4(-g.pid, nil, 0, nil); return err }) != nil {
			return // ECHILD
		}
	}
}

func retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// wait waits for the script's end, or brings it about.
func (s Script) wait(ctx context.Context, g *group) (int, error) {
	var timeout <-chan time.Time
	if s.Timeout > 0 {
		timer := time.NewTimer(s.Timeout)
		defer timer.Stop()
		timeout = timer.C
	}
	var why error
	select {
	case <-g.exited:
	case <-timeout:
		why = fault.Errorf(fault.Verdict, "script: timed out after %s", seconds(s.Timeout))
	case <-ctx.Done():
		why = fault.Errorf(fault.Interrupted, "script: interrupted")
	}
	if why == nil {
		g.signal(unix.SIGKILL) // what it left behind
		return verdict(g.reap())
	}
	g.stop(s.Grace)
	return -1, why
}

// stop ends the group: politely, and after the grace by force. A leader that
// ends at once, as a shell does, does not shorten the others' time.
func (g *group) stop(grace time.Duration) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		g.reapAll()
	}()
	g.signal(unix.SIGTERM)
	g.signal(unix.SIGCONT) // one that is stopped would not notice
	if after(grace, gone) {
		return
	}
	g.signal(unix.SIGKILL)
	after(killTime, gone)
}

// after waits for done, at most for d, and tells whether it came.
func after(d time.Duration, done <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}
