//go:build ceph && cgo

package rados

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ceph/go-ceph/rados"

	"github.com/distci/distci/lib/store"
)

const (
	// roll is the size from which a tail is closed and a new one begun.
	roll = chunkSize
	// largest is the most that one operation appends; with roll it stays under
	// what Ceph allows in an object.
	largest = 16 << 20
	// tailsKept is how many objects a process knows the tails of.
	tailsKept = 1024
)

// tail is where this process will append next. If it is so no more, the
// version is another one and the operation fails.
type tail struct {
	id      string
	offset  int64 // in the object
	size    int64 // of the tail
	version uint64
}

func (p *pool) knownTail(key string) tail {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tails[key]
}

// keepTail remembers a tail, or forgets it if it has no id.
func (p *pool) keepTail(key string, t tail) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.tails, key)
	if t.id == "" {
		return
	}
	for k := range p.tails {
		if len(p.tails) < tailsKept {
			break
		}
		delete(p.tails, k)
	}
	p.tails[key] = t
}

// Append implements [store.Store]. What was appended is safe at once.
func (p *pool) Append(ctx context.Context, key string, offset int64, b []byte) error {
	err := usable(ctx, key)
	for done := 0; err == nil; {
		n := min(len(b)-done, largest)
		if err = p.append(ctx, key, offset, b[:done+n], int64(done)); err != nil {
			if done > 0 && !errors.Is(err, store.ErrUnknown) {
				err = fmt.Errorf("%w: only a part was appended: %w", store.ErrUnknown, err)
			}
			break
		}
		if done += n; done == len(b) {
			p.tell(key)
			return nil
		}
	}
	return failed("append to", key, err)
}

// append makes b the object's bytes from offset on. Of them, those before the
// byte done are there.
func (p *pool) append(ctx context.Context, key string, offset int64, b []byte, done int64) error {
	if t := p.knownTail(key); t.id != "" && t.offset+t.size == offset+done && t.size < roll && int64(len(b)) > done {
		err := p.extend(ctx, key, t, b[done:])
		if !errors.Is(err, errMoved) {
			return err
		}
	}
	for {
		o, err := p.object(ctx, key)
		if err != nil {
			return err
		}
		if o.entry == nil {
			if offset != 0 {
				return store.ErrConflict
			}
			err := p.begin(ctx, key, nil, &entry{modified: time.Now()}, b)
			if errors.Is(err, errMoved) {
				continue
			}
			return err
		}
		there := o.size() - offset
		if offset < 0 || there < 0 || there > int64(len(b)) {
			return store.ErrConflict
		}
		if there > 0 {
			have := make([]byte, there)
			if err := p.readInto(ctx, o.entry, offset, have); errors.Is(err, errReplaced) {
				continue
			} else if err != nil {
				return err
			}
			if !bytes.HasPrefix(b, have) {
				return store.ErrConflict
			}
		}
		rest := b[there:]
		if len(rest) == 0 {
			return nil
		}
		switch {
		case o.tail.exists && !o.tail.sealed && o.tail.size < roll:
			err = p.extend(ctx, key, tail{o.entry.tail, o.entry.closed(), o.tail.size, o.tail.version}, rest)
		case o.tail.exists && !o.tail.sealed:
			if err = p.seal(ctx, o.entry.tail); err == nil {
				continue // it may have grown before
			}
		default:
			o.entry.closeTail(o.tail.size)
			err = p.begin(ctx, key, o.raw, o.entry, rest)
		}
		if !errors.Is(err, errMoved) {
			return err
		}
	}
}

// extend appends to a tail, if that is as it is known.
func (p *pool) extend(ctx context.Context, key string, t tail, b []byte) error {
	op := rados.CreateWriteOp()
	op.AssertVersion(t.version)
	op.Write(b, uint64(t.size))
	version, err := p.write(ctx, "extend tail", op, data, chunkName(t.id, 0))
	if err != nil {
		p.keepTail(key, tail{})
		if c := code(err); c == eRange || c == eOverflow || c == eNoEntry {
			return errMoved
		}
		return uncertain(err)
	}
	t.size += int64(len(b))
	t.version = version
	p.keepTail(key, t)
	return nil
}

// begin gives e a new tail with b, and makes it the entry if that was old.
func (p *pool) begin(ctx context.Context, key string, old []byte, e *entry, b []byte) error {
	t := tail{id: newID(), offset: e.closed(), size: int64(len(b))}
	e.tail = t.id
	op := rados.CreateWriteOp()
	op.Create(rados.CreateExclusive)
	if len(b) > 0 {
		op.Write(b, 0)
	}
	version, err := p.write(ctx, "begin tail", op, data, chunkName(t.id, 0))
	if err != nil {
		return err // nobody knows of it
	}
	if err := p.cas(ctx, key, old, e.encode(), nil); err != nil {
		if !errors.Is(err, store.ErrUnknown) {
			p.drop([]string{chunkName(t.id, 0)})
		}
		return err
	}
	t.version = version
	p.keepTail(key, t)
	return nil
}
