// Package sim is a store in memory, for simulation: a hook sees every
// operation, and may let it fail, or fail after it was carried out, or wait.
package sim

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distci/distci/lib/store"
)

// Store is the objects, which several Clients share.
type Store struct {
	mu      sync.Mutex
	objects map[string]object
	keys    []string // in order
	last    int
	now     func() time.Time
}

type object struct {
	data []byte
	info store.Info
}

// New makes an empty store with that clock.
func New(now func() time.Time) *Store { return &Store{objects: map[string]object{}, now: now} }

// Clone makes a store with the same objects.
func (s *Store) Clone() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Store{objects: maps.Clone(s.objects), keys: slices.Clone(s.keys), last: s.last, now: s.now}
}

// Client is one process's connection.
type Client struct {
	*Store
	// Hook is called with each operation. It calls do, which carries the
	// operation out, or does not; what it returns is the answer.
	Hook func(op, key string, do func() error) error
}

// Open makes a client without a hook.
func (s *Store) Open() *Client {
	return &Client{s, func(_, _ string, do func() error) error { return do() }}
}

// Keys are the keys of all objects, in order.
func (s *Store) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.keys)
}

// call carries out one operation, which sees the store alone.
func (c *Client) call(ctx context.Context, op, key string, do func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := c.Hook(op, key, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		return do()
	})
	if err != nil {
		return fmt.Errorf("store/sim: %s %s: %w", op, key, err)
	}
	return nil
}

func (s *Store) set(key string, data []byte) store.Info {
	if i, there := slices.BinarySearch(s.keys, key); !there {
		s.keys = slices.Insert(s.keys, i, key)
	}
	s.last++
	o := object{data, store.Info{Key: key, Size: int64(len(data)), Version: fmt.Sprint(s.last), Modified: s.now()}}
	s.objects[key] = o
	return o.info
}

func (s *Store) drop(key string) {
	delete(s.objects, key)
	i, _ := slices.BinarySearch(s.keys, key)
	s.keys = slices.Delete(s.keys, i, i+1)
}

func (c *Client) put(ctx context.Context, op, key string, r io.Reader, allowed func(there bool, now store.Info) error) (info store.Info, err error) {
	if err := store.CheckKey(key); err != nil {
		return info, err
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return info, err
	}
	err = c.call(ctx, op, key, func() error {
		o, there := c.objects[key]
		if err := allowed(there, o.info); err != nil {
			return err
		}
		info = c.set(key, data)
		return nil
	})
	return info, err
}

// Put implements [store.Store].
func (c *Client) Put(ctx context.Context, key string, r io.Reader) (store.Info, error) {
	return c.put(ctx, "put", key, r, func(bool, store.Info) error { return nil })
}

// Create implements [store.Store].
func (c *Client) Create(ctx context.Context, key string, r io.Reader) (store.Info, error) {
	return c.put(ctx, "create", key, r, func(there bool, _ store.Info) error {
		if there {
			return store.ErrExists
		}
		return nil
	})
}

// Swap implements [store.Store].
func (c *Client) Swap(ctx context.Context, key, version string, r io.Reader) (store.Info, error) {
	return c.put(ctx, "swap", key, r, func(_ bool, now store.Info) error {
		if now.Version != version {
			return store.ErrConflict
		}
		return nil
	})
}

// Append implements [store.Store].
func (c *Client) Append(ctx context.Context, key string, offset int64, p []byte) error {
	return c.call(ctx, "append", key, func() error {
		data := c.objects[key].data
		if offset < 0 || offset > int64(len(data)) || !bytes.HasPrefix(p, data[offset:]) {
			return store.ErrConflict
		}
		if int(offset)+len(p) > len(data) {
			c.set(key, slices.Concat(data[:offset], p))
		}
		return nil
	})
}

// Sync implements [store.Store].
func (c *Client) Sync(ctx context.Context, key string) error {
	return c.call(ctx, "sync", key, func() error { return c.exists(key) })
}

func (s *Store) exists(key string) error {
	if _, ok := s.objects[key]; !ok {
		return store.ErrNotFound
	}
	return nil
}

// Get implements [store.Store].
func (c *Client) Get(ctx context.Context, key string, offset, n int64) (rd io.ReadCloser, info store.Info, err error) {
	err = c.call(ctx, "get", key, func() error {
		o := c.objects[key]
		data := o.data[min(offset, int64(len(o.data))):]
		if n >= 0 {
			data = data[:min(n, int64(len(data)))]
		}
		rd, info = io.NopCloser(bytes.NewReader(data)), o.info
		return c.exists(key)
	})
	return rd, info, err
}

// Stat implements [store.Store].
func (c *Client) Stat(ctx context.Context, key string) (info store.Info, err error) {
	err = c.call(ctx, "stat", key, func() error {
		info = c.objects[key].info
		return c.exists(key)
	})
	return info, err
}

// Delete implements [store.Store].
func (c *Client) Delete(ctx context.Context, key string) error {
	return c.call(ctx, "delete", key, func() error {
		if err := c.exists(key); err != nil {
			return err
		}
		c.drop(key)
		return nil
	})
}

// Remover is a client that is a [store.Remover], too.
type Remover struct{ *Client }

// Remove implements [store.Remover].
func (c Remover) Remove(ctx context.Context, key, version string) error {
	return c.call(ctx, "remove", key, func() error {
		if err := c.exists(key); err != nil {
			return err
		}
		if c.objects[key].info.Version != version {
			return store.ErrConflict
		}
		c.drop(key)
		return nil
	})
}

// List implements [store.Store].
func (c *Client) List(ctx context.Context, prefix, after string, limit int) (infos []store.Info, err error) {
	if limit == 0 {
		limit = 1000
	}
	err = c.call(ctx, "list", prefix, func() error {
		i, _ := slices.BinarySearch(c.keys, max(prefix, after))
		for _, key := range c.keys[i:] {
			if key > prefix && !strings.HasPrefix(key, prefix) || len(infos) == limit {
				break
			}
			if key > after && strings.HasPrefix(key, prefix) {
				infos = append(infos, c.objects[key].info)
			}
		}
		return nil
	})
	return infos, err
}

// Folders implements [store.Store].
func (c *Client) Folders(ctx context.Context, prefix, after string, limit int) (names []string, err error) {
	if limit == 0 {
		limit = 1000
	}
	err = c.call(ctx, "folders", prefix, func() error {
		for _, key := range c.keys {
			rest, ok := strings.CutPrefix(key, prefix)
			name, _, folder := strings.Cut(rest, "/")
			if ok && folder && name > after && len(names) < limit && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		return nil
	})
	slices.Sort(names)
	return names, err
}

// Close implements [store.Store].
func (c *Client) Close() error { return nil }
