//go:build ceph && cgo

package rados

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ceph/go-ceph/rados"

	"github.com/distci/distci/lib/store"
)

// object is what is known of an object at a moment; entry is nil if there is
// none.
type object struct {
	raw   []byte // the entry, as it is kept
	entry *entry
	tail  tailState
}

// tailState is what is known of a tail.
type tailState struct {
	exists   bool
	size     int64
	version  uint64 // of its RADOS object
	modified time.Time
	sealed   bool // it does not grow any more
}

// sealedAttr marks a tail that does not grow any more.
const sealedAttr = "sealed"

// version is the object's, "" if there is none.
func (o *object) version() string {
	if o.entry == nil {
		return ""
	}
	return o.entry.version(o.tail.size)
}

func (o *object) size() int64 { return o.entry.closed() + o.tail.size }

// object tells what there is at a key.
func (p *pool) object(ctx context.Context, key string) (object, error) {
	for range 100 {
		raw, err := p.lookup(ctx, key)
		if err != nil || raw == nil {
			return object{}, err
		}
		o, err := p.complete(ctx, raw)
		if code(err) == eNoEntry { // it was replaced meanwhile
			continue
		}
		return o, err
	}
	return object{}, fmt.Errorf("the object's tail is missing: %s of namespace %s.data", key, p.address.Namespace)
}

// complete adds what is known of the tail to an entry. A tail that is missing
// is an error.
func (p *pool) complete(ctx context.Context, raw []byte) (object, error) {
	e, err := decodeEntry(raw)
	if err != nil {
		return object{}, err
	}
	o := object{raw: raw, entry: e}
	if e.tail != "" {
		o.tail, err = p.tailState(ctx, e.tail)
	}
	return o, err
}

// tailState asks for a tail's state. Its version is that of before it was
// asked whether the tail is sealed: sealed meanwhile, it has another one.
func (p *pool) tailState(ctx context.Context, id string) (tailState, error) {
	return call(ctx, p, "stat tail", func(s *slot) (t tailState, err error) {
		name := chunkName(id, 0)
		st, err := s.data.Stat(name)
		if err != nil {
			return t, err
		}
		t = tailState{exists: true, size: int64(st.Size), modified: st.ModTime}
		if t.version, err = s.data.GetLastVersion(); err != nil {
			return t, err
		}
		_, err = s.data.GetXattr(name, sealedAttr, make([]byte, 8))
		if code(err) == eNoData {
			return t, nil
		}
		t.sealed = err == nil
		return t, err
	})
}

// seal makes a tail grow no more. It may be repeated.
func (p *pool) seal(ctx context.Context, id string) error {
	op := rados.CreateWriteOp()
	op.AssertExists()
	op.SetXattr(sealedAttr, []byte("1"))
	_, err := p.write(ctx, "seal tail", op, data, chunkName(id, 0))
	if code(err) == eNoEntry {
		return nil // the object was deleted meanwhile; the entry tells
	}
	return err
}

func describe(key string, e *entry, t tailState) store.Info {
	modified := e.modified
	if t.modified.After(modified) {
		modified = t.modified
	}
	return store.Info{Key: key, Size: e.closed() + t.size, Version: e.version(t.size), Modified: modified}
}

// Stat implements [store.Store].
func (p *pool) Stat(ctx context.Context, key string) (store.Info, error) {
	info, err := p.stat(ctx, key)
	return info, failed("stat", key, err)
}

func (p *pool) stat(ctx context.Context, key string) (store.Info, error) {
	if err := usable(ctx, key); err != nil {
		return store.Info{}, err
	}
	o, err := p.object(ctx, key)
	if err != nil {
		return store.Info{}, err
	}
	if o.entry == nil {
		return store.Info{}, store.ErrNotFound
	}
	return describe(key, o.entry, o.tail), nil
}

// Sync implements [store.Store]. What Ceph has acknowledged is safe.
func (p *pool) Sync(ctx context.Context, key string) error {
	err := usable(ctx, key)
	if err == nil {
		var raw []byte
		if raw, err = p.lookup(ctx, key); err == nil && raw == nil {
			err = store.ErrNotFound
		}
	}
	return failed("sync", key, err)
}

var errReplaced = errors.New("the object was replaced or deleted while it was read")
