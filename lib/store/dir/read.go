package dir

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// Get implements [store.Store].
func (s *folder) Get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	r, info, err := s.get(ctx, key, offset, n)
	if err != nil {
		return nil, store.Info{}, failed("get", key, err)
	}
	return r, info, nil
}

func (s *folder) get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	if err := usable(ctx, key); err != nil {
		return nil, store.Info{}, err
	}
	if offset < 0 {
		return nil, store.Info{}, fault.Errorf(fault.Internal, "negative offset %d", offset)
	}
	f, fi, err := s.openObject(key, os.O_RDONLY)
	if err != nil {
		return nil, store.Info{}, err
	}
	rest := max(0, fi.Size()-offset)
	if n < 0 || n > rest {
		n = rest
	}
	return &reader{ctx: ctx, SectionReader: io.NewSectionReader(f, offset, n), f: f}, describe(key, fi), nil
}

// reader is an object that is being read.
type reader struct {
	*io.SectionReader
	ctx context.Context
	f   *os.File
}

// Read ends with the context's error when that is done.
func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.SectionReader.Read(p)
}

// Close implements [io.Closer].
func (r *reader) Close() error { return r.f.Close() }

// Stat implements [store.Store].
func (s *folder) Stat(ctx context.Context, key string) (store.Info, error) {
	err := usable(ctx, key)
	if err != nil {
		return store.Info{}, failed("stat", key, err)
	}
	info, err := s.lookup(key)
	return info, failed("stat", key, err)
}

// lookup describes the object; what is not a plain file is none.
func (s *folder) lookup(key string) (store.Info, error) {
	fi, err := s.root.Lstat(key)
	if absent(err) || err == nil && !fi.Mode().IsRegular() {
		return store.Info{}, store.ErrNotFound
	}
	if err != nil {
		return store.Info{}, err
	}
	return describe(key, fi), nil
}

// openObject opens the object's file. What is not a plain file is none: should
// somebody have planted a link or a fifo, it is not followed or waited for.
func (s *folder) openObject(key string, flag int) (*os.File, fs.FileInfo, error) {
	if _, err := s.lookup(key); err != nil {
		return nil, nil, err
	}
	f, err := s.root.OpenFile(key, flag|unix.O_NONBLOCK, 0)
	if absent(err) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENXIO) {
		return nil, nil, store.ErrNotFound
	}
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = store.ErrNotFound
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}

func describe(key string, fi fs.FileInfo) store.Info {
	return store.Info{Key: key, Size: fi.Size(), Version: version(fi.ModTime(), fi.Size()), Modified: fi.ModTime()}
}

// version is made of the time that tick drew for the object, which no other of
// the key's versions has. The size tells an Append's bytes apart that were
// written by a process that was killed before it could set the time. Neither
// changes when the folder is copied by a tool that keeps times.
func version(modified time.Time, size int64) string {
	return strconv.FormatInt(modified.UnixNano(), 36) + "-" + strconv.FormatInt(size, 36)
}
