package store

import "context"

// Watcher is implemented by a store that can tell when an object changes. Ask
// with [Watch], which does without.
type Watcher interface {
	// Watch returns a channel from which something can be received after the
	// object at key was changed by anybody: once for one change or for many. It
	// is closed when the watch has ended, because ctx has or because the store
	// cannot go on. The object need not be there; a store may answer with
	// ErrNotFound all the same.
	//
	// A notification may come late, twice, for nothing or never. It only saves
	// time: whoever waits for a change must look by himself now and then.
	Watch(ctx context.Context, key string) (<-chan struct{}, error)
}

// Watch watches the object at key if s is a [Watcher] and can do so now; else
// the channel is nil, from which nothing ever comes.
func Watch(ctx context.Context, s Store, key string) <-chan struct{} {
	w, ok := s.(Watcher)
	if !ok {
		return nil
	}
	c, err := w.Watch(ctx, key)
	if err != nil {
		return nil
	}
	return c
}
