// Package plain runs a program as a child of this process, in a session of its
// own and without isolation, for laptops and for tools that are trusted.
//
// What keeps its promise that nothing is left of a program:
//
//   - This process becomes a child subreaper (prctl(2)): orphans become its own
//     children, however often they forked and whatever session they made. A
//     child that is not in this process's session is a program's. Which one's,
//     if several run, is told by its session, or by [sandbox.StepVar] in the
//     environment that it was started with. What can be told by neither is
//     killed when the last of the programs that run at the time has ended.
//   - If this process is killed, the kernel kills the programs (PDEATHSIG), and
//     a watchdog kills their descendants: see watchdog.go.
//
// A process that has both left its session and cleared its environment outlives
// this process if that is killed with SIGKILL; and one that changed its user
// may be beyond our reach. Against those there is sandbox/lxc.
//
// For the sake of the above there must be one Sandbox in a process, and nothing
// else in it may start children in sessions of their own.
package plain

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/stdio"
)

// Sandbox implements [sandbox.Sandbox].
type Sandbox struct {
	id      string // marks the processes of this Sandbox's programs
	session int    // of this process

	// mu is held while a program is started, so that no sweep takes the new
	// child for an orphan, and while a sweep looks.
	mu       sync.Mutex
	last     int
	running  map[string]int // mark → pid of the program, 0 while it starts
	watchdog *watchdog
}

var _ sandbox.Sandbox = (*Sandbox)(nil)

// New makes this process a child subreaper and returns its Sandbox, of which it
// can have one: children that are not that one's programs are orphans to it.
func New() (*Sandbox, error) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		return nil, fault.Errorf(fault.Config, "sandbox/plain: /proc is needed: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fault.Errorf(fault.Config, "sandbox/plain: becoming a child subreaper: %w", err)
	}
	session, err := unix.Getsid(0)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "sandbox/plain: %w", err)
	}
	return &Sandbox{id: uuid.NewString(), session: session, running: map[string]int{}}, nil
}

// Inside implements [sandbox.Sandbox].
func (s *Sandbox) Inside(m sandbox.Mount) string { return m.Source }

// Describe implements [sandbox.Sandbox].
func (s *Sandbox) Describe() string {
	return "plain: programs run as this user, with its rights and its network and without limits; only their processes are cleaned up"
}

// Close ends the watchdog. No program may be running.
func (s *Sandbox) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchdog != nil {
		s.watchdog.close()
		s.watchdog = nil
	}
	return nil
}

// Run implements [sandbox.Sandbox].
func (s *Sandbox) Run(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error) {
	type outcome struct {
		result sandbox.Result
		err    error
	}
	done := make(chan outcome)
	go func() {
		// PDEATHSIG is about the thread that started the program, not about
		// its process; so the thread is kept for as long as the program.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		result, err := s.run(ctx, spec)
		done <- outcome{result, err}
	}()
	o := <-done
	return o.result, o.err
}

func (s *Sandbox) run(ctx context.Context, spec sandbox.Spec) (result sandbox.Result, err error) {
	if err := ctx.Err(); err != nil {
		return result, fmt.Errorf("sandbox/plain: %w", err)
	}
	cmd, err := command(spec)
	if err != nil {
		return result, err
	}
	streams, err := stdio.Connect(spec)
	if err != nil {
		return result, fault.Errorf(fault.Temporary, "sandbox/plain: %w", err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = streams.Files[0], streams.Files[1], streams.Files[2]
	mark, err := s.start(cmd)
	streams.Started()
	if err != nil {
		streams.Finish()
		return result, fault.Errorf(sandbox.StartFault(err), "sandbox/plain: %s: %w", cmd.Args[0], err)
	}
	begun := time.Now()
	s.await(ctx, cmd.Process.Pid, spec.Grace)
	ended := time.Now()
	cmd.Wait() // its error only repeats the state
	err = s.sweep(mark, cmd.Process.Pid)
	streams.Finish()
	result = describe(cmd.ProcessState)
	result.Started, result.Ended = begun, ended
	return result, err
}

// command makes the command, but for its streams.
func command(spec sandbox.Spec) (*exec.Cmd, error) {
	if len(spec.Args) == 0 {
		return nil, fault.Errorf(fault.Internal, "sandbox/plain: no program given")
	}
	path, err := sandbox.LookPath(spec.Args[0], spec.Env)
	if err != nil {
		return nil, fault.Errorf(fault.MissingTool, "sandbox/plain: %w", err)
	}
	return &exec.Cmd{Path: path, Args: spec.Args, Env: spec.Env, Dir: spec.Dir,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}}, nil
}

// start starts the program under a new mark.
func (s *Sandbox) start(cmd *exec.Cmd) (mark string, err error) {
	heed()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	mark = fmt.Sprintf("%s.%d", s.id, s.last)
	cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], sandbox.StepVar+"="+mark)
	if err := s.guard(); err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	s.running[mark] = cmd.Process.Pid
	s.watchdog.add(cmd.Process.Pid)
	return mark, nil
}

// heed makes programs begin with no signal ignored, also if this process was
// begun by nohup(1), or by a shell with "&". A signal that somebody catches
// is at its default in a new program; this process still ignores those.
func heed() {
	for n := syscall.Signal(1); n < 32; n++ {
		if signal.Ignored(n) {
			signal.Notify(make(chan os.Signal, 1), n)
		}
	}
}

// guard starts the watchdog if there is none, and another one if it was killed.
func (s *Sandbox) guard() error {
	if s.watchdog != nil && s.watchdog.alive() {
		return nil
	}
	if s.watchdog != nil {
		s.watchdog.close()
		s.watchdog = nil
	}
	w, err := startWatchdog(s.id)
	if err != nil {
		return err
	}
	s.watchdog = w
	for _, pid := range s.running {
		w.add(pid)
	}
	return nil
}

// await waits until the program has ended, and leaves it to be reaped: until
// then its pid is not given to another, so that its group can be killed.
func (s *Sandbox) await(ctx context.Context, pid int, grace time.Duration) {
	ended := make(chan struct{})
	var stopper sync.WaitGroup
	stopper.Go(func() {
		select {
		case <-ended:
			return
		case <-ctx.Done():
		}
		if grace > 0 {
			unix.Kill(-pid, unix.SIGTERM)
			timer := time.NewTimer(grace)
			defer timer.Stop()
			select {
			case <-ended:
				return
			case <-timer.C:
			}
		}
		unix.Kill(-pid, unix.SIGKILL)
		unix.Kill(pid, unix.SIGKILL)
	})
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	close(ended)
	stopper.Wait()
	unix.Kill(-pid, unix.SIGKILL)
}

func describe(p *os.ProcessState) sandbox.Result {
	r := sandbox.Result{Status: p.ExitCode(), Usage: sandbox.Usage{User: p.UserTime(), System: p.SystemTime()}}
	if ws := p.Sys().(syscall.WaitStatus); ws.Signaled() {
		r.Signal = int(ws.Signal())
		r.Status = 128 + r.Signal
	}
	if u, ok := p.SysUsage().(*syscall.Rusage); ok {
		r.Usage.MaxRSS = u.Maxrss << 10
	}
	return r
}
