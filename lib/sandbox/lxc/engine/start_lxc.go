//go:build linux && cgo && lxc

package engine

import (
	"os"

	lxc "github.com/lxc/go-lxc"

	"github.com/distci/distci/lib/fault"
)

// Version is that of liblxc.
func Version() string { return lxc.Version() }

const haveLXC = true

type lxcContainer struct {
	c     *lxc.Container
	first *os.File
	id    int
}

// start starts a container with the given PID 1. It forgets no configuration:
// what LXC does not know is an error.
func start(name, dir string, config []item, args []string) (container, error) {
	if os.Geteuid() == 0 {
		// Root maps ids itself; with this helper in the PATH LXC would ask
		// it, and it /etc/subuid.
		os.Setenv("PATH", "/nonexistent")
	}
	c, err := lxc.NewContainer(name, dir)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "LXC: %w", err)
	}
	for _, i := range config {
		if err := c.SetConfigItem(i.key, i.value); err != nil {
			c.Release()
			return nil, fault.Errorf(fault.Config, "LXC: %s = %s: %w", i.key, i.value, err)
		}
	}
	if err := c.SetLogLevel(lxc.ERROR); err != nil {
		c.Release()
		return nil, fault.Errorf(fault.Config, "LXC: %w", err)
	}
	if err := c.StartWithArgs(args); err != nil {
		c.Release()
		return nil, fault.Errorf(fault.Config, "LXC: %w", err)
	}
	pidfd, err := c.InitPidFd()
	if err != nil {
		c.Release() // PID 1 finds no listener, and ends
		return nil, fault.Errorf(fault.Temporary, "LXC: the container has died: %w", err)
	}
	return &lxcContainer{c: c, first: pidfd, id: c.InitPid()}, nil
}

func (l *lxcContainer) pidfd() int { return int(l.first.Fd()) }
func (l *lxcContainer) pid() int   { return l.id }

func (l *lxcContainer) release() {
	l.first.Close()
	l.c.Release()
}
