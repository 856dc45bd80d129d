package s3

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// Get implements [store.Store].
func (s *bucket) Get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	r, info, err := s.get(ctx, key, offset, n)
	if err != nil {
		return nil, store.Info{}, failed("get", key, err)
	}
	return r, info, nil
}

func (s *bucket) get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	if err := usable(ctx, key); err != nil {
		return nil, store.Info{}, err
	}
	if offset < 0 {
		return nil, store.Info{}, fault.Errorf(fault.Internal, "negative offset %d", offset)
	}
	h, err := s.readHead(ctx, key)
	if err != nil {
		return nil, store.Info{}, err
	}
	rest := max(0, h.size()-offset)
	if n < 0 || n > rest {
		n = rest
	}
	return &reader{s: s, ctx: ctx, key: key, head: h, offset: offset, end: offset + n}, h.info(key), nil
}

// Stat implements [store.Store].
func (s *bucket) Stat(ctx context.Context, key string) (store.Info, error) {
	err := usable(ctx, key)
	var info store.Info
	if err == nil {
		info, err = s.statHead(ctx, key)
	}
	return info, failed("stat", key, err)
}

// reader is an object that is being read, as it was when it was opened.
type reader struct {
	s           *bucket
	ctx         context.Context
	key         string
	head        *head
	offset, end int64

	body io.ReadCloser // of the piece at offset; nil: not open
	left int64         // bytes of it that are to come

	try     int // since bytes came last
	started time.Time
}

// Read ends with the context's error when that is done. A connection that
// breaks is replaced.
func (r *reader) Read(p []byte) (int, error) {
	for {
		if err := r.ctx.Err(); err != nil {
			return 0, err
		}
		if len(p) == 0 {
			return 0, nil
		}
		if r.offset >= r.end {
			return 0, io.EOF
		}
		if before := r.head.before(); r.offset >= before {
			n := copy(p, r.head.tail[r.offset-before:r.end-before])
			r.offset += int64(n)
			return n, nil
		}
		n, err := r.readPiece(p)
		if n > 0 {
			r.offset += int64(n)
			r.try = 0
			return n, nil
		}
		if err == nil {
			continue
		}
		if r.try == 0 {
			r.started = time.Now()
		}
		if errors.Is(err, store.ErrNotFound) {
			err = r.relocate()
		}
		if err != nil && (!temporary(err) || fault.Of(err) == fault.Config || !r.s.pause(r.ctx, r.try, r.started)) {
			return 0, failed("get", r.key, err)
		}
		r.try++
	}
}

// readPiece reads from the piece that holds the offset, which it opens if need
// be. Neither bytes nor an error: the piece has ended.
func (r *reader) readPiece(p []byte) (int, error) {
	if r.body == nil {
		begin := int64(0)
		for _, piece := range r.head.pieces {
			if r.offset < begin+piece.size {
				r.left = min(begin+piece.size, r.end) - r.offset
				body, _, err := r.s.open(r.ctx, dataName(r.key, piece.name), r.offset-begin, r.left)
				if err != nil {
					return 0, err
				}
				r.body = body
				break
			}
			begin += piece.size
		}
	}
	n, err := r.body.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if r.left == 0 {
		err = nil
		// The end that follows lets the connection be used again.
		io.CopyN(io.Discard, r.body, 1)
	} else if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if r.left == 0 || err != nil {
		r.body.Close()
		r.body = nil
	}
	return n, err
}

// relocate finds the data again of which a piece is gone: an Append may have
// put pieces together.
func (r *reader) relocate() error {
	h, err := r.s.readHead(r.ctx, r.key)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && (h.chain != r.head.chain || h.size() < r.end):
		return fault.Errorf(fault.Config, "it was deleted while it was read")
	case err == nil && h.name == r.head.name:
		return fault.Errorf(fault.Config, "its data is missing in the bucket")
	case err == nil:
		r.head = h
	}
	return err
}

// Close implements [io.Closer].
func (r *reader) Close() error {
	if r.body != nil {
		r.body.Close()
		r.body = nil
	}
	return nil
}
