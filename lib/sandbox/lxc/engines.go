package lxc

import (
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// To start an engine takes about as long as to make a container, so those that
// have done their work are kept for the next.

const (
	idleTime = time.Minute // how long an engine is kept without work
	lifetime = 1000        // how many containers it makes: what it may leak is bounded
)

// engine is a process of distci-lxc that makes containers.
type engine struct {
	cmd     *exec.Cmd
	control *net.UnixConn
	made    int           // containers
	since   time.Time     // when it became idle
	gone    chan struct{} // closed when the process has ended
	err     error         // of its end; set before gone is closed
}

// takeEngine takes an idle engine, or starts one.
func (s *Sandbox) takeEngine() (*engine, error) {
	for {
		s.mu.Lock()
		n := len(s.idle)
		if n == 0 {
			s.mu.Unlock()
			return s.startEngine()
		}
		e := s.idle[n-1]
		s.idle = s.idle[:n-1]
		s.mu.Unlock()
		select {
		case <-e.gone: // somebody has killed it
			e.end()
		default:
			return e, nil
		}
	}
}

// giveBack makes an engine idle, whose last container is gone.
func (s *Sandbox) giveBack(e *engine) {
	if e.made++; e.made >= lifetime {
		e.end()
		return
	}
	e.since = time.Now()
	s.mu.Lock()
	s.idle = append(s.idle, e)
	s.mu.Unlock()
	time.AfterFunc(idleTime, func() { s.endIdle(idleTime) })
}

// Close ends all idle engines. Those that have a container end it, and
// themselves, with this process.
func (s *Sandbox) Close() error {
	s.endIdle(0)
	return nil
}

// endIdle ends engines that have been idle for so long.
func (s *Sandbox) endIdle(atLeast time.Duration) {
	s.mu.Lock()
	var old []*engine
	s.idle = slices.DeleteFunc(s.idle, func(e *engine) bool {
		if time.Since(e.since) < atLeast {
			return false
		}
		old = append(old, e)
		return true
	})
	s.mu.Unlock()
	for _, e := range old {
		e.end()
	}
}

// startEngine starts distci-lxc.
func (s *Sandbox) startEngine() (*engine, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	// In a group of its own it is spared what is meant for ours, a ^C.
	attr := &syscall.SysProcAttr{Setpgid: true}
	if ownsMounts() {
		attr.Unshareflags = syscall.CLONE_NEWNS
	}
	e := &engine{control: ours, gone: make(chan struct{})}
	e.cmd = &exec.Cmd{Path: s.o.Program, Args: []string{"distci-lxc", "engine"}, Env: engineEnv(), Dir: "/", Stderr: os.Stderr,
		ExtraFiles: []*os.File{theirs}, SysProcAttr: attr}
	if err := e.cmd.Start(); err != nil {
		ours.Close()
		return nil, err
	}
	go func() {
		defer close(e.gone)
		e.err = e.cmd.Wait()
	}()
	return e, nil
}

// end ends the engine, and returns how it went.
func (e *engine) end() error {
	e.control.Close()
	<-e.gone
	return e.err
}

// ownsMounts tells whether engines have a mount namespace of their own.
func ownsMounts() bool { return os.Geteuid() == 0 }

// engineEnv is the environment of an engine: nothing of this process's
// secrets is in it.
func engineEnv() []string {
	env := []string{"GOMAXPROCS=1"}
	for _, name := range []string{"PATH", "HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	theirs = os.NewFile(uintptr(fds[1]), "distci-lxc")
	f := os.NewFile(uintptr(fds[0]), "distci-lxc")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return c.(*net.UnixConn), theirs, nil
}
