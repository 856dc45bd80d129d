package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/distci/distci/lib/store"
)

// Put implements [store.Store].
func (s *bucket) Put(ctx context.Context, key string, r io.Reader) (store.Info, error) {
	info, err := s.put(ctx, key, r, condition{})
	return info, failed("put", key, err)
}

// Create implements [store.Store].
func (s *bucket) Create(ctx context.Context, key string, r io.Reader) (store.Info, error) {
	info, err := s.put(ctx, key, r, condition{absent: true})
	return info, failed("create", key, err)
}

// validETag tells whether a server may have given this ETag to what one request
// has put. Another string is nobody's version.
func validETag(s string) bool { return len(s) <= 128 && of(s, "._-") }

// Swap implements [store.Store].
func (s *bucket) Swap(ctx context.Context, key, version string, r io.Reader) (store.Info, error) {
	c := condition{etag: version, absent: version == ""}
	if !c.absent && !validETag(version) {
		return store.Info{}, failed("swap", key, store.ErrConflict)
	}
	info, err := s.put(ctx, key, r, c)
	if c.absent && errors.Is(err, store.ErrExists) {
		err = store.ErrConflict
	}
	return info, failed("swap", key, err)
}

func (s *bucket) put(ctx context.Context, key string, r io.Reader, c condition) (store.Info, error) {
	if err := usable(ctx, key); err != nil {
		return store.Info{}, err
	}
	h := newHead()
	first := make([]byte, tailMax+1)
	n, err := fill(ctx, r, first)
	if err != nil && err != io.EOF {
		return store.Info{}, err
	}
	if n <= tailMax {
		h.tail = first[:n]
	} else {
		if err := s.mayHold(ctx, key, c); err != nil {
			return store.Info{}, err
		}
		if h.pieces, err = s.upload(ctx, key, first, r); err != nil {
			return store.Info{}, err
		}
	}
	if err := s.writeHead(ctx, key, h, c); err != nil {
		if !errors.Is(err, store.ErrUnknown) {
			s.discard(ctx, key, h.pieces)
		}
		return store.Info{}, err
	}
	return h.info(key), nil
}

// mayHold spares an upload whose condition does not hold even now.
func (s *bucket) mayHold(ctx context.Context, key string, c condition) error {
	if c == (condition{}) {
		return nil
	}
	now, err := s.statHead(ctx, key)
	switch {
	case err != nil && !errors.Is(err, store.ErrNotFound):
		return err
	case c.absent && err == nil:
		return store.ErrExists
	case now.Version != c.etag:
		return store.ErrConflict
	}
	return nil
}

// Delete implements [store.Store].
func (s *bucket) Delete(ctx context.Context, key string) error {
	return failed("delete", key, s.delete(ctx, key))
}

func (s *bucket) delete(ctx context.Context, key string) error {
	if err := usable(ctx, key); err != nil {
		return err
	}
	h, err := s.readHead(ctx, key)
	if err != nil {
		return err
	}
	started := time.Now()
	for try := 0; ; try++ {
		err := s.remove(ctx, headName(key))
		if err == nil {
			break
		}
		if !notApplied(err) {
			if ctx.Err() != nil {
				return fmt.Errorf("%w: %w", store.ErrUnknown, err)
			}
			now, readErr := s.readHead(ctx, key)
			if errors.Is(readErr, store.ErrNotFound) {
				break
			}
			// As long as it is the same object, it may be deleted once more.
			if readErr != nil || now.name != h.name {
				return fmt.Errorf("%w: %w", store.ErrUnknown, err)
			}
			err = fmt.Errorf("%w: %w", store.ErrUnknown, err)
		}
		if !temporary(err) || !s.pause(ctx, try, started) {
			return err
		}
	}
	s.forget(key)
	s.discard(ctx, key, h.pieces)
	return nil
}

// usable checks what every operation on a key needs.
func usable(ctx context.Context, key string) error {
	if err := store.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}
