package image

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/workspace"
)

// Remove removes names, and all trees that have none any more and are not
// used. A name whose tree is used, and that is the tree's last, is not removed:
// the error is ErrInUse. An error leaves all names as they were.
func (s *Store) Remove(names ...string) error {
	for _, name := range names {
		if err := checkName(name); err != nil {
			return failed("remove", err)
		}
	}
	if !s.exists() {
		if len(names) == 0 {
			return nil
		}
		return failed("remove", s.notFound(names[0]))
	}
	err := s.locked(unix.LOCK_EX, func() error { return s.forget(names) })
	if err == nil {
		err = s.clean()
	}
	return failed("remove", err)
}

// forget removes names alone.
func (s *Store) forget(names []string) error {
	all, err := s.names()
	if err != nil {
		return err
	}
	kept := map[string]bool{} // digests with a name that stays
	for _, name := range all {
		if slices.Contains(names, name) {
			continue
		}
		r, err := s.record(name)
		if errors.Is(err, ErrDamaged) {
			continue
		}
		if err != nil {
			return err
		}
		kept[r.Digest] = true
	}
	for _, name := range names {
		info, err := s.info(name)
		if errors.Is(err, ErrDamaged) {
			continue // nobody can use it by this name
		}
		if err != nil {
			return err
		}
		if info.InUse && !kept[info.Digest] {
			return fault.Errorf(fault.Temporary, "%s is %w by a container", name, ErrInUse)
		}
	}
	for _, name := range names {
		if err := os.Remove(s.nameFile(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// clean removes what nothing refers to: trees without a name that nobody uses,
// and what is left of imports whose process is gone.
func (s *Store) clean() error {
	var found []*os.File
	err := s.locked(unix.LOCK_EX, func() (err error) {
		if err = s.retire(); err == nil {
			found, err = s.abandoned()
		}
		return err
	})
	for _, r := range found {
		if e := workspace.Remove(r.Name()); err == nil {
			err = e
		}
		r.Close()
	}
	return err
}

// retire moves trees without a name to where abandoned finds them.
func (s *Store) retire() error {
	names, err := s.names()
	if err != nil {
		return err
	}
	named := map[string]bool{}
	for _, name := range names {
		r, err := s.record(name)
		if errors.Is(err, ErrDamaged) {
			return nil // nobody knows which tree it needs: all stay until it has a new meaning
		}
		if err != nil {
			return err
		}
		named[r.Digest] = true
	}
	trees, err := os.ReadDir(filepath.Join(s.dir, "sha256"))
	if err != nil {
		return err
	}
	for _, e := range trees {
		digest := digestPrefix + e.Name()
		if named[digest] {
			continue
		}
		used, err := s.used(digest)
		if err != nil {
			return err
		}
		if used {
			continue
		}
		if err := os.Rename(s.tree(digest), s.tempName()); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) tempName() string { return filepath.Join(s.dir, "tmp", rand.Text()) }

// temp makes a folder for an import. Its process holds its lock.
func (s *Store) temp() (path string, remove func(), err error) {
	path = s.tempName()
	var f *os.File
	err = s.locked(unix.LOCK_SH, func() (err error) { // so that nobody finds it without its lock
		if err := os.Mkdir(path, 0o700); err != nil {
			return err
		}
		if f, err = os.Open(path); err != nil {
			return err
		}
		return flock(f, unix.LOCK_EX|unix.LOCK_NB)
	})
	if err != nil {
		f.Close()
		return "", nil, err
	}
	return path, func() { _ = workspace.Remove(path); f.Close() }, nil
}

// abandoned are the folders of tmp that no process holds, locked, so that
// nobody else removes them at the same time.
func (s *Store) abandoned() (found []*os.File, err error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "tmp"))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(s.dir, "tmp", e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return found, err
		}
		if flock(f, unix.LOCK_EX|unix.LOCK_NB) != nil {
			f.Close()
			continue
		}
		found = append(found, f)
	}
	return found, nil
}
