// Package queue holds the tickets: post, wait, claim, commit, release, requeue.
//
// All of it is done by transactions on the coordination service, by whoever
// does the work; there is no server of tickets. A claim is a node that goes
// with its holder's session, and every change that a holder makes is bound to
// the version of the ticket as it was when the claim was made (a fencing
// token), so that a holder that has lost its claim can change nothing.
package queue

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// ErrNotFound: there is no such ticket.
var ErrNotFound = fault.Errorf(fault.Unavailable, "no such ticket")

// ErrLost: the claim has passed, or may have passed, to somebody else, or the
// ticket was changed meanwhile.
var ErrLost = fault.Errorf(fault.Interrupted, "the claim is lost")

// Queue is the tickets of one cluster. It may be used by several goroutines.
type Queue struct {
	conn  coord.Conn
	trace func(Event)
	intn  func(n int) int // a random number below n

	mu     sync.Mutex
	slices map[string]*slice // by set: where the next ticket goes
	swept  turn
}

type slice struct {
	name  string
	count int // tickets put there since the last look
}

// Options of New; the zero value is fine.
type Options struct {
	// Trace is told what this process did to tickets, in order for each ticket.
	// It may be called by several goroutines, and must not call the queue.
	Trace func(Event)
	// Intn is the source of all random choices: a number from 0 to n-1.
	// Default: math/rand/v2.
	Intn func(n int) int
}

// New returns the queue in the tree of conn, making its folders if they are
// missing.
func New(ctx context.Context, conn coord.Conn, o Options) (*Queue, error) {
	if o.Trace == nil {
		o.Trace = func(Event) {}
	}
	if o.Intn == nil {
		o.Intn = rand.IntN
	}
	for _, p := range []string{queueRoot, runRoot, claimRoot, leaseRoot, lineRoot, sweepNode} {
		if err := coord.EnsurePath(ctx, conn, p); err != nil {
			return nil, err
		}
	}
	return &Queue{conn: conn, trace: o.Trace, intn: o.Intn, slices: map[string]*slice{}}, nil
}

// Post posts a ticket, together with other operations if there are any: all or
// nothing. A repeat with the same id does no harm as long as the ticket is
// there.
func (q *Queue) Post(ctx context.Context, t *ticket.Ticket, with ...coord.Op) error {
	_, err := q.Commit(ctx, Change{Post: []*ticket.Ticket{t}, Ops: with})
	return err
}

// Change is what one transaction does to the queue.
type Change struct {
	End  *Claim           // the claim whose ticket ends; nil: none
	Keep bool             // keep the ended ticket, parked, for whoever posted it
	Post []*ticket.Ticket // tickets to post
	Next *ticket.Ticket   // the one of Post that End's holder claims at once; nil: none
	Ops  []coord.Op       // operations on other parts of the tree
}

// OpError is the refusal of one of the operations that were to be carried out
// along with a change.
type OpError struct {
	Index int // into Change.Ops
	Err   error
}

func (e *OpError) Error() string { return e.Err.Error() }
func (e *OpError) Unwrap() error { return e.Err }

// Commit carries out a change, and returns the claim of its Next. Errors:
// ErrLost if End's claim is lost; an *OpError if one of Ops was refused;
// nothing was changed then. Any other error leaves the outcome open, as ctx
// does when it ends.
func (q *Queue) Commit(ctx context.Context, ch Change) (*Claim, error) {
	begin := time.Now()
	next, err := q.commit(ctx, &ch)
	var refused *OpError
	if errors.As(err, &refused) {
		return nil, err
	}
	if ch.End != nil {
		q.told(EventCommit, begin, ch.End.Ticket, ch.End, err)
	}
	for _, t := range ch.Post {
		if !errors.Is(err, ErrLost) {
			q.told(EventPost, begin, t, nil, err)
		}
	}
	if next != nil {
		q.told(EventClaim, begin, next.Ticket, next, nil)
	}
	return next, err
}

func (q *Queue) commit(ctx context.Context, ch *Change) (*Claim, error) {
	// Who holds no claim can be told that the outcome is unknown.
	patience := time.Now().Add(q.conn.Session().Timeout)
	uncertain := false
	for {
		ops, next, err := q.changeOps(ctx, ch)
		if err != nil {
			return nil, err
		}
		if ch.End != nil && !ch.End.Held() && !uncertain {
			return nil, ErrLost
		}
		stats, err := q.conn.Txn(ctx, ops...)
		switch {
		case err == nil:
			if next != nil {
				next.settle(stats[next.setIndex], stats[next.claimIndex])
			}
			return next, nil
		case errors.Is(err, coord.ErrUnknown):
			uncertain = true
			if ch.End == nil && time.Now().After(patience) {
				return nil, err
			}
			if err := q.pause(ctx); err != nil {
				return nil, err
			}
			continue
		case uncertain:
			return q.resolve(ctx, ch, err)
		}
		again, err := q.refused(ctx, ch, err)
		if !again {
			return nil, err
		}
	}
}

