// Package store is the interface to the object store, where everything lives
// that outlasts a build: jobs, build records, logs, artefacts, layers.
//
// Adapters: store/dir (a folder), store/rados (Ceph), store/s3. What an
// adapter must do is said here and proven by storetest.
//
// A key is one or more parts joined by "/"; a part is 1 to 255 bytes of
// A–Z a–z 0–9 . _ - = + @ and does not begin with ".". A key is at most 900
// bytes, and no key is another one's folder: whoever has "a/b" has no "a".
package store

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"
)

// The errors of a store; test with errors.Is. Except after ErrUnknown,
// nothing was changed.
var (
	ErrNotFound = errors.New("no such object")
	ErrExists   = errors.New("object exists")
	// ErrConflict: the version is not the expected one, or the bytes at the
	// offset are not those that are to be appended.
	ErrConflict = errors.New("object has changed")
	ErrBadKey   = errors.New("not a valid key")
	// ErrFull: no space or no quota is left.
	ErrFull = errors.New("no space left in the store")
	// ErrUnknown: the answer was lost; the operation may have been applied.
	ErrUnknown = errors.New("outcome unknown")
)

// Info describes an object.
type Info struct {
	Key      string
	Size     int64  // bytes
	Version  string // changes with every Put, Swap and Append; for Swap
	Modified time.Time
}

// Store is an object store. It may be used by several goroutines, and by
// several processes at once.
//
// What a method has reported as done survives a crash of the machine, except
// for Append, whose bytes are visible to every reader at once but are only
// safe after Sync.
type Store interface {
	// Put stores all of r under key, replacing what was there. Readers see the
	// old object or the new one, never a mixture and never a part; so does a
	// crash. If r fails, nothing is changed and its error is returned.
	Put(ctx context.Context, key string, r io.Reader) (Info, error)
	// Create is Put for a key that must be absent. Errors: ErrExists.
	Create(ctx context.Context, key string, r io.Reader) (Info, error)
	// Swap is Put for an object that must be at the given version; "" means
	// absent. Errors: ErrConflict.
	Swap(ctx context.Context, key, version string, r io.Reader) (Info, error)

	// Append makes p the object's bytes from offset on. The offset is the
	// object's size, or, so that a repeat does no harm, less, if the bytes that
	// are there already are the beginning of p. An absent object has size 0.
	// Errors: ErrConflict. It is meant for one writer; of two that race at the
	// same offset with different bytes, at most one succeeds.
	Append(ctx context.Context, key string, offset int64, p []byte) error
	// Sync makes what was appended safe. Errors: ErrNotFound.
	Sync(ctx context.Context, key string) error

	// Get reads n bytes from offset on, or what there is of them; n < 0 means
	// up to the end as it is now. Info is of the object that is being read; a
	// Put meanwhile does not disturb it. Errors: ErrNotFound.
	Get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, Info, error)
	// Stat describes an object. Errors: ErrNotFound.
	Stat(ctx context.Context, key string) (Info, error)
	// Delete removes an object. Errors: ErrNotFound.
	Delete(ctx context.Context, key string) error

	// List returns objects whose keys begin with prefix and are greater than
	// after, in byte order of their keys, at most limit (0: 1000) of them.
	// Fewer than limit means that there are no more. The prefix need not end at
	// a "/".
	List(ctx context.Context, prefix, after string, limit int) ([]Info, error)
	// Folders returns the distinct parts that follow prefix, which is empty or
	// ends in "/", in keys with a further "/" behind that part; greater than
	// after; in order; at most limit (0: 1000).
	Folders(ctx context.Context, prefix, after string, limit int) ([]string, error)

	// Close ends the connection to the store, if there is one.
	Close() error
}

// CheckKey returns ErrBadKey if key is not a valid key.
func CheckKey(key string) error {
	if key == "" || len(key) > 900 {
		return ErrBadKey
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || len(part) > 255 || part[0] == '.' {
			return ErrBadKey
		}
		for _, c := range []byte(part) {
			if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("._-=+@", c) >= 0) {
				return ErrBadKey
			}
		}
	}
	return nil
}

// ReadAll reads a whole object into memory.
func ReadAll(ctx context.Context, s Store, key string) ([]byte, Info, error) {
	r, info, err := s.Get(ctx, key, 0, -1)
	if err != nil {
		return nil, Info{}, err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return b, info, err
}
