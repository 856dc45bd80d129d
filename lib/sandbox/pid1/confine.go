package pid1

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

func span(t unix.Timeval) time.Duration { return time.Duration(t.Nano()) }

// confine is for what this thread starts; in part for the whole process. It
// cannot be undone.
func confine() error {
	// Of this process's few capabilities, which change the user and kill, the
	// program gets none: also not if it runs as the container's root.
	for c := range uintptr(64) {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL {
			break // the kernel has no more
		}
		if err != nil {
			return fmt.Errorf("dropping capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil { // nobody looks into this process
		return fmt.Errorf("prctl: %w", err)
	}
	return filterCalls()
}
