package cluster

import (
	"os"
	"path/filepath"
	"syscall"

	"github.com/distci/distci/lib/fault"
)

// becomeCeph replaces this process by its twin, the same program built with
// librados, which make puts beside it as NAME-ceph. So the programs themselves
// stay without C and run everywhere, in containers too, and only where a
// cluster's store is in Ceph the twin, and librados with it, is needed. If
// there is no twin, it returns nil.
func becomeCeph() error {
	program, err := os.Executable()
	if err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return fault.Errorf(fault.Config, "find the program that was built with Ceph: %w", err)
	}
	twin := program + "-ceph"
	if _, err := os.Stat(twin); err != nil {
		return nil
	}
	return fault.Errorf(fault.Config, "run %s: %w", twin, syscall.Exec(twin, os.Args, os.Environ()))
}
