package engine

import (
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// reachable asserts that the root of another user's container can get to a
// path, as it must to mount it. On the host it is a stranger, but one that may
// pass over the modes of what belongs to the user and the user's group, whose
// ids it has. Access control lists are not looked at.
func reachable(path string) error {
	if os.Geteuid() == 0 {
		return nil // who mounts it before
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fault.Wrap(fault.Config, err)
	}
	for i, c := range real + "/" {
		if c != '/' || i == 0 {
			continue
		}
		var st unix.Stat_t
		if err := unix.Stat(real[:i], &st); err != nil {
			return fault.Wrap(fault.Config, &os.PathError{Op: "stat", Path: real[:i], Err: err})
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o001 != 0 || st.Uid == uint32(os.Geteuid()) && st.Gid == uint32(os.Getegid()) {
			continue
		}
		what := path
		if !strings.HasPrefix(path, real[:i]) {
			what += " (" + real + ")"
		}
		return fault.Errorf(fault.Config, "%s: a container of user %d cannot pass through %s: chmod o+x %[3]s, or chgrp %[4]d %[3]s if it is this user's, or take another folder",
			what, os.Geteuid(), real[:i], os.Getegid())
	}
	return nil
}
