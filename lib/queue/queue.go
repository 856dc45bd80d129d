// Package queue holds the tickets: post, claim, commit, release, requeue, wait.
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
	"slices"
	"sort"
	"strconv"
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
	conn coord.Conn

	mu     sync.Mutex
	slices map[string]*slice // by set: where the next ticket goes
}

type slice struct {
	name  string
	count int // tickets put there since the last look
}

// New returns the queue in the tree of conn, making its folders if they are
// missing.
func New(ctx context.Context, conn coord.Conn) (*Queue, error) {
	for _, p := range []string{queueRoot, runRoot, claimRoot, leaseRoot} {
		if err := coord.EnsurePath(ctx, conn, p); err != nil {
			return nil, err
		}
	}
	return &Queue{conn: conn, slices: map[string]*slice{}}, nil
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
// nothing was changed then.
func (q *Queue) Commit(ctx context.Context, ch Change) (*Claim, error) {
	uncertain := false
	for {
		ops, next, err := q.changeOps(ctx, &ch)
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
			if err := pause(ctx); err != nil {
				return nil, err
			}
			continue
		case uncertain:
			return q.resolve(ctx, &ch, err)
		}
		again, err := q.refused(ctx, &ch, err)
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
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(20*time.Millisecond + rand.N(80*time.Millisecond)):
		return nil
	}
}

