package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/distci/distci/lib/fault"
)

// indexName is the file that says what a folder holds: a JSON object of
// artefacts by id.
const indexName = "artifacts.json"

// maxIndex bounds an index that is read, in bytes.
const maxIndex = 64 << 20

// Folder keeps artefacts as files under their paths, beside an index. It needs
// no server.
type Folder struct {
	name string
	root *os.Root
	info fs.FileInfo
	lock *os.File // of a writer

	mu     sync.Mutex
	index  map[string]Artifact
	byPath map[string]string // ids
}

// CreateFolder opens a folder to publish into, and creates it if it is not
// there. While it is open, other writers wait.
func CreateFolder(ctx context.Context, name string) (*Folder, error) {
	if err := os.MkdirAll(name, 0o777); err != nil {
		return nil, fault.Errorf(fault.Config, "artifact: %w", err)
	}
	f, err := OpenFolder(name)
	if err != nil {
		return nil, err
	}
	if err := f.acquire(ctx); err != nil {
		f.root.Close()
		return nil, err
	}
	if err := f.load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.release()
		return nil, err
	}
	return f, nil
}

// OpenFolder opens a folder to copy from.
func OpenFolder(name string) (*Folder, error) {
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fault.Errorf(fault.Unavailable, "artifact: %w", err)
	}
	info, err := root.Stat(".")
	if err != nil {
		root.Close()
		return nil, local(err, "%s", shown(name))
	}
	return &Folder{name: name, root: root, info: info, index: map[string]Artifact{}, byPath: map[string]string{}}, nil
}

// acquire waits for the other writers.
func (f *Folder) acquire(ctx context.Context) (err error) {
	if f.lock, err = f.root.Open("."); err != nil {
		return local(err, "%s", shown(f.name))
	}
	for {
		err := syscall.Flock(int(f.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if err != syscall.EWOULDBLOCK && err != syscall.EINTR {
			f.lock.Close()
			return local(err, "locking %s", shown(f.name))
		}
		select {
		case <-ctx.Done():
			f.lock.Close()
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (f *Folder) release() {
	if f.lock != nil {
		f.lock.Close()
	}
	f.root.Close()
}

// Close writes the index, if this is a writer, and frees the folder.
func (f *Folder) Close() error {
	defer f.release()
	if f.lock == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := json.MarshalIndent(f.index, "", " ")
	if err != nil {
		return err
	}
	err = replace(f.root, indexName, func(w *os.File) error {
		_, err := w.Write(append(b, '\n'))
		return errors.Join(err, w.Chmod(0o644))
	})
	if err != nil {
		return local(err, "%s", shown(path.Join(f.name, indexName)))
	}
	return nil
}

func (f *Folder) String() string { return f.name }

// load reads the index. The error wraps fs.ErrNotExist if there is none.
func (f *Folder) load() error {
	where := shown(path.Join(f.name, indexName))
	r, err := f.root.OpenFile(indexName, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return local(err, "%s", where)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxIndex))
	if err != nil {
		return local(err, "%s", where)
	}
	if err := json.NewDecoder(bytes.NewReader(b)).Decode(&f.index); err != nil {
		return fault.Errorf(fault.Unavailable, "artifact: %s is not an index of artefacts: %w", where, err)
	}
	if f.index == nil {
		f.index = map[string]Artifact{}
	}
	for id, a := range f.index {
		f.byPath[strings.Join(a.Path, "/")] = id
	}
	return nil
}

// Put copies a file to its path. An artefact that was there is replaced, in
// the index too.
func (f *Folder) Put(ctx context.Context, p []string, mode fs.FileMode, r io.ReadSeeker, size int64) (Artifact, error) {
	name := strings.Join(p, "/")
	if name == indexName {
		return Artifact{}, fault.Errorf(fault.Verdict, "it would replace the index of %s", shown(f.name))
	}
	if err := f.root.MkdirAll(path.Dir(name), 0o777); err != nil {
		return Artifact{}, fmt.Errorf("creating its folder in %s: %w", shown(f.name), cause(err))
	}
	d := &digester{ctx: ctx, r: r, sum: sha256.New(), left: size}
	err := replace(f.root, name, func(w *os.File) error {
		_, err := io.Copy(w, d)
		return errors.Join(err, w.Chmod(mode))
	})
	if err != nil {
		return Artifact{}, fmt.Errorf("writing to %s: %w", shown(f.name), cause(err))
	}
	a := Artifact{ID: uuid.NewString(), Path: p, Size: size, SHA256: hex.EncodeToString(d.sum.Sum(nil))}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.index, f.byPath[name])
	f.byPath[name] = a.ID
	f.index[a.ID] = Artifact{Path: a.Path, Size: a.Size, SHA256: a.SHA256}
	return a, nil
}

// List reads the index.
func (f *Folder) List(context.Context) (map[string]Artifact, error) {
	err := f.load()
	if errors.Is(err, fs.ErrNotExist) {
		err = fault.Errorf(fault.Unavailable, "artifact: %s has no %s: nothing was published there", shown(f.name), indexName)
	}
	return f.index, err
}

// Open opens the file of an artefact.
func (f *Folder) Open(_ context.Context, a Artifact, offset int64) (io.ReadCloser, fs.FileMode, error) {
	name := path.Join(a.Path...)
	r, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, fault.Errorf(fault.Unavailable, "it is in the index of %s, but cannot be read: %w", shown(f.name), cause(err))
	}
	info, err := r.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err == nil {
		_, err = r.Seek(offset, io.SeekStart)
	}
	if err != nil {
		r.Close()
		return nil, 0, fault.Errorf(fault.Unavailable, "it is in the index of %s, but cannot be read: %w", shown(f.name), cause(err))
	}
	return r, info.Mode() & fs.ModePerm, nil
}

// replace makes name the file that write writes, at once or not at all. Its
// folder exists.
func replace(root *os.Root, name string, write func(*os.File) error) error {
	tmp := path.Join(path.Dir(name), ".distci-"+uuid.NewString())
	w, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	err = write(w)
	if e := w.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = root.Rename(tmp, name)
	}
	if err != nil {
		_ = root.Remove(tmp) // the first error is what counts
	}
	return err
}
