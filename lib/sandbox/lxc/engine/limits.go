package engine

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
)

// limitsPossible asserts that this user can set the limits that are asked for.
// That they are in force is seen when the container runs; see counters.check.
func limitsPossible(l sandbox.Limits, all []hierarchy) error {
	for _, c := range []struct {
		controller, what string
		asked            bool
	}{
		{"memory", "memory", l.Memory > 0}, {"pids", "processes", l.Processes > 0}, {"cpu", "processors", l.CPUs > 0},
	} {
		if !c.asked {
			continue
		}
		dir, v2, err := groupOf(os.Getpid(), c.controller, all)
		if err == nil && v2 {
			err = haveController(c.controller, all)
		}
		if err != nil {
			return fault.Errorf(fault.Config, "no limit on %s: %w", c.what, err)
		}
		if os.Geteuid() == 0 {
			continue
		}
		if v2 {
			// It shares its controllers out to groups below it only if no
			// process is in it, but who calls us is.
			return fault.Errorf(fault.Config, "no limit on %s: with control groups of version 2 only root can limit containers: do without the limit, or run this as root", c.what)
		}
		if unix.Access(dir, unix.W_OK) != nil || unix.Access(filepath.Join(dir, "cgroup.procs"), unix.W_OK) != nil {
			return fault.Errorf(fault.Config, "no limit on %s: the control group %s is not user %d's: do without the limit, or have root make a group for this process: "+
				"mkdir DIR; chown %[3]d DIR DIR/cgroup.procs DIR/tasks; echo PID >DIR/cgroup.procs, with a DIR below %[4]s (see distci-lxc(1))", c.what, dir, os.Geteuid(), dir)
		}
	}
	return nil
}

// haveController asserts that version 2 has the controller.
func haveController(name string, all []hierarchy) error {
	for _, h := range all {
		if !h.v2 {
			continue
		}
		b, err := os.ReadFile(filepath.Join(h.root, "cgroup.controllers"))
		if err != nil || !slices.Contains(strings.Fields(string(b)), name) {
			return fault.Errorf(fault.Config, "the control groups at %s do not have the %s controller: the kernel was started without it, or another hierarchy has it", h.root, name)
		}
	}
	return nil
}
