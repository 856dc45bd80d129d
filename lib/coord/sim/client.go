package sim

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

// Client is the connection of one simulated process. Its goroutines end, by
// [runtime.Goexit], at their next call after the process has crashed.
type Client struct {
	w    *World
	name string

	// All below is guarded by w.mu.
	session *session
	inbox   []*request // called, not yet sent
	answers []*request // to be delivered, in order
	watches []*watch
	last    []coord.Op // of its last transaction
	away    state
	back    time.Time // when it is no longer away
	closed  bool
}

// state is why a client is not heard of.
type state int

const (
	present state = iota
	cut           // the network is down
	paused        // the process is stopped
	crashed       // it is gone for ever
)

// session is the service's view of one.
type session struct {
	id       int64
	pipeline []*request // sent, not yet carried out
	silent   time.Time  // since when nothing is heard of it; zero: it is heard
	end      time.Time  // when it is over, unless it is heard of before
	over     bool
}

// request is one call, and its answer.
type request struct {
	c       *Client
	ops     []coord.Op // of a transaction
	path    string     // of a read
	kind    kind
	asked   int64 // the session that was current at the call
	told    bool  // it has its answer, although it may not be carried out yet
	held    bool  // its process was stopped just before it was sent
	watch   *watch
	done    chan struct{} // closed when the answer is delivered
	stats   []coord.Stat
	data    []byte
	names   []string
	stat    coord.Stat
	err     error
	crashed bool
}

type kind int

const (
	txn kind = iota
	get
	children
	watchNode
	watchChildren
	news // not a call: a watch to be closed, in its place among the answers
)

var kindNames = [...]string{"txn", "get", "children", "watch", "watch-children", "news"}

var (
	errClosed    = fault.Errorf(fault.Temporary, "sim: %w", coord.ErrClosed)
	errExpired   = fault.Errorf(fault.Temporary, "sim: %w", coord.ErrExpired)
	errUnknown   = fault.Errorf(fault.Temporary, "sim: %w", coord.ErrUnknown)
	errReadAgain = fault.Errorf(fault.Temporary, "sim: no answer")
)

// call hands a request to the scheduler and waits for its answer.
func (c *Client) call(ctx context.Context, r *request) error {
	r.c, r.done = c, make(chan struct{})
	if err := c.enqueue(ctx, r); err != nil {
		return err
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		c.w.mu.Lock()
		defer c.w.mu.Unlock()
		if r.told = true; c.away == crashed {
			runtime.Goexit()
		}
		if r.kind == txn {
			return fault.Errorf(fault.Temporary, "sim: %w: %w", coord.ErrUnknown, ctx.Err())
		}
		return fmt.Errorf("sim: %w", ctx.Err())
	}
	if r.crashed {
		runtime.Goexit()
	}
	return r.err
}

func (c *Client) enqueue(ctx context.Context, r *request) error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	switch {
	case c.away == crashed:
		runtime.Goexit()
	case c.closed:
		return errClosed
	case ctx.Err() != nil:
		return fmt.Errorf("sim: %w", ctx.Err())
	}
	r.asked = c.session.id
	if r.kind == txn {
		c.last = r.ops
	}
	c.inbox = append(c.inbox, r)
	c.w.poke()
	return nil
}

// Get reads a node.
func (c *Client) Get(ctx context.Context, path string) ([]byte, coord.Stat, error) {
	if err := coord.CheckPath(path); err != nil {
		return nil, coord.Stat{}, fault.Errorf(fault.Internal, "sim: %q: %w", path, err)
	}
	r := &request{kind: get, path: path}
	err := c.call(ctx, r)
	if err != nil {
		return nil, coord.Stat{}, err
	}
	return r.data, r.stat, nil
}

// Children lists the names of a node's children.
func (c *Client) Children(ctx context.Context, path string) ([]string, error) {
	if err := coord.CheckPath(path); err != nil {
		return nil, fault.Errorf(fault.Internal, "sim: %q: %w", path, err)
	}
	r := &request{kind: children, path: path}
	err := c.call(ctx, r)
	if err != nil {
		return nil, err
	}
	slices.Sort(r.names)
	return r.names, nil
}

// Txn does all operations or none.
func (c *Client) Txn(ctx context.Context, ops ...coord.Op) ([]coord.Stat, error) {
	size := 0
	for i, op := range ops {
		size += len(op.Data)
		err := coord.CheckPath(op.Path)
		if err == nil && size > coord.MaxData {
			err = coord.ErrTooLarge
		}
		if err != nil {
			return nil, &coord.TxnError{Index: i, Op: op, Err: err}
		}
	}
	r := &request{kind: txn, ops: ops}
	err := c.call(ctx, r)
	if err != nil {
		return nil, err
	}
	return r.stats, nil
}

// WatchNode watches for the next change of a node.
func (c *Client) WatchNode(ctx context.Context, path string) (coord.Watch, error) {
	return c.watch(ctx, watchNode, path)
}

// WatchChildren watches for the next change of a node's list of children.
func (c *Client) WatchChildren(ctx context.Context, path string) (coord.Watch, error) {
	return c.watch(ctx, watchChildren, path)
}

func (c *Client) watch(ctx context.Context, k kind, path string) (coord.Watch, error) {
	if err := coord.CheckPath(path); err != nil {
		return nil, fault.Errorf(fault.Internal, "sim: %q: %w", path, err)
	}
	w := &watch{c: c, kind: k, path: path, ch: make(chan struct{})}
	if err := c.call(ctx, &request{kind: k, path: path, watch: w}); err != nil {
		w.Stop()
		return nil, err
	}
	return w, nil
}

// Session tells the client's view of its session.
func (c *Client) Session() coord.Session {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.away == crashed {
		runtime.Goexit()
	}
	s := c.session
	renewed := s.silent
	if renewed.IsZero() {
		renewed = time.Now() // it is heard of all the time
	}
	return coord.Session{ID: s.id, Timeout: c.w.o.Timeout, Renewed: renewed}
}

// Close ends the session at once.
func (c *Client) Close() error {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.closed || c.away == crashed {
		return nil
	}
	c.closed = true
	c.w.end(c.session)
	for _, r := range slices.Concat(c.answers, c.session.pipeline, c.inbox) {
		if r.kind != news && !r.told {
			if r.err = errClosed; r.kind == txn {
				r.err = errors.Join(errClosed, coord.ErrUnknown)
			}
			r.tell()
		}
	}
	c.inbox, c.answers, c.session.pipeline = nil, nil, nil
	c.dropWatches()
	return nil
}

// Crashed tells whether the process is gone.
func (c *Client) Crashed() bool {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	return c.away == crashed
}

// tell delivers the answer, unless the caller has one or waits no more.
func (r *request) tell() {
	if !r.told {
		r.told = true
		close(r.done)
	}
}

// watch is one shot of news.
type watch struct {
	c    *Client
	kind kind
	path string
	ch   chan struct{}
	once sync.Once
}

func (w *watch) C() <-chan struct{} { return w.ch }

func (w *watch) fire() { w.once.Do(func() { close(w.ch) }) }

// Stop forgets the watch.
func (w *watch) Stop() {
	w.c.w.mu.Lock()
	defer w.c.w.mu.Unlock()
	w.c.watches = slices.DeleteFunc(w.c.watches, func(x *watch) bool { return x == w })
}

// dropWatches closes all watches, as the loss of a connection does.
func (c *Client) dropWatches() {
	for _, w := range c.watches {
		w.fire()
	}
	c.watches = nil
}
