package workspace

import (
	"context"
	"io"
	"os"
	"sort"

	"golang.org/x/sys/unix"
)

// Apply unpacks one layer onto dir, which must exist. Besides zstd it reads
// gzip and plain tar. It writes nothing outside dir, whatever the layer and
// the tree in dir hold; an archive that tries to is an error, ErrArchive, and
// one that is too large is ErrLimit. After an error the tree is somewhere
// between before and after.
//
// Apply does not check the layer against a digest; Layers does.
func Apply(ctx context.Context, dir string, r io.Reader, lim Limits) error {
	return failed("apply", apply(ctx, dir, r, lim, true))
}

// apply is Apply; layer says whether whiteouts have their meaning.
func apply(ctx context.Context, dir string, r io.Reader, lim Limits, layer bool) error {
	a, err := openArchive(ctx, r, lim, layer)
	if err != nil {
		return err
	}
	defer a.close()
	return a.unpack(ctx, dir)
}

// unpack applies all of the archive to dir.
func (a *archive) unpack(ctx context.Context, dir string) error {
	root, err := openRoot(dir)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	u := &unpacker{ctx: ctx, archive: a, walker: newWalker(root), dirs: map[string]dirState{}, seen: map[string]bool{}}
	u.walker.open = u.open
	defer u.walker.reset()
	if err := u.meet(root, ""); err != nil {
		return err
	}
	for {
		it, err := a.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := u.apply(it); err != nil {
			return pathError(it.path, err)
		}
	}
	if err := a.drain(); err != nil {
		return err
	}
	return u.finish()
}

// pathError names the path to which an error of the system belongs.
func pathError(path string, err error) error {
	switch err {
	case unix.ENOTDIR, unix.ELOOP:
		return invalid(path, "it leads through something that is not a directory")
	case unix.ENAMETOOLONG:
		return invalid(path, "a name too long for the file system")
	}
	if errno, ok := err.(unix.Errno); ok {
		return &os.PathError{Op: "unpack", Path: path, Err: errno}
	}
	return err
}

// unpacker applies the items of one layer.
type unpacker struct {
	ctx     context.Context
	archive *archive
	walker  *walker
	// dirs has every directory that was entered, with what it is to be like at
	// the end. Until then they are writable, and their times move.
	dirs map[string]dirState
	// seen has the paths that this layer has put there and their parents; true
	// for those that are no directories. Whiteouts hide only what comes from the
	// layers below.
	seen map[string]bool
	// left has the paths of what was left out; see Root.
	left map[string]bool
	buf  []byte
	make bool // whether directories that are missing are made
}

type dirState struct {
	mode  uint32
	mtime unix.Timespec
}

