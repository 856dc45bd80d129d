package zk

import (
	"context"
	"fmt"
	"sync"

	"github.com/go-zookeeper/zk"

	"github.com/distci/distci/lib/coord"
)

// watched is what a watch is on.
type watched struct {
	path     string
	children bool
}

// watch is a watch that is set on the server. All who watch the same thing in
// a session share it: a server keeps a watch until it fires, and the library
// cannot take one back.
type watch struct {
	once  sync.Once
	fired chan struct{}
}

func (w *watch) fire() { w.once.Do(func() { close(w.fired) }) }

func (w *watch) C() <-chan struct{} { return w.fired }

// Stop does nothing: see watch.
func (w *watch) Stop() {}

// WatchNode watches for a node's creation, change or deletion.
func (c *conn) WatchNode(ctx context.Context, path string) (coord.Watch, error) {
	return c.watch(ctx, watched{path, false})
}

// WatchChildren watches for the creation or deletion of a node's children.
func (c *conn) WatchChildren(ctx context.Context, path string) (coord.Watch, error) {
	return c.watch(ctx, watched{path, true})
}

func (c *conn) watch(ctx context.Context, what watched) (coord.Watch, error) {
	if err := coord.CheckPath(what.path); err != nil {
		return nil, fmt.Errorf("coord: %q: %w", what.path, err)
	}
	if c.closed() {
		return nil, errClosed
	}
	w, err := request(ctx, c, false, func(s *session) (*watch, error) {
		if w := s.watching(what); w != nil {
			return w, nil
		}
		var events <-chan zk.Event
		var err error
		if what.children {
			_, _, events, err = s.zk.ChildrenW(c.full(what.path))
		} else {
			_, _, events, err = s.zk.ExistsW(c.full(what.path))
		}
		if err != nil {
			return nil, err
		}
		return s.watch(what, events), nil
	})
	if err != nil {
		return nil, c.explain(what.path, err)
	}
	return w, nil
}

// watching is the watch that is set on a thing already.
func (s *session) watching(what watched) *watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches[what]
}

// watch notes a watch that was set, and fires it at its event or at the end of
// the session.
func (s *session) watch(what watched, events <-chan zk.Event) *watch {
	w := &watch{fired: make(chan struct{})}
	s.mu.Lock()
	if s.watches[what] == nil {
		s.watches[what] = w
	}
	s.mu.Unlock()
	go func() {
		select {
		case <-events:
		case <-s.over:
		}
		s.mu.Lock()
		if s.watches[what] == w {
			delete(s.watches, what)
		}
		s.mu.Unlock()
		w.fire()
	}()
	return w
}