// changeOps are the operations of ch: first those that end a ticket, then ch's
// own, then the posts.
func (q *Queue) changeOps(ctx context.Context, ch *Change) ([]coord.Op, *Claim, error) {
	var ops []coord.Op
	if c := ch.End; c != nil {
		if ch.Keep {
			data, err := encode(c.Ticket)
			if err != nil {
				return nil, nil, err
			}
			ops = append(ops, coord.Set(c.place.ticket(), data, c.version))
		} else {
			ops = append(ops, coord.Delete(c.place.ticket(), c.version))
		}
		ops = append(ops, coord.Delete(c.place.run(), coord.AnyVersion), coord.Delete(c.path, c.claimVersion))
	}
	ops = append(ops, ch.Ops...)
	var next *Claim
	for _, t := range ch.Post {
		p, err := q.placeFor(ctx, t)
		if err != nil {
			return nil, nil, err
		}
		if t == ch.Next {
			if next, ops, err = q.claimNew(ops, p, t, ch.End.Worker); err != nil {
				return nil, nil, err
			}
			continue
		}
		data, err := encode(t)
		if err != nil {
			return nil, nil, err
		}
		ops = append(ops, coord.Create(p.ticket(), data))
		if t.Status == ticket.Pending {
			ops = append(ops, coord.Create(p.ready(), nil))
		}
	}
	return ops, next, nil
}

// claimNew appends the operations that post a ticket as claimed.
func (q *Queue) claimNew(ops []coord.Op, p place, t *ticket.Ticket, worker string) (*Claim, []coord.Op, error) {
	c := q.newClaim(t.Clone(), p, worker)
	posted, err := encode(t)
	if err != nil {
		return nil, nil, err
	}
	data, err := encode(c.Ticket)
	if err != nil {
		return nil, nil, err
	}
	ops = append(ops, coord.Create(p.ticket(), posted))
	c.setIndex = len(ops)
	ops = append(ops, coord.Set(p.ticket(), data, 0), coord.Create(p.run(), p.inRun()))
	c.claimIndex = len(ops)
	return c, append(ops, coord.CreateEphemeral(c.path, c.record().encode())), nil
}

// refused finds out what the refusal of a change means, and whether it can be
// tried again.
func (q *Queue) refused(ctx context.Context, ch *Change, err error) (again bool, _ error) {
	if errors.Is(err, coord.ErrExpired) { // nothing was done
		if ch.End != nil && ch.End.session != 0 {
			return false, ErrLost
		}
		return true, nil
	}
	var te *coord.TxnError
	if !errors.As(err, &te) {
		return false, err
	}
	own := 0
	if ch.End != nil {
		own = 3
	}
	switch {
	case te.Index < own:
		return false, ErrLost
	case te.Index < own+len(ch.Ops):
		return false, &OpError{te.Index - own, te.Err}
	case errors.Is(err, coord.ErrNoNode): // the slice is not there, or no longer
		for _, t := range ch.Post {
			p, err := q.placeFor(ctx, t)
			if err != nil {
				return false, err
			}
			if err := q.ensureSlice(ctx, p); err != nil {
				return false, err
			}
		}
		return true, nil
	case errors.Is(err, coord.ErrNodeExists) && ch.End == nil && len(ch.Ops) == 0:
		return false, nil // posted before
	}
	return false, err
}

// resolve finds out whether a change whose answer was lost had been carried
// out, after its repeat was refused with err.
func (q *Queue) resolve(ctx context.Context, ch *Change, err error) (*Claim, error) {
	if ch.End == nil {
		if errors.Is(err, coord.ErrNodeExists) || len(ch.Ops) > 0 && errors.Is(err, coord.ErrBadVersion) {
			for _, t := range ch.Post {
				if _, _, e := q.Get(ctx, t.ID); e != nil {
					return nil, err
				}
			}
			return nil, nil
		}
		return nil, err
	}
	// While our session lived on, nobody else could take the ticket: if it has
	// gone, it went by our own first try.
	if !ch.End.Held() {
		return nil, ErrLost
	}
	_, st, e := q.conn.Get(ctx, ch.End.place.ticket())
	switch {
	case errors.Is(e, coord.ErrNoNode) && !ch.Keep, e == nil && ch.Keep && st.Version == ch.End.version+1:
	case e != nil && !errors.Is(e, coord.ErrNoNode):
		return nil, e
	default:
		return nil, ErrLost
	}
	if ch.Next == nil {
		return nil, nil
	}
	return q.reclaim(ctx, ch.Next.ID, ch.End.Worker)
}

// reclaim finds the claim that this session already holds on a ticket.
func (q *Queue) reclaim(ctx context.Context, id, worker string) (*Claim, error) {
	t, ref, err := q.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	data, st, err := q.conn.Get(ctx, ref.place.claim())
	if err != nil || st.Owner != q.conn.Session().ID {
		return nil, ErrLost
	}
	c := &Claim{Ticket: t, Worker: worker, q: q, place: ref.place, path: ref.place.claim(), version: ref.version}
	c.session, c.Token, c.claimVersion, c.nonce = st.Owner, st.Czxid, st.Version, readClaim(data).Nonce
	return c, nil
}

// pause waits a little before a repeat.
func (q *Queue) pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Duration(20+q.intn(80)) * time.Millisecond):
		return nil
	}
}
