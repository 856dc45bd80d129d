package workspace

import (
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// maxDepth is how many directories Remove holds open, one in the other.
const maxDepth = 64

// Remove removes the tree at dir, whatever is in it: directories that their
// owner may not write to or read, and ones that are nested deeper than any
// path can say. It follows no links. That there is nothing is a success.
func Remove(dir string) error {
	parent, base := filepath.Split(filepath.Clean(dir))
	if base == "" || base == "." || base == ".." {
		return failed("remove", &os.PathError{Op: "remove", Path: dir, Err: unix.EINVAL})
	}
	if parent == "" {
		parent = "."
	}
	fd, err := openRoot(parent)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return failed("remove", err)
	}
	defer unix.Close(fd)
	if err := removeAt(fd, base); err != nil {
		return failed("remove", &os.PathError{Op: "remove", Path: dir, Err: err})
	}
	return nil
}

// removeAt removes the tree at name in the directory parent, which must be
// writable.
func removeAt(parent int, name string) error {
	return (&remover{top: -1}).remove(parent, name, 0)
}

// remover removes one tree. What is nested too deeply is moved up into the
// tree's own root, where it is found again.
type remover struct{ top int }

func (r *remover) remove(parent int, name string, depth int) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	fd, e := openUnlocked(parent, name)
	if e == unix.ENOENT {
		return nil
	}
	if notDir(e) {
		return err // a file that cannot be unlinked
	}
	if e != nil {
		return e
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	if depth == 0 {
		r.top = fd
	}
	if depth == maxDepth {
		return unix.Renameat(parent, name, r.top, "."+rand.Text())
	}
	for range 10 { // more than once only if somebody puts new files in
		if err = r.empty(d, depth); err != nil {
			return err
		}
		err = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
		if err != unix.ENOTEMPTY && err != unix.EEXIST {
			break
		}
	}
	if err == unix.ENOENT {
		return nil
	}
	return err
}

// empty removes all that is in d.
func (r *remover) empty(d *os.File, depth int) error {
	for {
		if _, err := d.Seek(0, io.SeekStart); err != nil {
			return err
		}
		found := false
		for {
			names, err := d.Readdirnames(1024)
			for _, name := range names {
				found = true
				if err := r.remove(int(d.Fd()), name, depth+1); err != nil {
					return err
				}
			}
			if err == io.EOF {
				break
			}
			if err != nil {
				return err
			}
		}
		if !found {
			return nil
		}
	}
}

// openUnlocked opens a directory whose contents are to be removed, and makes
// it writable.
func openUnlocked(parent int, name string) (int, error) {
	fd, err := openDir(parent, name)
	if err == unix.EACCES {
		if _, err := unlock(parent, name); err != nil {
			return -1, err
		}
		fd, err = openDir(parent, name)
	}
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&0o700 != 0o700 {
		// Somebody else's directory cannot be changed, and perhaps need not be.
		_ = unix.Fchmod(fd, st.Mode&0o7777|0o700)
	}
	return fd, nil
}
