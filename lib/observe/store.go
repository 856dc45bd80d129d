package observe

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/distci/distci/lib/store"
)

// WrapStore returns a store that is s and tells of every operation. What s can
// do besides, as a [store.Sweeper], a [store.Remover] and a [store.Watcher],
// the result can, and nothing else.
func WrapStore(s store.Store, sink Sink) store.Store {
	o := &observedStore{s, sink}
	sweeper, sweeps := s.(store.Sweeper)
	remover, removes := s.(store.Remover)
	watcher, watches := s.(store.Watcher)
	sw, rm, wt := sweep{o, sweeper}, remove{o, remover}, watch{watcher}
	switch {
	case sweeps && removes && watches:
		return struct {
			*observedStore
			sweep
			remove
			watch
		}{o, sw, rm, wt}
	case sweeps && removes:
		return struct {
			*observedStore
			sweep
			remove
		}{o, sw, rm}
	case sweeps && watches:
		return struct {
			*observedStore
			sweep
			watch
		}{o, sw, wt}
	case removes && watches:
		return struct {
			*observedStore
			remove
			watch
		}{o, rm, wt}
	case sweeps:
		return struct {
			*observedStore
			sweep
		}{o, sw}
	case removes:
		return struct {
			*observedStore
			remove
		}{o, rm}
	case watches:
		return struct {
			*observedStore
			watch
		}{o, wt}
	}
	return o
}

type observedStore struct {
	s    store.Store
	sink Sink
}

// done tells of an operation that began at that time.
func (o *observedStore) done(operation string, begun time.Time, written int64, err error) {
	o.sink.Tell(Event{Call: &Call{Store, operation, time.Since(begun), storeError(err), written}})
}

// storeError names the kind of an error that is one.
func storeError(err error) string {
	switch {
	case err == nil, errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrExists), errors.Is(err, store.ErrConflict):
		return ""
	case errors.Is(err, store.ErrFull):
		return "full"
	case errors.Is(err, store.ErrUnknown):
		return "unknown"
	case errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "failed"
}

func (o *observedStore) Put(ctx context.Context, key string, r io.Reader) (store.Info, error) {
	begun := time.Now()
	info, err := o.s.Put(ctx, key, r)
	o.done("put", begun, info.Size, err)
	return info, err
}

func (o *observedStore) Create(ctx context.Context, key string, r io.Reader) (store.Info, error) {
	begun := time.Now()
	info, err := o.s.Create(ctx, key, r)
	o.done("create", begun, info.Size, err)
	return info, err
}

func (o *observedStore) Swap(ctx context.Context, key, version string, r io.Reader) (store.Info, error) {
	begun := time.Now()
	info, err := o.s.Swap(ctx, key, version, r)
	o.done("swap", begun, info.Size, err)
	return info, err
}

func (o *observedStore) Append(ctx context.Context, key string, offset int64, p []byte) error {
	begun := time.Now()
	err := o.s.Append(ctx, key, offset, p)
	written := int64(len(p))
	if err != nil {
		written = 0
	}
	o.done("append", begun, written, err)
	return err
}

func (o *observedStore) Sync(ctx context.Context, key string) error {
	begun := time.Now()
	err := o.s.Sync(ctx, key)
	o.done("sync", begun, 0, err)
	return err
}

// Get takes until the first bytes can be read.
func (o *observedStore) Get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	begun := time.Now()
	r, info, err := o.s.Get(ctx, key, offset, n)
	o.done("get", begun, 0, err)
	return r, info, err
}

func (o *observedStore) Stat(ctx context.Context, key string) (store.Info, error) {
	begun := time.Now()
	info, err := o.s.Stat(ctx, key)
	o.done("stat", begun, 0, err)
	return info, err
}

func (o *observedStore) Delete(ctx context.Context, key string) error {
	begun := time.Now()
	err := o.s.Delete(ctx, key)
	o.done("delete", begun, 0, err)
	return err
}

func (o *observedStore) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	begun := time.Now()
	infos, err := o.s.List(ctx, prefix, after, limit)
	o.done("list", begun, 0, err)
	return infos, err
}

func (o *observedStore) Folders(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	begun := time.Now()
	names, err := o.s.Folders(ctx, prefix, after, limit)
	o.done("folders", begun, 0, err)
	return names, err
}

func (o *observedStore) Close() error { return o.s.Close() }

type sweep struct {
	o *observedStore
	s store.Sweeper
}

func (w sweep) Sweep(ctx context.Context, grace time.Duration, dryRun bool) (store.Swept, error) {
	begun := time.Now()
	swept, err := w.s.Sweep(ctx, grace, dryRun)
	w.o.done("sweep", begun, 0, err)
	return swept, err
}

type remove struct {
	o *observedStore
	s store.Remover
}

func (w remove) Remove(ctx context.Context, key, version string) error {
	begun := time.Now()
	err := w.s.Remove(ctx, key, version)
	w.o.done("remove", begun, 0, err)
	return err
}

// watch is not told of: it only begins to wait.
type watch struct{ store.Watcher }
