package source

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/format/index"
	"github.com/pjbgf/sha1cd"
	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/source/pack"
)

// writer makes a folder exactly a tree. What is there already and right is
// kept, with its times, so that the workspace's next layer holds only what has
// changed. Right means by content: an index that a script may have written
// proves nothing.
type writer struct {
	store       *pack.Store
	keepModules bool // what is in the submodules' folders
	gitlinks    []gitlink

	mu      sync.Mutex // guards entries
	entries []*index.Entry
}

// gitlink is a submodule's place in a tree.
type gitlink struct {
	path string
	hash plumbing.Hash
}

// batch is how many files of a folder are written by one goroutine at a time.
const batch = 64

// write goes through the folders first, alone, and removes and makes what
// decides where writing leads; then all cores write files.
func (w *writer) write(ctx context.Context, root *os.Root, t *tree) (*index.Index, error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0) + 1)
	err := w.folder(ctx, g, root, root, t)
	if werr := g.Wait(); werr != nil {
		return nil, werr // it is what canceled folder, if anything did
	}
	if err != nil {
		return nil, err
	}
	return &index.Index{Version: 2, Entries: w.entries}, nil
}

// folder clears dir of what is not in t, and begins the writing of its files.
func (w *writer) folder(ctx context.Context, g *errgroup.Group, root, dir *os.Root, t *tree) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	old, err := list(dir)
	if err != nil {
		return err
	}
	want := make(map[string]filemode.FileMode, len(t.entries))
	for _, e := range t.entries {
		want[e.name] = e.mode
	}
	for name, typ := range old {
		if t.path == "" && name == ".git" {
			continue
		}
		if mode, ok := want[name]; !ok || !fits(mode, typ) || mode == filemode.Submodule && !w.keepModules {
			if err := removeAll(dir, name); err != nil {
				return err
			}
			delete(old, name)
		}
	}
	var files []treeEntry
	flush := func() {
		part := files
		files = nil
		g.Go(func() error { return w.files(ctx, root, t.path, part, old) })
	}
	for _, e := range t.entries {
		_, there := old[e.name]
		switch e.mode {
		case filemode.Dir, filemode.Submodule:
			if !there {
				if err := dir.Mkdir(e.name, 0o777); err != nil {
					return err
				}
			}
			if e.mode == filemode.Submodule {
				w.add(&index.Entry{Name: join(t.path, e.name), Hash: e.hash, Mode: filemode.Submodule})
				w.gitlinks = append(w.gitlinks, gitlink{join(t.path, e.name), e.hash})
				continue
			}
			if err := w.below(ctx, g, root, dir, e, there); err != nil {
				return err
			}
		default:
			if files = append(files, e); len(files) == batch {
				flush()
			}
		}
	}
	if len(files) > 0 {
		flush()
	}
	return nil
}

func (w *writer) below(ctx context.Context, g *errgroup.Group, root, dir *os.Root, e treeEntry, there bool) error {
	if there { // a script may have locked it
		if err := unlock(dir, e.name); err != nil {
			return err
		}
	}
	sub, err := dir.OpenRoot(e.name)
	if err != nil {
		return err
	}
	defer sub.Close()
	return w.folder(ctx, g, root, sub, e.dir)
}

// fits tells whether what is there can become what is wanted without being
// removed first.
func fits(mode filemode.FileMode, typ fs.FileMode) bool {
	switch mode {
	case filemode.Dir, filemode.Submodule:
		return typ.IsDir()
	case filemode.Symlink:
		return typ == fs.ModeSymlink
	}
	return typ == 0
}

// list tells the types of what is in a folder.
func list(dir *os.Root) (map[string]fs.FileMode, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	types := make(map[string]fs.FileMode, len(entries))
	for _, e := range entries {
		types[e.Name()] = e.Type()
	}
	return types, nil
}

// files makes files of one folder right.
func (w *writer) files(ctx context.Context, root *os.Root, path string, files []treeEntry, old map[string]fs.FileMode) error {
	dir := root
	if path != "" {
		var err error
		if dir, err = root.OpenRoot(path); err != nil {
			return err
		}
		defer dir.Close()
	}
	done := make([]*index.Entry, 0, len(files))
	for _, e := range files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		_, there := old[e.name]
		info, err := w.file(dir, e, there)
		if err != nil {
			return err
		}
		done = append(done, indexEntry(join(path, e.name), e, info))
	}
	w.add(done...)
	return nil
}

