package engine

import (
	"os"
	"path/filepath"
	"syscall"

	"github.com/distci/distci/lib/fault"
)

// makePrivate makes a folder for what this user's processes tell each other,
// if it is not there; see isPrivate.
func makePrivate(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.Wrap(fault.Config, err)
	}
	return isPrivate(dir)
}

// isPrivate asserts that nobody else can have put something into the folder:
// what it says is removed, is. Without $XDG_RUNTIME_DIR it is below /tmp, where
// somebody else may have been first.
func isPrivate(dir string) error {
	for _, d := range []string{filepath.Dir(dir), dir} {
		fi, err := os.Lstat(d)
		if err != nil {
			return fault.Wrap(fault.Config, err)
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if !fi.IsDir() || !ok || st.Uid != uint32(os.Geteuid()) && st.Uid != 0 || fi.Mode().Perm()&0o022 != 0 {
			return fault.Errorf(fault.Config, "%s must be a folder of user %d that nobody else can write to: remove it, or set XDG_RUNTIME_DIR to one that is", d, os.Geteuid())
		}
	}
	return nil
}
