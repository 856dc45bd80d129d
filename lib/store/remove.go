package store

import (
	"bytes"
	"context"
	"errors"
	"time"
)

// Remover is implemented by a store that can delete an object on the condition
// that nobody has changed it. Ask with [Remove], which does without.
type Remover interface {
	// Remove deletes the object if it is at the given version. Errors:
	// ErrNotFound, ErrConflict.
	Remove(ctx context.Context, key, version string) error
}

// Removing is how long an object may be empty while it is being removed, see
// [Remove]. Whoever finds one so for longer may have it: its remover is gone.
const Removing = time.Minute

// Remove deletes the object if it is at the given version. Errors: ErrNotFound,
// ErrConflict.
//
// In a store that is no [Remover] the object is first made empty, on that
// condition, and then deleted, within half of [Removing]; what a crash leaves is
// an empty object. So Remove is for objects that are never empty, and whose
// writers replace one only by a Swap and leave one that is empty alone until it
// is gone or was so for Removing.
func Remove(ctx context.Context, s Store, key, version string) error {
	if r, ok := s.(Remover); ok {
		return r.Remove(ctx, key, version)
	}
	begun := time.Now()
	_, err := s.Swap(ctx, key, version, bytes.NewReader(nil))
	if errors.Is(err, ErrConflict) {
		if _, statErr := s.Stat(ctx, key); errors.Is(statErr, ErrNotFound) {
			return statErr
		}
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(ctx, begun.Add(Removing/2))
	defer cancel()
	return s.Delete(ctx, key)
}
