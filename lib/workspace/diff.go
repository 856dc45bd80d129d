package workspace

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Diff writes to w, as a layer, what has changed in dir since old was taken;
// everything if old is nil. It returns the tree's new index. If nothing has
// changed it writes nothing and the layer is Empty.
//
// The same changes give the same bytes. After an error, what was written to w
// is not a layer. A file that changes while it is read is an error of kind
// Temporary.
func Diff(ctx context.Context, dir string, old *Index, w io.Writer) (Layer, *Index, error) {
	layer, x, err := diff(ctx, dir, old, w, false)
	return layer, x, failed("diff", err)
}

// diff is Diff; an opaque layer hides all layers below it.
func diff(ctx context.Context, dir string, old *Index, w io.Writer, opaque bool) (Layer, *Index, error) {
	x, err := scan(ctx, dir)
	if err != nil {
		return Layer{}, nil, err
	}
	var before []entry
	if old != nil {
		before = old.entries
	}
	mark, gone := changes(before, x.entries)
	any := opaque || len(gone) > 0
	for _, m := range mark {
		any = any || m
	}
	if !any {
		return Layer{}, x, nil
	}
	root, err := openRoot(dir)
	if err != nil {
		return Layer{}, nil, err
	}
	defer unix.Close(root)
	lw, err := newLayerWriter(w)
	if err != nil {
		return Layer{}, nil, err
	}
	defer lw.abandon()
	t := taker{ctx: ctx, w: lw, walker: newWalker(root), first: map[inode]string{}, buf: make([]byte, 128<<10)}
	defer t.walker.reset()
	for i := range x.entries {
		for len(gone) > 0 && compare(gone[0], x.entries[i].path) < 0 {
			if err := lw.whiteout(gone[0]); err != nil {
				return Layer{}, nil, err
			}
			gone = gone[1:]
		}
		if mark[i] {
			if err := t.take(&x.entries[i]); err != nil {
				return Layer{}, nil, err
			}
		}
		if i == 0 && opaque {
			if err := lw.marker(opaqueName); err != nil {
				return Layer{}, nil, err
			}
		}
	}
	for _, path := range gone {
		if err := lw.whiteout(path); err != nil {
			return Layer{}, nil, err
		}
	}
	layer, err := lw.close()
	if err != nil {
		return Layer{}, nil, err
	}
	return layer, x, nil
}

type inode struct{ dev, ino uint64 }

// taker copies files into a layer.
type taker struct {
	ctx    context.Context
	w      *layerWriter
	walker *walker
	first  map[inode]string // of files with several names, the one that has the contents
	buf    []byte
}

func (t *taker) take(e *entry) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	if e.links {
		key := inode{e.dev, e.ino}
		if first, ok := t.first[key]; ok {
			return t.w.link(e, first)
		}
		t.first[key] = e.path
	}
	dir, base := split(e.path)
	if e.path == "" {
		base = "."
	}
	parent, err := t.walker.to(dir)
	if err == nil {
		switch e.mode & unix.S_IFMT {
		case unix.S_IFDIR:
			err = t.directory(e, parent, base)
		case unix.S_IFLNK:
			err = t.symlink(e, parent, base)
		default:
			err = t.file(e, parent, base)
		}
	}
	switch {
	case err == unix.ENOENT || notDir(err):
		return changed(e.path)
	case err == unix.EACCES:
		return refused(e.path, "not permitted to read it: its mode is %04o", e.mode&0o7777)
	}
	return err
}

func (t *taker) directory(e *entry, parent int, base string) error {
	fd, err := openDir(parent, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	attrs, err := readAttrs(fd)
	if err != nil {
		return refused(e.path, "%s", err)
	}
	return t.w.directory(e, attrs)
}

func (t *taker) symlink(e *entry, parent int, base string) error {
	target, err := readlink(parent, base)
	if err == unix.EINVAL { // no link any more
		return changed(e.path)
	}
	if err != nil {
		return err
	}
	if st, err := lstat(parent, base); err != nil || !e.same(&st) {
		return changed(e.path)
	}
	return t.w.symlink(e, target)
}

// file copies a regular file, and makes sure that all of its bytes are of the
// same time as its entry.
func (t *taker) file(e *entry, parent int, base string) error {
	fd, err := openat(parent, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), e.path)
	defer f.Close()
	if !unchanged(e, fd) {
		return changed(e.path)
	}
	attrs, err := readAttrs(fd)
	if err != nil {
		return refused(e.path, "%s", err)
	}
	if err := t.w.file(e, attrs); err != nil {
		return err
	}
	for left := e.size; left > 0; {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(t.buf[:min(left, int64(len(t.buf)))])
		if err == io.EOF {
			return changed(e.path)
		}
		if err != nil {
			return err
		}
		if _, err := t.w.Write(t.buf[:n]); err != nil {
			return err
		}
		left -= int64(n)
	}
	if !unchanged(e, fd) {
		return changed(e.path)
	}
	return nil
}

// unchanged tells whether the open file is as its entry says.
func unchanged(e *entry, fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && e.same(&st)
}

// attrPrefix begins the names of the attributes that are kept. The others
// belong to the system, and a layer must not be able to set them.
const attrPrefix = "user."

// readAttrs reads a file's user.* attributes.
func readAttrs(fd int) (map[string]string, error) {
	names, err := attrNames(fd)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	attrs := make(map[string]string, len(names))
	for _, name := range names {
		if strings.ContainsRune(name, '=') {
			return nil, fmt.Errorf("its attribute %q cannot be kept: the name holds a %q", name, '=')
		}
		value, err := sized(func(p []byte) (int, error) { return unix.Fgetxattr(fd, name, p) })
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("its attribute %q: %w", name, err)
		}
		attrs[name] = string(value)
	}
	return attrs, nil
}

// attrNames lists a file's user.* attributes; none where the file system has
// none.
func attrNames(fd int) ([]string, error) {
	list, err := sized(func(p []byte) (int, error) { return unix.Flistxattr(fd, p) })
	if err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("its attributes: %w", err)
	}
	var names []string
	for name := range strings.SplitSeq(string(list), "\x00") {
		if strings.HasPrefix(name, attrPrefix) {
			names = append(names, name)
		}
	}
	return names, nil
}

// sized calls read, which fails with ERANGE if its buffer is too small, with
// buffers of growing size.
func sized(read func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 8 {
		buf := make([]byte, size)
		n, err := read(buf)
		if err != unix.ERANGE || size > 1<<20 {
			return buf[:max(n, 0)], err
		}
	}
}