// placeFor chooses where a ticket is posted.
func (q *Queue) placeFor(ctx context.Context, t *ticket.Ticket) (place, error) {
	if !ticket.ValidID(t.ID) {
		return place{}, fault.Errorf(fault.BadTicket, "queue: id %q: expected a lower-case UUID", t.ID)
	}
	s, err := setOf(t)
	if err != nil {
		return place{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	cur := q.slices[s.name]
	if cur == nil || cur.count%64 == 0 {
		name, err := q.lastSlice(ctx, s.name)
		if err != nil {
			return place{}, err
		}
		cur = &slice{name: name}
		q.slices[s.name] = cur
	}
	cur.count++
	return place{s.name, cur.name, t.ID}, nil
}

// lastSlice finds the number of the slice that takes new tickets: the last one
// that there is, or the one after it if that is full.
func (q *Queue) lastSlice(ctx context.Context, set string) (string, error) {
	n := 0
	for _, kind := range []string{"t", "r"} {
		dir := queueRoot + "/" + set + "/" + kind
		names, err := q.conn.Children(ctx, dir)
		if errors.Is(err, coord.ErrNoNode) || err == nil && len(names) == 0 {
			continue
		}
		if err != nil {
			return "", err
		}
		last := names[len(names)-1]
		_, st, err := q.conn.Get(ctx, dir+"/"+last)
		if err != nil && !errors.Is(err, coord.ErrNoNode) {
			return "", err
		}
		k, _ := strconv.Atoi(last)
		if st.NumChildren >= sliceSize {
			k++
		}
		n = max(n, k)
	}
	return sliceName(n), nil
}

func sliceName(n int) string {
	const width = 10
	s := strconv.Itoa(n)
	return "0000000000"[:max(0, width-len(s))] + s
}

func (q *Queue) ensureSlice(ctx context.Context, p place) error {
	for _, dir := range p.slicePaths() {
		if err := coord.EnsurePath(ctx, q.conn, dir); err != nil {
			return err
		}
	}
	return nil
}

// Ref is where a ticket is and in which version; for a later change of just
// that.
type Ref struct {
	place   place
	version int32
	claimed bool
}

// Claimed tells whether somebody had claimed the ticket.
func (r Ref) Claimed() bool { return r.claimed }

// Get finds a ticket by its id. Errors: ErrNotFound.
func (q *Queue) Get(ctx context.Context, id string) (*ticket.Ticket, Ref, error) {
	for range 5 { // it may move between two looks
		places := []place{}
		data, _, err := q.conn.Get(ctx, runRoot+"/"+id)
		claimed := err == nil
		if p, ok := placeInRun(id, data); claimed && ok {
			places = append(places, p)
		} else if err := q.eachSlice(ctx, func(set, slice string) bool {
			places = append(places, place{set, slice, id})
			return true
		}); err != nil {
			return nil, Ref{}, err
		}
		for _, p := range places {
			data, st, err := q.conn.Get(ctx, p.ticket())
			if errors.Is(err, coord.ErrNoNode) {
				continue
			}
			if err != nil {
				return nil, Ref{}, err
			}
			t, err := ticket.Parse(data)
			if err == nil && !claimed && t.Status == ticket.Running {
				// It may have been claimed between the two looks.
				if _, _, err := q.conn.Get(ctx, runRoot+"/"+id); err == nil {
					break
				} else if !errors.Is(err, coord.ErrNoNode) {
					return nil, Ref{}, err
				}
			}
			return t, Ref{p, st.Version, claimed}, err
		}
	}
	return nil, Ref{}, ErrNotFound
}

// eachSlice visits the slices of tickets, the newest first in each set.
func (q *Queue) eachSlice(ctx context.Context, visit func(set, slice string) bool) error {
	sets, err := q.conn.Children(ctx, queueRoot)
	if err != nil {
		return err
	}
	for _, set := range sets {
		names, err := q.conn.Children(ctx, queueRoot+"/"+set+"/t")
		if err != nil && !errors.Is(err, coord.ErrNoNode) {
			return err
		}
		for _, slice := range slices.Backward(names) {
			if !visit(set, slice) {
				return nil
			}
		}
	}
	return nil
}

// List returns the ids of all tickets, the oldest first.
func (q *Queue) List(ctx context.Context) ([]string, error) {
	ids := []string{}
	var failed error
	err := q.eachSlice(ctx, func(set, slice string) bool {
		names, err := q.conn.Children(ctx, queueRoot+"/"+set+"/t/"+slice)
		if err != nil && !errors.Is(err, coord.ErrNoNode) {
			failed = err
			return false
		}
		ids = append(ids, names...)
		return true
	})
	sort.Strings(ids)
	return ids, errors.Join(err, failed)
}

// Replace changes a ticket that nobody holds, as it was at ref. Its readiness
// follows its status. Errors: ErrLost if it was claimed or changed meanwhile.
func (q *Queue) Replace(ctx context.Context, ref Ref, t *ticket.Ticket) error {
	if ref.claimed {
		return ErrLost
	}
	data, err := encode(t)
	if err != nil {
		return err
	}
	s, err := setOf(t)
	if err != nil {
		return err
	}
	for {
		old, next := ref.place, ref.place
		if _, _, err = q.conn.Get(ctx, old.ready()); err != nil && !errors.Is(err, coord.ErrNoNode) {
			return err
		}
		was, will := err == nil, t.Status == ticket.Pending
		// Creating the entry of a claimed one for an instant proves that nobody
		// has claimed it.
		ops := []coord.Op{coord.Create(old.run(), nil), coord.Delete(old.run(), 0)}
		if was {
			ops = append(ops, coord.Delete(old.ready(), coord.AnyVersion))
		}
		// What is not ready stays where it is, wherever that is.
		if will && s.name != old.set {
			if next, err = q.placeFor(ctx, t); err != nil {
				return err
			}
			ops = append(ops, coord.Delete(old.ticket(), ref.version), coord.Create(next.ticket(), data))
		} else {
			ops = append(ops, coord.Set(old.ticket(), data, ref.version))
		}
		if will {
			ops = append(ops, coord.Create(next.ready(), nil))
		}
		_, err = q.conn.Txn(ctx, ops...)
		var te *coord.TxnError
		if errors.As(err, &te) {
			if te.Op.Kind == coord.OpCreate && errors.Is(err, coord.ErrNoNode) {
				if err := q.ensureSlice(ctx, next); err != nil {
					return err
				}
				continue
			}
			return ErrLost
		}
		return err
	}
}

// Delete removes a ticket, whoever holds it.
func (q *Queue) Delete(ctx context.Context, ref Ref) error {
	ops := []coord.Op{coord.Delete(ref.place.ticket(), ref.version)}
	if ref.claimed {
		ops = append(ops, coord.Delete(ref.place.run(), coord.AnyVersion))
		for _, path := range []string{ref.place.claim(), ref.place.lease()} {
			if _, st, err := q.conn.Get(ctx, path); err == nil {
				ops = append(ops, coord.Delete(path, st.Version))
			}
		}
	} else if _, _, err := q.conn.Get(ctx, ref.place.ready()); err == nil {
		ops = append(ops, coord.Delete(ref.place.ready(), coord.AnyVersion))
	}
	_, err := q.conn.Txn(ctx, ops...)
	var te *coord.TxnError
	if errors.As(err, &te) {
		return ErrLost
	}
	return err
}
