//go:build ceph && cgo

package rados

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/store"
)

const (
	// uploads is how many chunks of an object are written or read at a time.
	uploads = 4
	// removals is how many RADOS objects are removed at a time.
	removals = 8
	// stale is the age from which Put makes sure that what it wrote first is
	// still there, before it says where it is: Sweep may take it for garbage.
	stale = time.Minute
)

// Put implements [store.Store].
func (p *pool) Put(ctx context.Context, key string, r io.Reader) (store.Info, error) {
	info, err := p.put(ctx, key, r, nil)
	return info, failed("put", key, err)
}

// Create implements [store.Store].
func (p *pool) Create(ctx context.Context, key string, r io.Reader) (store.Info, error) {
	info, err := p.put(ctx, key, r, func(version string) error {
		if version != "" {
			return store.ErrExists
		}
		return nil
	})
	return info, failed("create", key, err)
}

// Swap implements [store.Store].
func (p *pool) Swap(ctx context.Context, key, version string, r io.Reader) (store.Info, error) {
	info, err := p.put(ctx, key, r, func(now string) error {
		if now != version {
			return store.ErrConflict
		}
		return nil
	})
	return info, failed("swap", key, err)
}

// put stores r if allowed does not object to the present version; "" means
// that there is no object.
func (p *pool) put(ctx context.Context, key string, r io.Reader, allowed func(version string) error) (store.Info, error) {
	if err := usable(ctx, key); err != nil {
		return store.Info{}, err
	}
	if allowed != nil { // spares reading r in vain; asked again below
		o, err := p.object(ctx, key)
		if err == nil {
			err = allowed(o.version())
		}
		if err != nil {
			return store.Info{}, err
		}
	}
	seg, err := p.upload(ctx, r)
	if err != nil {
		return store.Info{}, err
	}
	e := &entry{modified: time.Now(), segments: []segment{seg}}
	if err := p.replace(ctx, key, e, allowed); err != nil {
		if !errors.Is(err, store.ErrUnknown) { // else they may be in use
			p.drop(e.objects())
		}
		return store.Info{}, err
	}
	return describe(key, e, tailState{}), nil
}

// upload writes r as chunks, which belong to nobody yet.
func (p *pool) upload(ctx context.Context, r io.Reader) (_ segment, err error) {
	seg := segment{id: newID(), chunk: chunkSize}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(uploads)
	n := int64(0)
	defer func() {
		if err != nil {
			e := entry{segments: []segment{{seg.id, n * chunkSize, chunkSize}}}
			p.drop(e.objects())
		}
	}()
	buf := p.buffer(small)
	defer func() { p.recycle(buf) }()
	for more := true; more && gctx.Err() == nil; {
		k, err := io.ReadFull(r, *buf)
		if err == nil && k < chunkSize { // it is not as small as was hoped
			first := *buf
			buf = p.buffer(chunkSize)
			copy(*buf, first)
			k, err = io.ReadFull(r, (*buf)[k:])
			k += len(first)
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
		}
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			more = false
		case err != nil:
			g.Wait()
			return seg, &sourceError{err}
		}
		if k == 0 {
			break
		}
		op := rados.CreateWriteOp()
		op.Write((*buf)[:k], 0)
		name := chunkName(seg.id, n)
		seg.size += int64(k)
		n++
		g.Go(func() error {
			_, err := p.write(gctx, "write chunk", op, data, name)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // that of the group is the same, said less clearly
		}
		return seg, err
	}
	if err := ctx.Err(); err != nil {
		return seg, err
	}
	if n > 0 && time.Since(made(seg.id)) > stale {
		op := rados.CreateWriteOp()
		op.AssertExists()
		op.SetXattr("kept", []byte("1"))
		if _, err := p.write(ctx, "keep chunk", op, data, chunkName(seg.id, 0)); err != nil {
			return seg, err
		}
	}
	return seg, nil
}

// replace makes e the key's entry, or removes that if e is nil, if allowed
// does not object. What was there is noted as garbage.
func (p *pool) replace(ctx context.Context, key string, e *entry, allowed func(version string) error) error {
	for {
		o, err := p.object(ctx, key)
		if err != nil {
			return err
		}
		if allowed != nil {
			if err := allowed(o.version()); err != nil {
				return err
			}
		}
		if o.tail.exists && !o.tail.sealed {
			if err := p.seal(ctx, o.entry.tail); err != nil {
				return err
			}
			continue // it may have grown before
		}
		var raw []byte
		if e != nil {
			raw = e.encode()
		}
		notes := map[string][]byte{}
		note := ""
		if o.entry != nil {
			note = trashKey(time.Now())
			notes[note] = o.raw
		}
		err = p.cas(ctx, key, o.raw, raw, notes)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return err
		}
		if o.entry != nil {
			p.tidy(ctx, key, o.entry, note, e == nil)
		}
		p.tell(key)
		return nil
	}
}

// Delete implements [store.Store].
func (p *pool) Delete(ctx context.Context, key string) error {
	err := usable(ctx, key)
	if err == nil {
		err = p.replace(ctx, key, nil, func(version string) error {
			if version == "" {
				return store.ErrNotFound
			}
			return nil
		})
	}
	return failed("delete", key, err)
}

// Remove implements [store.Remover].
func (p *pool) Remove(ctx context.Context, key, version string) error {
	err := usable(ctx, key)
	if err == nil {
		err = p.replace(ctx, key, nil, func(now string) error {
			switch now {
			case "":
				return store.ErrNotFound
			case version:
				return nil
			}
			return store.ErrConflict
		})
	}
	return failed("remove", key, err)
}

// drop removes RADOS objects that nobody refers to. Nobody waits for it, and
// what it leaves is garbage for Sweep.
func (p *pool) drop(objects []string) {
	if len(objects) > 0 {
		p.background(func(ctx context.Context) { p.remove(ctx, objects) })
	}
}

// remove removes RADOS objects of the data.
func (p *pool) remove(ctx context.Context, objects []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(removals)
	for _, name := range objects {
		g.Go(func() error {
			err := p.do(ctx, "remove", func(s *slot) error { return s.data.Delete(name) })
			if code(err) == eNoEntry {
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

// usable checks what every operation on a key needs.
func usable(ctx context.Context, key string) error {
	if err := store.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}
