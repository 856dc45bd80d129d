package zktest

import (
	"os/exec"
	"runtime"
	"syscall"
)

// spawner starts processes that the kernel kills when this one ends, however
// it ends: a test binary that was killed leaves none behind.
//
// The kernel's promise is bound to the thread that started the process, so
// one thread, which nobody else uses, starts them all and lives until stop.
type spawner struct {
	work chan func()
}

func newSpawner() *spawner {
	s := &spawner{work: make(chan func())}
	go func() {
		// Never unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		for f := range s.work {
			f()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	done := make(chan error)
	s.work <- func() { done <- cmd.Start() }
	return <-done
}

// stop ends the thread, and with it what it has started. It may be repeated.
func (s *spawner) stop() {
	if s.work != nil {
		close(s.work)
		s.work = nil
	}
}