func (w *writer) add(entries ...*index.Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.entries = append(w.entries, entries...)
}

// file makes one file or link right.
func (w *writer) file(dir *os.Root, e treeEntry, there bool) (fs.FileInfo, error) {
	if there {
		if info, ok := w.right(dir, e); ok {
			return info, nil
		}
		if err := dir.Remove(e.name); err != nil {
			return nil, err
		}
	}
	typ, content, err := w.store.Get(e.hash)
	if err != nil {
		return nil, err
	}
	if typ != plumbing.BlobObject {
		return nil, badTree(e.name, "it is not a file")
	}
	if e.mode == filemode.Symlink {
		if err := dir.Symlink(string(content), e.name); err != nil {
			return nil, err
		}
		return dir.Lstat(e.name)
	}
	perm := fs.FileMode(0o666)
	if e.mode == filemode.Executable {
		perm = 0o777
	}
	f, err := dir.OpenFile(e.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return info, f.Close()
}

// right tells whether what is there is what is wanted. Permissions beyond
// git's one bit count as well: a file that others may write, or that nobody
// may read, is not what a fresh checkout gives.
func (w *writer) right(dir *os.Root, e treeEntry) (fs.FileInfo, bool) {
	info, err := dir.Lstat(e.name)
	if err != nil {
		return nil, false
	}
	size := info.Size()
	h := sha1cd.New()
	if e.mode == filemode.Symlink {
		target, err := dir.Readlink(e.name)
		if err != nil {
			return nil, false
		}
		return info, pack.HashOf(plumbing.BlobObject, []byte(target)) == e.hash
	}
	perm := info.Mode().Perm()
	if !info.Mode().IsRegular() || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 || perm&0o600 != 0o600 || perm&0o002 != 0 ||
		(perm&0o100 != 0) != (e.mode == filemode.Executable) {
		return nil, false
	}
	f, err := dir.OpenFile(e.name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	io.WriteString(h, "blob "+strconv.FormatInt(size, 10)+"\x00")
	if n, err := io.Copy(h, f); err != nil || n != size {
		return nil, false
	}
	return info, plumbing.Hash(h.Sum(nil)) == e.hash
}

// indexEntry is what git's index remembers of a file, so that git finds it
// unchanged without reading it.
func indexEntry(path string, e treeEntry, info fs.FileInfo) *index.Entry {
	entry := &index.Entry{Name: path, Hash: e.hash, Mode: e.mode, Size: uint32(info.Size()), ModifiedAt: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		entry.CreatedAt = time.Unix(st.Ctim.Unix())
		entry.Dev, entry.Inode = uint32(st.Dev), uint32(st.Ino)
		entry.UID, entry.GID = st.Uid, st.Gid
	}
	return entry
}

// unlock gives a folder that its owner cannot use, or that all may write, the
// usual permissions.
func unlock(dir *os.Root, name string) error {
	info, err := dir.Lstat(name)
	if err != nil || !info.IsDir() {
		return err
	}
	if perm := info.Mode().Perm(); perm&0o700 != 0o700 || perm&0o002 != 0 {
		return dir.Chmod(name, 0o755)
	}
	return nil
}

// removeAll removes what name is, with everything below, also where a script
// has taken the permission away.
func removeAll(dir *os.Root, name string) error {
	err := dir.RemoveAll(name)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if err := unlockAll(dir, name); err != nil {
		return err
	}
	return dir.RemoveAll(name)
}

func unlockAll(dir *os.Root, name string) error {
	info, err := dir.Lstat(name)
	if err != nil || !info.IsDir() {
		return err
	}
	if err := dir.Chmod(name, 0o700); err != nil {
		return err
	}
	sub, err := dir.OpenRoot(name)
	if err != nil {
		return err
	}
	defer sub.Close()
	types, err := list(sub)
	if err != nil {
		return err
	}
	for name, typ := range types {
		if typ.IsDir() {
			if err := unlockAll(sub, name); err != nil {
				return err
			}
		}
	}
	return nil
}
