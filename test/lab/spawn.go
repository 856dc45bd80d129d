package lab

import (
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// Spawner starts processes that the kernel kills when this one ends, however
// it ends: a test binary that was killed leaves none behind.
//
// The kernel's promise is bound to the thread that started the process, so
// one thread, which nobody else uses, starts them all and lives until Stop.
type Spawner struct {
	work chan func()
}

// NewSpawner makes a Spawner, which is stopped at the test's end, after what
// the test asks of Cleanup from now on.
func NewSpawner(t testing.TB) *Spawner {
	s := &Spawner{work: make(chan func())}
	go func() {
		// Never unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		for f := range s.work {
			f()
		}
	}()
	t.Cleanup(s.Stop)
	return s
}

// Start starts a process.
func (s *Spawner) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	done := make(chan error)
	s.work <- func() { done <- cmd.Start() }
	return <-done
}

// Stop ends the thread, and with it what it has started. It may be repeated.
func (s *Spawner) Stop() {
	if s.work != nil {
		close(s.work)
		s.work = nil
	}
}
