package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// Claim is the right to work on a ticket.
type Claim struct {
	Ticket *ticket.Ticket // running, with the assignee and the attempt
	Worker string
	Token  int64 // fencing token: grows with every claim of the cluster

	q            *Queue
	place        place
	path         string // of the claim's node
	nonce        string
	version      int32 // of the ticket as claimed
	claimVersion int32
	session      int64     // that the claim goes with; 0: a lease
	until        time.Time // a lease's end

	setIndex, claimIndex int // of the operations whose stats settle the claim
}

// newClaim prepares a claim of t by worker; a transaction makes it true.
func (q *Queue) newClaim(t *ticket.Ticket, p place, worker string) *Claim {
	now := time.Now().UTC()
	t.Status, t.Assignee, t.Started = ticket.Running, worker, &now
	t.Attempt++
	return &Claim{Ticket: t, Worker: worker, q: q, place: p, path: p.claim(), nonce: uuid.NewString()}
}

func (c *Claim) record() claimRecord {
	r := claimRecord{Worker: c.Worker, Nonce: c.nonce}
	if !c.until.IsZero() {
		r.Until = c.until.UnixMilli()
	}
	return r
}

func (c *Claim) settle(set, claim coord.Stat) {
	c.version, c.Token, c.claimVersion, c.session = set.Version, set.Mzxid, claim.Version, claim.Owner
}

// over tells whether the session that the claim goes with has ended.
func (c *Claim) over() bool { return c.session != 0 && c.q.conn.Session().ID != c.session }

// Held tells whether the claim can still be relied on, by this process's own
// clock: the session that it goes with is the present one and its safe time
// has not run out. A lease is judged by the ticket's version alone.
func (c *Claim) Held() bool {
	if c.session == 0 {
		return true
	}
	s := c.q.conn.Session()
	return s.ID == c.session && time.Now().Before(s.SafeUntil())
}

// Claim takes a ticket of the highest priority that a worker with these
// capabilities may take, of those the oldest, or nearly so. It returns nil if
// there is none. Tickets for which skip (which may be nil) is true are left to
// others. What is in the queue and no ticket is told once, as an error of kind
// fault.Internal, if there is nothing else, and left alone.
func (q *Queue) Claim(ctx context.Context, offer []string, worker string, skip func(id string) bool) (*Claim, error) {
	var odd error
	for range 5 {
		places, err := q.oldest(ctx, offer, skip)
		if err != nil || len(places) == 0 {
			return nil, cmp.Or(err, odd)
		}
		for range 3 {
			i := q.intn(min(q.window(), len(places)))
			c, err := q.claimAt(ctx, places[i], worker)
			if errors.Is(err, errForeign) {
				q.ignore(places[i])
				odd, err = err, nil
			}
			if c != nil || err != nil {
				q.raced(c != nil)
				return c, err
			}
			q.raced(false)
			if places = slices.Delete(places, i, i+1); len(places) == 0 {
				return nil, odd // there was no more than what others have taken
			}
		}
	}
	return nil, odd
}

// maxWindow bounds among how many of the oldest tickets one is chosen.
const maxWindow = 256

// window is among how many of the oldest tickets this process chooses: one as
// long as it runs into nobody. It doubles with each race that is lost, so that
// many workers at one queue spread, and shrinks slowly.
func (q *Queue) window() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.width + 1
}

// raced notes how a race for a ticket ended.
func (q *Queue) raced(won bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if won {
		q.width -= (q.width + 7) / 8
	} else {
		q.width = min(2*q.width+1, maxWindow-1)
	}
}

// errForeign: a node in the queue is none of ours.
var errForeign = errors.New("not one of our tickets; it is left alone")

// maxForeign bounds how many foreign nodes are remembered.
const maxForeign = 10000

func (q *Queue) ignore(p place) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.foreign) >= maxForeign {
		clear(q.foreign)
	}
	q.foreign[p] = true
}

