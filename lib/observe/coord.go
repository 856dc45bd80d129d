package observe

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/distci/distci/lib/coord"
)

// WrapConn returns a connection that is c and tells of every operation and of
// what becomes of the session.
func WrapConn(c coord.Conn, sink Sink) coord.Conn {
	o := &observedConn{Conn: c, sink: sink}
	o.look()
	return o
}

type observedConn struct {
	coord.Conn
	sink Sink

	mu      sync.Mutex
	session int64 // the last one that there was
	there   bool  // it is
}

func (o *observedConn) done(operation string, begun time.Time, err error) {
	o.sink.Tell(Event{Call: &Call{Part: Coord, Operation: operation, Took: time.Since(begun), Error: coordError(err)}})
	o.look()
}

// look tells what has become of the session since the last look.
func (o *observedConn) look() coord.Session {
	s := o.Conn.Session()
	there := s.ID != 0 && time.Now().Before(s.SafeUntil())
	o.mu.Lock()
	defer o.mu.Unlock()
	tell := func(change string) { o.sink.Tell(Event{Session: &Session{change}}) }
	switch {
	case s.ID != 0 && s.ID != o.session:
		if o.session != 0 {
			tell(SessionExpired)
		}
		tell(SessionBegun)
		o.session = s.ID
	case there && !o.there:
		tell(SessionBack)
	}
	if o.there && !there {
		tell(SessionLost)
	}
	o.there = there
	return s
}

// coordError names the kind of an error that is one; a refusal is an answer.
func coordError(err error) string {
	var refused *coord.TxnError
	switch {
	case err == nil, errors.As(err, &refused), errors.Is(err, coord.ErrNoNode):
		return ""
	case errors.Is(err, coord.ErrUnknown):
		return "unknown"
	case errors.Is(err, coord.ErrExpired):
		return "expired"
	case errors.Is(err, coord.ErrNoAuth):
		return "denied"
	case errors.Is(err, coord.ErrClosed), errors.Is(err, context.Canceled):
		return "canceled"
	case errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "failed"
}

func (o *observedConn) Get(ctx context.Context, path string) ([]byte, coord.Stat, error) {
	begun := time.Now()
	data, st, err := o.Conn.Get(ctx, path)
	o.done("get", begun, err)
	return data, st, err
}

func (o *observedConn) Children(ctx context.Context, path string) ([]string, error) {
	begun := time.Now()
	names, err := o.Conn.Children(ctx, path)
	o.done("children", begun, err)
	return names, err
}

func (o *observedConn) Txn(ctx context.Context, ops ...coord.Op) ([]coord.Stat, error) {
	begun := time.Now()
	stats, err := o.Conn.Txn(ctx, ops...)
	o.done("transaction", begun, err)
	return stats, err
}

func (o *observedConn) WatchNode(ctx context.Context, path string) (coord.Watch, error) {
	begun := time.Now()
	w, err := o.Conn.WatchNode(ctx, path)
	o.done("watch", begun, err)
	return w, err
}

func (o *observedConn) WatchChildren(ctx context.Context, path string) (coord.Watch, error) {
	begun := time.Now()
	w, err := o.Conn.WatchChildren(ctx, path)
	o.done("watch", begun, err)
	return w, err
}

func (o *observedConn) Session() coord.Session { return o.look() }