// open is how the walker opens directories.
func (u *unpacker) open(parent int, name, path string) (int, error) {
	fd, err := openDir(parent, name)
	if err == unix.EACCES {
		mode, err := unlock(parent, name)
		if err != nil {
			return -1, err
		}
		if fd, err = openDir(parent, name); err != nil {
			return -1, err
		}
		if _, ok := u.dirs[path]; !ok {
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil {
				unix.Close(fd)
				return -1, err
			}
			u.dirs[path] = dirState{mode, st.Mtim}
		}
		return fd, nil
	}
	if err == unix.ENOENT && u.make {
		if u.archive.files++; u.archive.files > u.archive.lim.Files {
			return -1, overLimit("it has more than %d entries, with the folders that they need", u.archive.lim.Files)
		}
		if err := unix.Mkdirat(parent, name, 0o700); err != nil {
			return -1, err
		}
		if fd, err = openDir(parent, name); err != nil {
			return -1, err
		}
		u.dirs[path] = dirState{mode: 0o755}
		return fd, nil
	}
	if err != nil {
		return -1, err
	}
	if err := u.meet(fd, path); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// meet notes what a directory is like when it is entered for the first time,
// and makes it writable.
func (u *unpacker) meet(fd int, path string) error {
	if _, ok := u.dirs[path]; ok {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	u.dirs[path] = dirState{st.Mode & 0o7777, st.Mtim}
	if st.Mode&0o700 != 0o700 {
		return unix.Fchmod(fd, st.Mode&0o7777|0o700)
	}
	return nil
}

func (u *unpacker) apply(it *item) error {
	dir, base := split(it.path)
	switch {
	case it.kind == aWhiteout:
		return u.hide(dir, base)
	case it.kind == anOpaque:
		return u.hideAll(it.path)
	case it.kind == aSpecial, it.kind == aLink && u.left[it.target]:
		return u.leaveOut(it)
	}
	if it.path == "" {
		return u.attributes(it, u.walker.root)
	}
	if file, ok := u.seen[it.path]; ok && (file || it.kind != aDirectory) {
		return invalid(it.path, "the archive has it twice")
	}
	u.make = true
	parent, err := u.walker.to(dir)
	u.make = false
	if err != nil {
		return err
	}
	u.note(it)
	switch it.kind {
	case aDirectory:
		return u.directory(parent, base, it)
	case aFile:
		return u.file(parent, base, it)
	case aSymlink:
		err := u.replace(parent, base, func() error { return unix.Symlinkat(it.target, parent, base) })
		if err == nil {
			err = u.owner(it, func(uid, gid int) error {
				return unix.Fchownat(parent, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
			})
		}
		if err != nil {
			return err
		}
		return setTime(parent, base, it.mtime)
	}
	return u.link(parent, base, it)
}

// note remembers that the layer has put something at the item's path.
func (u *unpacker) note(it *item) {
	u.seen[it.path] = it.kind != aDirectory
	delete(u.left, it.path)
	for dir, _ := split(it.path); dir != ""; dir, _ = split(dir) {
		if _, ok := u.seen[dir]; ok {
			break
		}
		u.seen[dir] = false
	}
}

// replace calls create, which fails with EEXIST where something is, and if so
// removes that first. What is there is never written to: it may be a link, or
// have other names.
func (u *unpacker) replace(parent int, base string, create func() error) error {
	err := create()
	if err != unix.EEXIST {
		return err
	}
	st, err := lstat(parent, base)
	if err != nil {
		return err
	}
	if isDir(st.Mode) {
		err = removeAt(parent, base)
	} else {
		err = unix.Unlinkat(parent, base, 0)
	}
	if err != nil {
		return err
	}
	return create()
}

func (u *unpacker) directory(parent int, base string, it *item) error {
	err := u.replace(parent, base, func() error {
		err := unix.Mkdirat(parent, base, 0o700)
		if err == unix.EEXIST {
			if st, e := lstat(parent, base); e == nil && isDir(st.Mode) {
				return nil
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	fd, err := u.walker.to(it.path)
	if err != nil {
		return err
	}
	return u.attributes(it, fd)
}

// attributes notes what a directory is to be like, and sets what can be set
// at once.
func (u *unpacker) attributes(it *item, fd int) error {
	u.dirs[it.path] = dirState{it.mode, it.mtime}
	if err := u.owner(it, func(uid, gid int) error { return unix.Fchown(fd, uid, gid) }); err != nil {
		return err
	}
	old, err := attrNames(fd)
	if err != nil {
		return err
	}
	for _, name := range old {
		if _, ok := it.attrs[name]; !ok {
			if err := unix.Fremovexattr(fd, name); err != nil {
				return err
			}
		}
	}
	return setAttrs(fd, it.attrs)
}

// link makes it another name of a file that is there.
func (u *unpacker) link(parent int, base string, it *item) error {
	dir, name := split(it.target)
	w := newWalker(u.walker.root)
	w.open = u.open
	defer w.reset()
	from, err := w.to(dir)
	if err != nil {
		return missingTarget(it, err)
	}
	st, err := lstat(from, name)
	if err != nil {
		return missingTarget(it, err)
	}
	if isDir(st.Mode) {
		return invalid(it.path, "a hard link to the directory %s", quote(it.target))
	}
	err = u.replace(parent, base, func() error { return unix.Linkat(from, name, parent, base, 0) })
	return missingTarget(it, err)
}

func missingTarget(it *item, err error) error {
	switch err {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP:
		return invalid(it.path, "a hard link to %s, which is not there", quote(it.target))
	}
	return err
}

// hide removes what the layers below have at base in dir.
func (u *unpacker) hide(dir, base string) error {
	parent, err := u.walker.to(dir)
	if err == unix.ENOENT || notDir(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return u.clear(parent, base, join(dir, base))
}

// hideAll removes what the layers below have in dir.
func (u *unpacker) hideAll(dir string) error {
	fd, err := u.walker.to(dir)
	if err == unix.ENOENT || notDir(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return u.clearIn(fd, dir)
}

// clear removes the tree at path except for what this layer has put there.
func (u *unpacker) clear(parent int, base, path string) error {
	if err := u.ctx.Err(); err != nil {
		return err
	}
	if _, ok := u.seen[path]; !ok {
		return removeAt(parent, base)
	}
	fd, err := u.open(parent, base, path)
	if err == unix.ENOENT || notDir(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return u.clearIn(fd, path)
}

func (u *unpacker) clearIn(fd int, path string) error {
	own, err := openDir(fd, ".")
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(own), path)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := u.clear(own, name, join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

// finish makes the directories what they are to be like: those inside before
// those around them, which must be writable until then.
func (u *unpacker) finish() error {
	paths := make([]string, 0, len(u.dirs))
	for path := range u.dirs {
		paths = append(paths, path)
	}
	sort.Sort(sort.Reverse(sort.StringSlice(paths)))
	for _, path := range paths {
		state := u.dirs[path]
		fd, err := u.walker.to(path)
		if err == unix.ENOENT || notDir(err) { // hidden meanwhile
			continue
		}
		if err == nil {
			err = setTime(fd, ".", state.mtime)
		}
		if err == nil {
			err = unix.Fchmod(fd, state.mode)
		}
		if err != nil {
			return pathError(path, err)
		}
	}
	return nil
}
