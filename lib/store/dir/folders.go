package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/store"
)

// maxDurable bounds the memory of what is known to be safe on disk.
const maxDurable = 10000

// makeParents makes the missing folders above key.
func (s *folder) makeParents(key string) error {
	for i := range len(key) {
		if key[i] != '/' {
			continue
		}
		err := s.root.Mkdir(key[:i], 0o700)
		switch {
		case err == nil:
			s.forget(key[:i])
		case errors.Is(err, fs.ErrNotExist):
			return nil // a Delete took the folder above away; the caller tries again
		case errors.Is(err, unix.ENOTDIR):
			return fmt.Errorf("%w: a part of it is an object", store.ErrBadKey)
		case !errors.Is(err, fs.ErrExist):
			return err
		}
	}
	return nil
}

// syncEntry makes the coming or going of key safe: its entry in its folder,
// and the entries of the folders above that this process has not seen safe.
func (s *folder) syncEntry(key string) error {
	dir := path.Dir(key)
	for {
		err := s.syncFolder(dir)
		if err == nil {
			break
		}
		// A folder that is gone took key with it; then the one above counts.
		if !absent(err) || dir == "." {
			return err
		}
		dir = path.Dir(dir)
	}
	for ; dir != "." && !s.isDurable(dir); dir = path.Dir(dir) {
		if err := s.syncFolder(path.Dir(dir)); err != nil && !absent(err) {
			return err
		}
		s.setDurable(dir)
	}
	return nil
}

func (s *folder) syncFolder(dir string) error {
	d, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (s *folder) isDurable(dir string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.durable[dir]
	return ok
}

func (s *folder) setDurable(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.durable) >= maxDurable {
		clear(s.durable)
	}
	s.durable[dir] = struct{}{}
}

func (s *folder) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.durable, dir)
}

// prune removes the folders above key that have become empty.
func (s *folder) prune(key string) {
	for dir := path.Dir(key); dir != "."; dir = path.Dir(dir) {
		if s.unlink(dir, unix.AT_REMOVEDIR) != nil {
			return // not empty, as a rule
		}
		s.forget(dir)
	}
}

// removeEmpty removes the folder dir if there is no object in it, and tells
// whether it is gone. Such a folder is what a writer left that was killed
// between making it and using it.
func (s *folder) removeEmpty(dir string) bool {
	d, err := s.root.Open(dir)
	if err != nil {
		return absent(err)
	}
	entries, err := d.ReadDir(-1)
	d.Close()
	if err != nil {
		return false
	}
	for _, e := range entries {
		if !e.IsDir() || !s.removeEmpty(dir+"/"+e.Name()) {
			return false
		}
	}
	if err := s.unlink(dir, unix.AT_REMOVEDIR); err != nil && !absent(err) {
		return false
	}
	s.forget(dir)
	return true
}

// unlink is unlinkat(2) below the root. [os.Root.Remove] would remove a file
// where a folder was meant, and the other way round, if a race turned one into
// the other.
func (s *folder) unlink(name string, flags int) error {
	d, err := s.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer d.Close()
	return os.NewSyscallError("unlinkat", unix.Unlinkat(int(d.Fd()), path.Base(name), flags))
}

// validPart tells whether name can be a part of a key.
func validPart(name string) bool {
	return !strings.HasPrefix(name, ".") && store.CheckKey(name) == nil
}