func (q *Queue) ignored(p place) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.foreign[p]
}

// oldest lists tickets that a worker with these capabilities may take: those of
// the highest priority that there is, of each set the first slice that has any,
// the oldest first.
func (q *Queue) oldest(ctx context.Context, offer []string, skip func(id string) bool) ([]place, error) {
	names, err := q.conn.Children(ctx, queueRoot)
	if err != nil {
		return nil, err
	}
	served := map[int][]string{} // by priority
	for _, name := range names {
		if s := parseSet(name); s.servedBy(offer) {
			served[s.priority] = append(served[s.priority], name)
		}
	}
	var places []place
	for _, priority := range slices.Backward(slices.Sorted(maps.Keys(served))) {
		for _, name := range served[priority] {
			head, err := q.head(ctx, name, skip)
			if err != nil {
				return nil, err
			}
			places = append(places, head...)
		}
		if len(places) > 0 {
			break
		}
	}
	slices.SortFunc(places, func(a, b place) int { return strings.Compare(a.id, b.id) })
	return places, nil
}

// head lists the tickets of a set's first slice that has any, and removes the
// empty ones before it.
func (q *Queue) head(ctx context.Context, name string, skip func(id string) bool) ([]place, error) {
	root := queueRoot + "/" + name + "/r"
	sl, err := q.conn.Children(ctx, root)
	if errors.Is(err, coord.ErrNoNode) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var places []place
	for i, slice := range sl {
		ids, err := q.conn.Children(ctx, root+"/"+slice)
		if errors.Is(err, coord.ErrNoNode) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if p := (place{name, slice, id}); (skip == nil || !skip(id)) && !q.ignored(p) {
				places = append(places, p)
			}
		}
		if len(places) > 0 {
			break
		}
		if len(ids) == 0 && i < len(sl)-1 { // refused if somebody has filled it meanwhile
			_, _ = q.conn.Txn(ctx, coord.Delete(root+"/"+slice, coord.AnyVersion))
		}
	}
	return places, nil
}

// claimAt claims one ticket; nil if somebody else was faster.
func (q *Queue) claimAt(ctx context.Context, p place, worker string) (*Claim, error) {
	data, st, err := q.conn.Get(ctx, p.ticket())
	if errors.Is(err, coord.ErrNoNode) {
		if _, _, err := q.conn.Get(ctx, p.ready()); err == nil {
			return nil, fault.Errorf(fault.Internal, "queue: %s names no ticket: %w", p.ready(), errForeign)
		} else if !errors.Is(err, coord.ErrNoNode) {
			return nil, err
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t, err := ticket.Parse(data)
	if err == nil && t.ID != p.id {
		err = fmt.Errorf("the ticket in it has the id %q", t.ID)
	}
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "queue: %s: %w: %w", p.ticket(), err, errForeign)
	}
	c := q.newClaim(t, p, worker)
	return c, q.take(ctx, &c, st.Version, coord.CreateEphemeral(c.path, c.record().encode()))
}

// take carries out the claim *c; it makes it nil if that was refused.
func (q *Queue) take(ctx context.Context, c **Claim, version int32, claim coord.Op) error {
	begin, wanted := time.Now(), *c
	err := q.tryTake(ctx, c, version, claim)
	if *c != nil || err != nil {
		q.told(EventClaim, begin, wanted.Ticket, wanted, err)
	}
	return err
}

