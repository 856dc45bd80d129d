package s3

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

const (
	// Pieces smaller than small at the end of an object are put together as
	// soon as they are many, or hold much.
	small      = 4 << 20
	mergeCount = 32
	mergeBytes = 8 << 20
	// cachedHeads is how many objects are appended to without reading their
	// heads first: as many logs as a process writes at a time.
	cachedHeads = 64
)

// Append implements [store.Store].
//
// The bytes go to the object's head, in one request; when that holds tailMax
// bytes they become a piece.
func (s *bucket) Append(ctx context.Context, key string, offset int64, p []byte) error {
	return failed("append to", key, s.append(ctx, key, offset, p))
}

func (s *bucket) append(ctx context.Context, key string, offset int64, p []byte) error {
	if err := usable(ctx, key); err != nil {
		return err
	}
	// What a lost answer means is seen by the bytes: they are there, or they
	// are not and can be appended on the same condition as before.
	started := time.Now()
	var lost error
	chain := ""
	if h := s.remembered(key); h != nil && h.size() == offset && len(p) > 0 {
		err := s.extend(ctx, key, h, p)
		if errors.Is(err, store.ErrUnknown) {
			lost, chain = err, h.chain
		} else if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	for try := 0; ; try++ {
		h, err := s.readHead(ctx, key)
		switch {
		case errors.Is(err, store.ErrNotFound):
			err = nil
			h = &head{}
		case err != nil && lost != nil:
			return lost
		case err != nil:
			return err
		}
		if lost != nil && h.chain != chain {
			return lost // it was replaced since
		}
		rest, err := s.missing(ctx, key, h, offset, p)
		if err != nil || rest == nil {
			return err
		}
		err = s.extend(ctx, key, h, rest)
		if errors.Is(err, store.ErrUnknown) {
			lost, chain = err, h.chain
		} else if !errors.Is(err, store.ErrConflict) {
			return err
		}
		if !s.pause(ctx, try, started) {
			if lost != nil {
				return lost
			}
			return fault.Errorf(fault.Temporary, "others change it all the time: %w", err)
		}
	}
}

// missing returns what of p the object has not yet: nil if it has all of it.
func (s *bucket) missing(ctx context.Context, key string, h *head, offset int64, p []byte) ([]byte, error) {
	there := h.size() - offset
	if offset < 0 || there < 0 || there > int64(len(p)) {
		return nil, store.ErrConflict
	}
	if there > 0 {
		have, err := s.readAt(ctx, key, h, offset, h.size())
		if err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(p, have) {
			return nil, store.ErrConflict
		}
	}
	if there == int64(len(p)) && h.name != "" {
		return nil, nil
	}
	return p[there:len(p):len(p)], nil
}

// extend appends p to the object whose head is h; one without a name stands
// for none. Errors: ErrConflict, if that is not its head.
func (s *bucket) extend(ctx context.Context, key string, h *head, p []byte) error {
	next := newHead()
	c := condition{absent: true}
	if h.name != "" {
		next.chain = h.chain
		c = condition{etag: h.etag}
	}
	next.pieces = slices.Clip(h.pieces)
	var added, merged []piece
	if len(h.tail)+len(p) <= tailMax {
		next.tail = append(slices.Clip(h.tail), p...)
	} else {
		var err error
		if added, err = s.upload(ctx, key, h.tail, bytes.NewReader(p)); err != nil {
			return err
		}
		next.pieces = append(next.pieces, added...)
		if merged = mergeable(next.pieces); merged != nil {
			one, err := s.merge(ctx, key, merged)
			if err != nil {
				s.discard(ctx, key, added)
				return err
			}
			next.pieces = append(slices.Clip(next.pieces[:len(next.pieces)-len(merged)]), one...)
			added = append(added, one...)
		}
	}
	err := s.writeHead(ctx, key, next, c)
	switch {
	case err == nil:
		s.remember(key, next)
		s.discard(ctx, key, merged)
		return nil
	case errors.Is(err, store.ErrExists):
		err = store.ErrConflict
	}
	s.forget(key)
	if !errors.Is(err, store.ErrUnknown) {
		s.discard(ctx, key, added)
	}
	return err
}

// mergeable returns the small pieces at the end if they are to be one.
func mergeable(pieces []piece) []piece {
	begin, total := len(pieces), int64(0)
	for begin > 0 && pieces[begin-1].size < small {
		begin--
		total += pieces[begin].size
	}
	if n := len(pieces) - begin; n < 2 || n < mergeCount && total < mergeBytes {
		return nil
	}
	return pieces[begin:]
}

// merge copies pieces into one.
func (s *bucket) merge(ctx context.Context, key string, pieces []piece) ([]piece, error) {
	h := &head{pieces: pieces}
	r := &reader{s: s, ctx: ctx, key: key, head: h, end: h.size()}
	defer r.Close()
	return s.upload(ctx, key, nil, r)
}

// Sync implements [store.Store]: what a server has acknowledged is safe.
func (s *bucket) Sync(ctx context.Context, key string) error {
	err := usable(ctx, key)
	if err == nil {
		_, err = s.statHead(ctx, key)
	}
	return failed("sync", key, err)
}

// remembered is the head that this process wrote last, if it is known. It may
// be replaced since: it is good for a conditional put, and for nothing else.
func (s *bucket) remembered(key string) *head {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heads[key]
}

func (s *bucket) remember(key string, h *head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other := range s.heads {
		if _, known := s.heads[key]; known || len(s.heads) < cachedHeads {
			break
		}
		delete(s.heads, other)
	}
	s.heads[key] = h
}

func (s *bucket) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.heads, key)
}

var _ io.Reader = (*reader)(nil)
