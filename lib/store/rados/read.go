//go:build ceph && cgo

package rados

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// Get implements [store.Store].
func (p *pool) Get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	r, info, err := p.get(ctx, key, offset, n)
	if err != nil {
		return nil, store.Info{}, failed("get", key, err)
	}
	return r, info, nil
}

func (p *pool) get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	if err := usable(ctx, key); err != nil {
		return nil, store.Info{}, err
	}
	if offset < 0 {
		return nil, store.Info{}, fault.Errorf(fault.Internal, "negative offset %d", offset)
	}
	for range 100 {
		o, err := p.object(ctx, key)
		if err != nil {
			return nil, store.Info{}, err
		}
		if o.entry == nil {
			return nil, store.Info{}, store.ErrNotFound
		}
		rest := max(0, o.size()-offset)
		if n < 0 || n > rest {
			n = rest
		}
		r := &reader{p: p, key: key, entry: o.entry, next: offset, end: offset + n}
		r.ctx, r.cancel = context.WithCancel(ctx)
		// The first bytes are there when Get returns, so that a small object is
		// read as it was.
		err = r.fill()
		if err == nil || err == io.EOF {
			return r, describe(key, o.entry, o.tail), nil
		}
		r.Close()
		if !errors.Is(err, errReplaced) {
			return nil, store.Info{}, err
		}
	}
	return nil, store.Info{}, errReplaced
}

// reader reads a range of an object, some pieces ahead.
type reader struct {
	p         *pool
	key       string
	ctx       context.Context
	cancel    context.CancelFunc
	entry     *entry
	next, end int64 // what is not asked for yet
	begun     bool  // the first piece was asked for
	ahead     []chan fetched
	have      *[]byte // the piece that is being read
	rest      []byte  // of it, not read yet
	err       error
}

// fetched is a piece that was read, in a buffer to recycle.
type fetched struct {
	buf *[]byte
	n   int
	err error
}

// Read ends with the context's error when that is done.
func (r *reader) Read(b []byte) (int, error) {
	if len(r.rest) == 0 && r.err == nil {
		if err := r.fill(); err == io.EOF {
			r.err = err
		} else if err != nil {
			r.err = failed("read", r.key, err)
		}
	}
	if len(r.rest) == 0 {
		return 0, r.err
	}
	if err := r.ctx.Err(); err != nil {
		return 0, failed("read", r.key, err)
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// fill waits for the next piece, which is not empty, and asks for others.
func (r *reader) fill() error {
	r.release()
	// The first piece comes alone: many readers want no more.
	depth := 1
	if r.begun {
		depth = uploads
	}
	r.begun = true
	for r.next < r.end && len(r.ahead) < depth {
		r.ahead = append(r.ahead, r.fetch())
	}
	if len(r.ahead) == 0 {
		return io.EOF
	}
	next := r.ahead[0]
	r.ahead = r.ahead[1:]
	select {
	case f := <-next:
		if f.err != nil {
			return f.err
		}
		r.have, r.rest = f.buf, (*f.buf)[:f.n]
		return nil
	case <-r.ctx.Done():
		return r.ctx.Err()
	}
}

// fetch begins to read the next piece.
func (r *reader) fetch() chan fetched {
	c := make(chan fetched, 1)
	piece := r.entry.piece(r.next, min(r.end-r.next, chunkSize))
	r.next += piece.n
	go func() {
		buf, err := r.p.readPiece(r.ctx, piece)
		c <- fetched{buf, int(piece.n), err}
	}()
	return c
}

func (r *reader) release() {
	if r.have != nil {
		r.p.recycle(r.have)
		r.have, r.rest = nil, nil
	}
}

// Close implements [io.Closer].
func (r *reader) Close() error {
	r.cancel()
	r.release()
	r.ahead, r.next = nil, r.end
	if r.err == nil {
		r.err = fault.Errorf(fault.Internal, "store/rados: read %s: the reader is closed", r.key)
	}
	return nil
}

// readPiece reads a piece, of at most chunkSize, whole. Its caller may recycle
// the buffer.
func (p *pool) readPiece(ctx context.Context, want piece) (*[]byte, error) {
	buf := p.buffer(want.n)
	n, err := call(ctx, p, "read", func(s *slot) (int, error) {
		return s.data.Read(want.object, (*buf)[:want.n], uint64(want.offset))
	})
	switch {
	case code(err) == eNoEntry:
		return nil, errReplaced
	case err != nil:
		return nil, err // the buffer may still be written to
	case int64(n) != want.n:
		return nil, fault.Errorf(fault.Internal, "%s of namespace %s.data is damaged: %d bytes at %d, want %d", want.object, p.address.Namespace, n, want.offset, want.n)
	}
	return buf, nil
}

// readInto fills b with the entry's bytes from offset on.
func (p *pool) readInto(ctx context.Context, e *entry, offset int64, b []byte) error {
	for len(b) > 0 {
		piece := e.piece(offset, int64(min(len(b), chunkSize)))
		buf, err := p.readPiece(ctx, piece)
		if err != nil {
			return fmt.Errorf("read what is there: %w", err)
		}
		copy(b, (*buf)[:piece.n])
		p.recycle(buf)
		b = b[piece.n:]
		offset += piece.n
	}
	return nil
}
