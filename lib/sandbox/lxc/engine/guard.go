package engine

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox/wire"
)

// childless is how long LXC's monitor may be without a living child while it
// starts one. If that child is killed at a bad moment, LXC waits for it for
// ever, as the monitor itself holds the other end of the socket between them.
const childless = 3 * time.Second

// container is a started one.
type container struct {
	first int           // PID 1, as the host calls it
	pidfd *os.File      // refers to it
	conn  *net.UnixConn // its call
}

func (c *container) kill() { unix.PidfdSendSignal(int(c.pidfd.Fd()), unix.SIGKILL, nil, 0) }

func (c *container) release() {
	c.conn.Close()
	if c.pidfd != nil {
		c.pidfd.Close()
	}
}

// startGuarded starts the container and waits for the call of its first
// process. It gives up when LXC hangs, or when the worker is gone or wants an
// end at once. The channel tells when the container and LXC's monitor are gone;
// after an error they are.
func (r *run) startGuarded(l *net.UnixListener, stop <-chan wire.Stop) (*container, <-chan exit, error) {
	config := r.config()
	monitor, err := start(r.slot.name, r.req.State, config, []string{initPath, socketPath})
	if err != nil {
		return nil, nil, err
	}
	gone := make(chan exit, 1)
	go func() {
		var x exit
		x.status, x.err = awaitEnd()
		gone <- x
	}()
	type outcome struct {
		c   *container
		err error
	}
	called := make(chan outcome, 1)
	go func() {
		c, err := accept(l, monitor)
		called <- outcome{c, err}
	}()
	giveUp := func(err error) error {
		endAll()
		l.Close()
		if o := <-called; o.c != nil {
			o.c.release()
		}
		return err
	}
	begun := time.Now()
	alive := time.Time{} // when that child was last seen: on a busy machine it is long in coming
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		why := ""
		select {
		case o := <-called:
			if o.err != nil {
				called <- outcome{}
				return nil, nil, errors.Join(giveUp(o.err), awaitGone(gone))
			}
			return o.c, gone, nil
		case x := <-gone:
			err := fault.Errorf(fault.Temporary, "the container has died before its first process called")
			if x.err != nil {
				err = fault.Errorf(fault.Temporary, "LXC: %w", x.err)
			} else if x.status == refused {
				err = fault.Errorf(fault.Config, "LXC %s does not take the container's configuration: %s", Version(), misfit(r.slot.name, r.req.State, config))
			}
			return nil, nil, giveUp(err)
		case _, ok := <-stop:
			stop = nil // nothing runs yet that could be asked to end
			why = "it is not wanted any more"
			if !ok {
				why = "the worker is gone"
			}
		case <-tick.C:
			has, works := monitorsChild(monitor)
			switch {
			case time.Since(begun) > startLimit:
				why = "its first process does not call"
			case works, has && alive.IsZero():
				alive = time.Now()
			case !alive.IsZero() && time.Since(alive) > childless:
				why = "LXC waits for a process that is dead"
			}
		}
		if why != "" {
			err := giveUp(fault.Errorf(fault.Temporary, "the container did not start: %s", why))
			return nil, nil, errors.Join(err, awaitGone(gone))
		}
	}
}

// accept takes the call of the first process, a child of LXC's monitor.
func accept(l *net.UnixListener, monitor int) (c *container, err error) {
	conn, err := l.AcceptUnix()
	if err != nil {
		return nil, err
	}
	c = &container{conn: conn}
	defer func() {
		if err != nil {
			c.release()
		}
	}()
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	if e := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return nil, errors.Join(e, err)
	}
	c.first = int(peer.Pid)
	fd, err := unix.PidfdOpen(c.first, 0)
	if err != nil {
		return nil, fmt.Errorf("the first process in the container: %w", err)
	}
	c.pidfd = os.NewFile(uintptr(fd), "PID 1")
	// If it had died before that, its number could be another's by now.
	if !slices.Contains(childrenOf(monitor), c.first) {
		return nil, errors.New("the first process in the container has died")
	}
	return c, nil
}

// exit is how LXC's monitor has ended.
type exit struct {
	status int
	err    error
}

// awaitGone waits until a container and its monitor are.
func awaitGone(gone <-chan exit) error {
	select {
	case x := <-gone:
		return fault.Wrap(fault.Temporary, x.err)
	case <-time.After(dieLimit):
		return fault.Errorf(fault.Temporary, "the container does not die")
	}
}

// monitorsChild tells whether LXC's monitor has a child, and whether that lives.
func monitorsChild(monitor int) (has, lives bool) {
	for _, pid := range childrenOf(monitor) {
		has = true
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if i := strings.LastIndexByte(string(b), ')'); i >= 0 && !strings.HasPrefix(string(b[i:]), ") Z") {
			return true, true
		}
	}
	return has, false
}

// childrenOf lists the children of a process with one thread.
func childrenOf(pid int) (pids []int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", pid))
	for word := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(word); err == nil {
			pids = append(pids, n)
		}
	}
	return pids
}