func (q *Queue) tryTake(ctx context.Context, c **Claim, version int32, claim coord.Op) error {
	p := (*c).place
	data, err := encode((*c).Ticket)
	if err != nil {
		return err
	}
	for uncertain := false; ; {
		stats, err := q.conn.Txn(ctx, coord.Delete(p.ready(), coord.AnyVersion),
			coord.Create(p.run(), p.inRun()), claim, coord.Set(p.ticket(), data, version))
		if err == nil {
			(*c).settle(stats[3], stats[2])
			return nil
		}
		// A claim that may have been made is found out about to the end, whatever
		// ctx says: this session would hold it, and nobody would know. What is
		// answered now comes after the try whose answer was lost.
		if uncertain = uncertain || errors.Is(err, coord.ErrUnknown); uncertain {
			ctx = context.WithoutCancel(ctx)
		}
		var te *coord.TxnError
		refused := errors.As(err, &te)
		if uncertain && refused { // was it us?
			var st coord.Stat
			var found []byte
			found, st, err = q.conn.Get(ctx, claim.Path)
			if err == nil && readClaim(found).Nonce == (*c).nonce {
				(*c).version, (*c).Token, (*c).claimVersion, (*c).session = version+1, st.Czxid, st.Version, st.Owner
				return nil
			}
			refused = err == nil || errors.Is(err, coord.ErrNoNode)
		}
		switch {
		case refused, errors.Is(err, coord.ErrExpired) && !uncertain:
			*c = nil
			return nil
		case !uncertain || errors.Is(err, coord.ErrClosed): // the session has ended
			*c = nil
			return err
		}
		if err := q.pause(ctx); err != nil {
			return err
		}
	}
}

// Take claims the ticket at ref, which must be ready. Errors: ErrLost if
// somebody else was faster.
func (q *Queue) Take(ctx context.Context, ref Ref, worker string) (*Claim, error) {
	if ref.claimed || ref.place.set == parkedSet {
		return nil, ErrLost
	}
	c, err := q.claimAt(ctx, ref.place, worker)
	if c == nil && err == nil {
		err = ErrLost
	}
	return c, err
}

// Lease claims the ticket at ref for a worker that has no session, for the
// given time. Errors: ErrLost if somebody else was faster.
func (q *Queue) Lease(ctx context.Context, ref Ref, t *ticket.Ticket, worker string, d time.Duration) (*Claim, error) {
	if ref.claimed || ref.place.set == parkedSet {
		return nil, ErrLost
	}
	c := q.newClaim(t.Clone(), ref.place, worker)
	c.path, c.until = ref.place.lease(), time.Now().Add(d)
	err := q.take(ctx, &c, ref.version, coord.Create(c.path, c.record().encode()))
	if c == nil && err == nil {
		err = ErrLost
	}
	return c, err
}

// Leased returns the claim of the leased ticket t at ref. Errors: ErrLost if
// there is no lease.
func (q *Queue) Leased(ctx context.Context, ref Ref, t *ticket.Ticket) (*Claim, error) {
	if !ref.claimed {
		return nil, ErrLost
	}
	data, st, err := q.conn.Get(ctx, ref.place.lease())
	if errors.Is(err, coord.ErrNoNode) {
		return nil, ErrLost
	}
	if err != nil {
		return nil, err
	}
	r := readClaim(data)
	return &Claim{Ticket: t, Worker: r.Worker, q: q, place: ref.place, path: ref.place.lease(), nonce: r.Nonce,
		version: ref.version, claimVersion: st.Version, until: time.UnixMilli(r.Until), Token: st.Czxid}, nil
}

// Extend makes the lease last for d from now. The ticket's data become those
// of c.Ticket. Errors: ErrLost.
func (c *Claim) Extend(ctx context.Context, d time.Duration) error {
	c.until = time.Now().Add(d)
	data, err := encode(c.Ticket)
	if err != nil {
		return err
	}
	stats, err := c.q.conn.Txn(ctx, coord.Set(c.path, c.record().encode(), c.claimVersion), coord.Set(c.place.ticket(), data, c.version))
	var te *coord.TxnError
	if errors.As(err, &te) {
		return ErrLost
	}
	if err == nil {
		c.claimVersion, c.version = stats[0].Version, stats[1].Version
	}
	return err
}

// Left is how long a lease still lasts.
func (c *Claim) Left() time.Duration { return time.Until(c.until) }
