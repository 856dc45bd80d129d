package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/store"
)

const defaultLimit = 1000

// List implements [store.Store]. It reads the names in the folders on the way
// to the page, and goes into no folder that lies wholly before or behind it.
func (s *folder) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	dir := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if !validFolder(dir) {
		return nil, nil // no key begins so
	}
	l := &listing{s: s, ctx: ctx, prefix: prefix, after: after, limit: pageSize(limit)}
	if err := l.walk(dir); err != nil && err != errFull {
		return nil, failed("list", prefix, err)
	}
	return l.found, nil
}

// errFull ends a walk whose page is full.
var errFull = errors.New("page is full")

type listing struct {
	s             *folder
	ctx           context.Context
	prefix, after string
	limit         int
	found         []store.Info
}

// walk adds the objects in dir, which is empty or ends in "/".
func (l *listing) walk(dir string) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	d, names, err := l.s.names(dir, func(name string, isDir bool) (string, bool) {
		key := dir + name
		if isDir {
			key += "/" // so that it sorts as the keys in it do
			inside := strings.HasPrefix(key, l.prefix) || strings.HasPrefix(l.prefix, key)
			return key, inside && (key > l.after || strings.HasPrefix(l.after, key))
		}
		return key, strings.HasPrefix(key, l.prefix) && key > l.after
	})
	if err != nil {
		return err
	}
	if d == nil {
		return nil
	}
	defer d.Close()
	for _, key := range names {
		if strings.HasSuffix(key, "/") {
			if err := l.walk(key); err != nil {
				return err
			}
			continue
		}
		if len(l.found) == l.limit {
			return errFull
		}
		info, ok, err := statIn(d, dir, key)
		if err != nil {
			return err
		}
		if ok {
			l.found = append(l.found, info)
		}
	}
	if len(l.found) == l.limit {
		return errFull
	}
	return nil
}

// Folders implements [store.Store].
func (s *folder) Folders(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		return nil, failed("list folders of", prefix, store.ErrBadKey)
	}
	if !validFolder(prefix) {
		return nil, nil
	}
	d, names, err := s.names(prefix, func(name string, isDir bool) (string, bool) {
		return name, isDir && name > after
	})
	if err != nil {
		return nil, failed("list folders of", prefix, err)
	}
	if d == nil {
		return nil, nil
	}
	defer d.Close()
	var found []string
	for _, name := range names {
		if len(found) == pageSize(limit) {
			break
		}
		if err := ctx.Err(); err != nil {
			return nil, failed("list folders of", prefix, err)
		}
		ok, err := hasObject(d, name)
		if err != nil {
			return nil, failed("list folders of", prefix, err)
		}
		if ok {
			found = append(found, name)
		}
	}
	return found, nil
}

// hasObject tells whether there is an object below the folder of that name: one
// without, left by a writer that was killed, does not exist for the caller.
func hasObject(parent *os.File, name string) (bool, error) {
	d, err := openIn(parent, name)
	if absent(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer d.Close()
	for {
		entries, err := d.ReadDir(64)
		for _, e := range entries {
			switch {
			case !validPart(e.Name()):
			case e.Type().IsRegular():
				return true, nil
			case e.IsDir():
				if ok, err := hasObject(d, e.Name()); ok || err != nil {
					return ok, err
				}
			}
		}
		if err == io.EOF || absent(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
}

// openIn opens a folder in another one. A file of an [os.Root] would ask for the
// status of each entry that it reads (Go 1.26); this one takes their types from
// the folder itself, as far as the file system keeps them there.
func openIn(parent *os.File, name string) (*os.File, error) {
	for {
		fd, err := unix.Openat(int(parent.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd)), nil
		}
		if err != unix.EINTR {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// openFolder opens a folder to read it.
func (s *folder) openFolder(dir string) (*os.File, error) {
	d, err := s.root.Open("./" + strings.TrimSuffix(dir, "/"))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return openIn(d, ".")
}

// names returns, in order, what pick makes of the folder's entries, and the
// open folder; nil if there is none.
func (s *folder) names(dir string, pick func(name string, isDir bool) (string, bool)) (*os.File, []string, error) {
	d, err := s.openFolder(dir)
	if absent(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var names []string
	for {
		entries, err := d.ReadDir(1024)
		for _, e := range entries {
			if !(e.IsDir() || e.Type().IsRegular()) || !validPart(e.Name()) {
				continue
			}
			if name, ok := pick(e.Name(), e.IsDir()); ok {
				names = append(names, name)
			}
		}
		if err == io.EOF || absent(err) {
			slices.Sort(names)
			return d, slices.Compact(names), nil // a change meanwhile can show a name twice
		}
		if err != nil {
			d.Close()
			return nil, nil, err
		}
	}
}

// statIn describes the object key in the open folder d; false if it is gone.
func statIn(d *os.File, dir, key string) (store.Info, bool, error) {
	var st unix.Stat_t
	err := unix.Fstatat(int(d.Fd()), key[len(dir):], &st, unix.AT_SYMLINK_NOFOLLOW)
	if absent(err) || err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		return store.Info{}, false, nil
	}
	if err != nil {
		return store.Info{}, false, &fs.PathError{Op: "stat", Path: key, Err: err}
	}
	modified := time.Unix(st.Mtim.Unix())
	return store.Info{Key: key, Size: st.Size, Version: version(modified, st.Size), Modified: modified}, true, nil
}

// validFolder tells whether a key can begin with dir, empty or with a "/" at
// its end.
func validFolder(dir string) bool {
	return dir == "" || store.CheckKey(strings.TrimSuffix(dir, "/")) == nil
}

func pageSize(limit int) int {
	if limit <= 0 {
		return defaultLimit
	}
	return limit
}
