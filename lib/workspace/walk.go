package workspace

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

const openDirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openat is openat(2), tried again when a signal comes in between.
func openat(dir int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// openDir opens the directory name in parent itself; not one that a link of
// that name leads to.
func openDir(parent int, name string) (int, error) {
	return openat(parent, name, openDirFlags, 0)
}

// openRoot opens the directory of a workspace, by whatever path the caller
// has for it.
func openRoot(dir string) (int, error) {
	fd, err := openat(unix.AT_FDCWD, dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

func lstat(dir int, name string) (st unix.Stat_t, err error) {
	err = unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

// notDir tells whether openDir failed because there is something else than a
// directory; a link gives ENOTDIR or ELOOP, depending on the system.
func notDir(err error) bool { return err == unix.ENOTDIR || err == unix.ELOOP }

// readlink reads a link's target, however long.
func readlink(dir int, name string) (string, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dir, name, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// unlock makes the directory name in parent usable by its owner, and returns
// the mode that it had. It is for a directory that cannot be opened, and of
// which nobody knows that it still is one: hence the way through /proc, which
// cannot be led elsewhere by a link.
func unlock(parent int, name string) (mode uint32, err error) {
	fd, err := openat(parent, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return 0, err
	}
	mode = st.Mode & 0o7777
	return mode, unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode|0o700)
}

// walker goes to directories below a root one part of their path at a time,
// and keeps the last one open, as the next is mostly the same or below it.
type walker struct {
	root int
	// open opens the directory name in parent, whose full path is path.
	open func(parent int, name, path string) (int, error)

	path string // where it is
	fd   int    // of path; unless path is "", to be closed
}

func newWalker(root int) *walker {
	return &walker{
		root: root,
		open: func(parent int, name, _ string) (int, error) { return openDir(parent, name) },
		fd:   root,
	}
}

// to returns a descriptor of dir, valid until the next call.
func (w *walker) to(dir string) (int, error) {
	if dir == w.path {
		return w.fd, nil
	}
	if !inside(dir, w.path) {
		w.reset()
	}
	for w.path != dir {
		rest := strings.TrimPrefix(dir[len(w.path):], "/")
		name, _, _ := strings.Cut(rest, "/")
		path := join(w.path, name)
		fd, err := w.open(w.fd, name, path)
		if err != nil {
			return -1, err
		}
		w.reset()
		w.path, w.fd = path, fd
	}
	return w.fd, nil
}

// reset goes back to the root. It must be called when the directory in which
// the walker may be has been removed or renamed.
func (w *walker) reset() {
	if w.path != "" {
		unix.Close(w.fd)
	}
	w.path, w.fd = "", w.root
}
