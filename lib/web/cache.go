package web

import (
	"context"
	"sync"
	"time"
)

// cache remembers answers for a moment, for all readers of this frontend: what
// many ask at the same time is looked up once. It holds so many at most.
//
// With stale, an answer that is too old is given all the same, to those who ask
// while another is being looked up, unless it is older than that.
type cache[K comparable, V any] struct {
	most  int
	stale time.Duration

	mu      sync.Mutex
	entries map[K]*entry[V]
}

type entry[V any] struct {
	ready chan struct{} // closed when the rest is there
	value V
	err   error
	until time.Time // guarded by cache.mu; zero: it is being looked up
	next  *entry[V] // guarded by cache.mu; being looked up in its place
}

func newCache[K comparable, V any](most int) *cache[K, V] {
	return &cache[K, V]{most: most, entries: map[K]*entry[V]{}}
}

// lookupTime bounds a look-up, which does not end with whoever has caused it:
// others may wait for it, too.
const lookupTime = 30 * time.Second

// get returns the answer for key, which look finds if there is none that is
// still good; look also tells for how long its answer is. Errors are not
// remembered.
func (c *cache[K, V]) get(ctx context.Context, key K, look func(context.Context) (V, time.Duration, error)) (V, error) {
	c.mu.Lock()
	e := c.entries[key]
	if now := time.Now(); e == nil || !e.until.IsZero() && now.After(e.until) {
		next := &entry[V]{ready: make(chan struct{})}
		switch {
		case e != nil && now.Before(e.until.Add(c.stale)):
			if e.next == nil {
				e.next = next
				go c.fill(context.WithoutCancel(ctx), key, next, look)
			}
		default:
			c.shrink()
			e, c.entries[key] = next, next
			go c.fill(context.WithoutCancel(ctx), key, next, look)
		}
	}
	c.mu.Unlock()
	select {
	case <-e.ready:
		return e.value, e.err
	case <-ctx.Done():
		var none V
		return none, ctx.Err()
	}
}

func (c *cache[K, V]) fill(ctx context.Context, key K, e *entry[V], look func(context.Context) (V, time.Duration, error)) {
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var life time.Duration
	e.value, life, e.err = look(ctx)
	c.mu.Lock()
	e.until = time.Now().Add(life)
	old := c.entries[key]
	switch {
	case old != e && (old == nil || old.next != e): // there was no more room for it
	case e.err == nil:
		c.entries[key] = e
	case old == e:
		delete(c.entries, key)
	default: // the old answer is as good as it was
		old.next = nil
	}
	c.mu.Unlock()
	close(e.ready)
}

// shrink makes room for one more: first by what is too old, then by anything
// that is not being looked up.
func (c *cache[K, V]) shrink() {
	if len(c.entries) < c.most {
		return
	}
	now := time.Now()
	for key, e := range c.entries {
		if !e.until.IsZero() && now.After(e.until) {
			delete(c.entries, key)
		}
	}
	for key, e := range c.entries {
		if len(c.entries) < c.most-c.most/8 {
			return
		}
		if !e.until.IsZero() {
			delete(c.entries, key)
		}
	}
}
