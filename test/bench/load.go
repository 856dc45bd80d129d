package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/coord"
)

// together calls do for 0 to n-1, at most so many at a time.
func together(n, most int, do func(i int) error) error {
	var g errgroup.Group
	g.SetLimit(most)
	for i := range n {
		g.Go(func() error { return do(i) })
	}
	return g.Wait()
}

// observed is a connection that notes what is asked of the service.
type observed struct {
	coord.Conn

	mu    sync.Mutex
	calls []call
}

// call is one request.
type call struct {
	took time.Duration
	ops  []coord.Op // nil: it only reads
	zxid int64      // of a transaction that sets a node: its number
	err  error
}

// lostClaim tells whether the call is an attempt to claim a ticket that
// somebody else has claimed.
func (c *call) lostClaim() bool {
	var refused *coord.TxnError
	return len(c.ops) == 4 && c.ops[0].Kind == coord.OpDelete && c.ops[2].Ephemeral && errors.As(c.err, &refused)
}

func (o *observed) note(begin time.Time, c call) {
	c.took = time.Since(begin)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, c)
}

// take returns what was noted since the last time.
func (o *observed) take() []call {
	o.mu.Lock()
	defer o.mu.Unlock()
	calls := o.calls
	o.calls = nil
	return calls
}

// asked counts the requests since the last time, and those of them that were
// attempts to claim a ticket which somebody else has claimed.
func asked(all []*observed) (requests, lost int) {
	for _, o := range all {
		for _, c := range o.take() {
			requests++
			if c.lostClaim() {
				lost++
			}
		}
	}
	return requests, lost
}

func (o *observed) Get(ctx context.Context, path string) ([]byte, coord.Stat, error) {
	begin := time.Now()
	data, st, err := o.Conn.Get(ctx, path)
	o.note(begin, call{err: err})
	return data, st, err
}

func (o *observed) Children(ctx context.Context, path string) ([]string, error) {
	begin := time.Now()
	names, err := o.Conn.Children(ctx, path)
	o.note(begin, call{err: err})
	return names, err
}

func (o *observed) WatchNode(ctx context.Context, path string) (coord.Watch, error) {
	begin := time.Now()
	w, err := o.Conn.WatchNode(ctx, path)
	o.note(begin, call{err: err})
	return w, err
}

func (o *observed) WatchChildren(ctx context.Context, path string) (coord.Watch, error) {
	begin := time.Now()
	w, err := o.Conn.WatchChildren(ctx, path)
	o.note(begin, call{err: err})
	return w, err
}

func (o *observed) Txn(ctx context.Context, ops ...coord.Op) ([]coord.Stat, error) {
	begin := time.Now()
	stats, err := o.Conn.Txn(ctx, ops...)
	c := call{ops: ops, err: err}
	for i, st := range stats {
		if ops[i].Kind == coord.OpSet {
			c.zxid = st.Mzxid
		}
	}
	o.note(begin, c)
	return stats, err
}
