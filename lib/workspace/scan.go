package workspace

import (
	"context"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Scan takes the index of the tree in dir. Nobody may be changing the tree
// meanwhile; that is what sandboxes are for.
//
// Scan may wait for a few milliseconds, so that every change that is made
// after it has returned shows in the index: see settle.
func Scan(ctx context.Context, dir string) (*Index, error) {
	x, err := scan(ctx, dir)
	return x, failed("scan", err)
}

func scan(ctx context.Context, dir string) (*Index, error) {
	root, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	fd, err := unix.FcntlInt(uintptr(root), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	s := scanner{ctx: ctx, dev: st.Dev}
	s.group.SetLimit(min(8, runtime.GOMAXPROCS(0)))
	top := folder{}
	err = s.read(fd, "", &top)
	if e := s.group.Wait(); err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	x := &Index{entries: append(make([]entry, 0, top.count()+1), newEntry("", &st))}
	top.flatten(&x.entries)
	for i := range x.entries {
		if err := check(&x.entries[i]); err != nil {
			return nil, err
		}
	}
	if err := settle(ctx, x.entries); err != nil {
		return nil, err
	}
	return x, nil
}

// scanner reads directories, some of them at the same time.
type scanner struct {
	ctx   context.Context
	group errgroup.Group
	dev   uint64
}

// folder is what the scanner found in one directory.
type folder struct {
	entries []entry   // ordered by name
	folders []*folder // of those entries that are directories
}

func (f *folder) count() int {
	n := len(f.entries)
	for _, sub := range f.folders {
		n += sub.count()
	}
	return n
}

func (f *folder) flatten(all *[]entry) {
	sub := f.folders
	for i := range f.entries {
		*all = append(*all, f.entries[i])
		if f.entries[i].isDir() {
			sub[0].flatten(all)
			sub = sub[1:]
		}
	}
}

// read fills f with what is in the directory fd, which it closes.
func (s *scanner) read(fd int, path string, f *folder) error {
	d := os.NewFile(uintptr(fd), path)
	defer d.Close()
	if err := s.ctx.Err(); err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	f.entries = make([]entry, 0, len(names))
	for _, name := range names {
		st, err := lstat(fd, name)
		sub := join(path, name)
		switch {
		case err == unix.ENOENT: // gone since the directory was read
			continue
		case err == unix.EACCES:
			return refused(path, "not permitted to look inside: its mode lacks x")
		case err != nil:
			return &os.PathError{Op: "stat", Path: sub, Err: err}
		}
		f.entries = append(f.entries, newEntry(sub, &st))
		if !isDir(st.Mode) {
			continue
		}
		if err := s.descend(fd, name, sub, &st, f); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) descend(parent int, name, path string, st *unix.Stat_t, f *folder) error {
	if st.Dev != s.dev {
		return refused(path, "a mount point: a workspace must be within one file system")
	}
	if len(path) > MaxPath {
		return tooLong(path)
	}
	fd, err := openDir(parent, name)
	switch {
	case err == unix.EACCES:
		return refused(path, "not permitted to read the directory: its mode is %04o", st.Mode&0o7777)
	case err == unix.ENOENT || notDir(err):
		return changed(path)
	case err != nil:
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	sub := new(folder)
	f.folders = append(f.folders, sub)
	if s.group.TryGo(func() error { return s.read(fd, path, sub) }) {
		return nil
	}
	return s.read(fd, path, sub)
}

func tooLong(path string) error {
	return refused(path[:64]+"…", "a path of %d bytes: the longest that can be kept has %d", len(path), MaxPath)
}

// check refuses what a layer cannot hold. It is called in tree order, so the
// message is about the same file every time.
func check(e *entry) error {
	if _, base := split(e.path); strings.HasPrefix(base, whiteoutPrefix) {
		return refused(e.path, "a name that begins with %q cannot be kept: in a layer it would mean that a file was removed", whiteoutPrefix)
	}
	if len(e.path) > MaxPath {
		return tooLong(e.path)
	}
	switch e.mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK:
		return nil
	case unix.S_IFBLK, unix.S_IFCHR:
		return refused(e.path, "a device cannot be kept in a workspace")
	case unix.S_IFIFO:
		return refused(e.path, "a named pipe cannot be kept in a workspace")
	case unix.S_IFSOCK:
		return refused(e.path, "a socket cannot be kept in a workspace")
	}
	return refused(e.path, "a file of unknown type cannot be kept in a workspace")
}

// settle waits until the clock from which the system takes ctimes, which may
// tick as slowly as 100 times a second, is past the newest of them. A file
// that is changed later therefore gets another ctime than it has in the index.
// (Git calls such entries "racily clean" and reads the files again; waiting
// costs less than reading.) Directories need not be waited for: what matters
// about them is in other fields, or in the entries of what is in them.
//
// A ctime from the future, as a clock that was set back leaves, cannot be
// waited for: such files count as changed next time.
func settle(ctx context.Context, entries []entry) error {
	const patience = 50 * time.Millisecond
	var latest time.Duration
	now, err := clock()
	if err != nil {
		return err
	}
	for i := range entries {
		e := &entries[i]
		if e.isDir() {
			continue
		}
		if t := time.Duration(e.ctime.Nano()); t > now+patience {
			e.ctime = unix.Timespec{}
		} else {
			latest = max(latest, t)
		}
	}
	for latest >= now {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Microsecond):
		}
		if now, err = clock(); err != nil {
			return err
		}
	}
	return nil
}

func clock() (time.Duration, error) {
	var t unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &t)
	return time.Duration(t.Nano()), err
}
