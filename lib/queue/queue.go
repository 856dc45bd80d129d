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

	mu      sync.Mutex
	slices  map[string]*slice // by set: where the next ticket goes
	swept   turn
	width   int            // see window
	foreign map[place]bool // what is in the queue and no ticket
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
	return &Queue{conn: conn, trace: o.Trace, intn: o.Intn, slices: map[string]*slice{}, foreign: map[place]bool{}}, nil
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
	Told string           // the result of the ended ticket, for its event
	Post []*ticket.Ticket // tickets to post
	Next *ticket.Ticket   // the one of Post that End's holder claims at once; nil: none
	Ops  []coord.Op       // operations on other parts of the tree

	uncertain bool // an answer was lost, and what came after said nothing of it
}

// OpError is the refusal of one of the operations that were to be carried out
// along with a change.
type OpError struct {
	Index int // into Change.Ops
	Err   error
}

func (e *OpError) Error() string { return e.Err.Error() }
func (e *OpError) Unwrap() error { return e.Err }

// Commit carries out a change, and returns the claim of its Next; nil if that
// was lost before the answer was known. Errors:
// ErrLost if End's claim is lost; an *OpError if one of Ops was refused;
// nothing was changed then, unless the answer to an earlier try was lost, and a
// caller without a claim must look whether that was carried out. Any other error leaves the outcome open, as ctx
// does when it ends.
func (q *Queue) Commit(ctx context.Context, ch Change) (*Claim, error) {
	begin := time.Now()
	next, err := q.commit(ctx, &ch)
	var refused *OpError
	if errors.As(err, &refused) && !ch.uncertain {
		return nil, err
	}
	if ch.End != nil {
		ended := *ch.End.Ticket
		if ch.Told != "" {
			ended.Result = ch.Told
		}
		q.told(EventCommit, begin, &ended, ch.End, err)
	}
	for _, t := range ch.Post {
		if !errors.Is(err, ErrLost) {
			q.told(EventPost, begin, t, nil, err)
		}
	}
	switch {
	case next != nil:
		q.told(EventClaim, begin, next.Ticket, next, nil)
	case ch.Next != nil && err != nil && !errors.Is(err, ErrLost):
		q.told(EventClaim, begin, ch.Next, nil, err)
	}
	return next, err
}

func (q *Queue) commit(ctx context.Context, ch *Change) (*Claim, error) {
	// Who holds no claim can be told that the outcome is unknown.
	patience := time.Now().Add(q.conn.Session().Timeout)
	uncertain := false
	for {
		ops, next, err := q.changeOps(ctx, ch)
		if err != nil && uncertain && !errors.Is(err, coord.ErrClosed) {
			if err := q.pause(ctx); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		// Not by the clock: a session that was silent for long may live on, and
		// with it the claim, which nobody would know of any more.
		if ch.End != nil && ch.End.over() && !uncertain {
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
			if ch.Next != nil { // as for any claim; see tryTake
				ctx = context.WithoutCancel(ctx)
			}
			if ch.End == nil && time.Now().After(patience) {
				return nil, err
			}
			if err := q.pause(ctx); err != nil {
				return nil, err
			}
			continue
		case uncertain && !ch.untouched(err):
			next, again, err := q.resolve(ctx, ch, err)
			if !again {
				return next, err
			}
			if err := q.pause(ctx); err != nil {
				return nil, err
			}
			continue
		}
		uncertain = false
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

// untouched tells that a refusal proves that no earlier try was carried out:
// what ends the ticket would still be possible.
func (ch *Change) untouched(err error) bool {
	var te *coord.TxnError
	return ch.End != nil && errors.As(err, &te) && te.Index >= 3
}

// resolve finds out whether a change whose answer was lost had been carried
// out, after its repeat was answered with err. It is to be repeated again if
// that answer says nothing.
func (q *Queue) resolve(ctx context.Context, ch *Change, err error) (_ *Claim, again bool, _ error) {
	var te *coord.TxnError
	refused, expired := errors.As(err, &te), errors.Is(err, coord.ErrExpired)
	switch {
	case errors.Is(err, coord.ErrClosed):
		return nil, false, err
	case !refused && (ch.End == nil || ch.End.session == 0 || !expired):
		return nil, ctx.Err() == nil, err
	case ch.End == nil && te.Index >= len(ch.Ops) && errors.Is(err, coord.ErrNoNode): // a slice
		again, err := q.refused(ctx, ch, err)
		return nil, again, err
	case ch.End == nil:
		if q.arePosted(ctx, ch, err) {
			return nil, false, nil
		}
		ch.uncertain = true
		again, err := q.refused(ctx, ch, err)
		return nil, again, err
	case refused && ch.End.session != 0 && !ch.End.over():
		// While our session lived on, nobody else could take the ticket: it went
		// by our own first try.
		if ch.Next == nil {
			return nil, false, nil
		}
		c, err := q.reclaim(ctx, ch.Next.ID, ch.End.Worker)
		return c, false, err
	}
	data, st, e := q.conn.Get(ctx, ch.End.place.ticket())
	switch {
	case e != nil && !errors.Is(e, coord.ErrNoNode):
		return nil, ctx.Err() == nil && !errors.Is(e, coord.ErrClosed), e
	case e == nil && (!ch.Keep || st.Version == ch.End.version):
		return nil, false, ErrLost
	case e == nil && st.Version == ch.End.version+1:
		// Given back it would be pending.
		if t, e := ticket.Parse(data); e == nil && t.Status != ticket.Complete {
			return nil, false, ErrLost
		}
		return nil, false, nil
	}
	return nil, false, fault.Errorf(fault.Temporary, "queue: ticket %s was ended by us or by its next holder: %w", ch.End.place.id, coord.ErrUnknown)
}

// arePosted tells whether the tickets of an uncertain change are there, whose
// repeat was refused with err. If they are not, they may have been worked off.
func (q *Queue) arePosted(ctx context.Context, ch *Change, err error) bool {
	if !errors.Is(err, coord.ErrNodeExists) && (len(ch.Ops) == 0 || !errors.Is(err, coord.ErrBadVersion)) {
		return false
	}
	for _, t := range ch.Post {
		if _, _, err := q.Get(ctx, t.ID); err != nil {
			return false
		}
	}
	return true
}

// reclaim finds the claim that this session has just made on a ticket; nil if
// that is lost already.
func (q *Queue) reclaim(ctx context.Context, id, worker string) (*Claim, error) {
	for {
		t, ref, err := q.Get(ctx, id)
		if err == nil {
			var data []byte
			var st coord.Stat
			data, st, err = q.conn.Get(ctx, ref.place.claim())
			if err == nil && st.Owner != q.conn.Session().ID {
				return nil, nil
			}
			if err == nil {
				return &Claim{Ticket: t, Worker: worker, Token: st.Czxid, q: q, place: ref.place, path: ref.place.claim(),
					nonce: readClaim(data).Nonce, version: ref.version, claimVersion: st.Version, session: st.Owner}, nil
			}
		}
		if errors.Is(err, ErrNotFound) || errors.Is(err, coord.ErrNoNode) {
			return nil, nil
		}
		if errors.Is(err, coord.ErrClosed) {
			return nil, err
		}
		if err := q.pause(ctx); err != nil {
			return nil, err
		}
	}
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
