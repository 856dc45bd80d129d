package image

import (
	"context"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/workspace"
)

// entry is one file on a walk.
type entry struct {
	path   string // relative; "" for the root
	st     unix.Stat_t
	target string // of a symbolic link
	mount  bool   // a directory of another file system, into which walk does not go
	dir    int    // the directory that it is in, while it is visited
	name   string // and its name there
}

// open opens a regular file, and nothing that has taken its place.
func (e *entry) open() (*os.File, error) {
	fd, err := unix.Openat(e.dir, e.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), e.path), nil
}

// openRoot opens a tree; the path to it may lead through links.
func openRoot(dir string) (int, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return fd, nil
}

// walk visits the directory root and all below it: a directory before what is
// in it, and that in the order of the names' bytes. It follows no links, and
// does not go into other file systems, nor into directories for which visit
// returns fs.SkipDir.
func walk(ctx context.Context, root int, visit func(*entry) error) error {
	e := entry{dir: root, name: "."}
	if err := unix.Fstat(root, &e.st); err != nil {
		return &os.PathError{Op: "stat", Path: ".", Err: err}
	}
	if err := visit(&e); err != nil {
		return err
	}
	w := walker{ctx, e.st.Dev, visit}
	return w.in(root, "")
}

type walker struct {
	ctx   context.Context
	dev   uint64
	visit func(*entry) error
}

// in visits what is in the directory fd.
func (w *walker) in(fd int, path string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if len(path) > workspace.MaxPath {
		return fault.Errorf(fault.BadTicket, "%q…: a path of %d bytes; at most %d are allowed", path[:64], len(path), workspace.MaxPath)
	}
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	d := os.NewFile(uintptr(again), path)
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := w.at(fd, name, path); err != nil {
			return err
		}
	}
	return nil
}

// at visits the entry name of the directory fd, and what is in it.
func (w *walker) at(fd int, name, dir string) error {
	e := entry{path: name, dir: fd, name: name}
	if dir != "" {
		e.path = dir + "/" + name
	}
	if err := unix.Fstatat(fd, name, &e.st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: e.path, Err: err}
	}
	switch e.st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		buf := make([]byte, workspace.MaxPath)
		n, err := unix.Readlinkat(fd, name, buf)
		if err != nil {
			return &os.PathError{Op: "readlink", Path: e.path, Err: err}
		}
		e.target = string(buf[:n])
	case unix.S_IFDIR:
		e.mount = e.st.Dev != w.dev
	}
	err := w.visit(&e)
	if err == fs.SkipDir {
		return nil
	}
	if err != nil || e.st.Mode&unix.S_IFMT != unix.S_IFDIR || e.mount {
		return err
	}
	sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: e.path, Err: err}
	}
	defer unix.Close(sub)
	return w.in(sub, e.path)
}
