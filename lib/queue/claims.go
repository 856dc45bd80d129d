package queue

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// This file looks at the queue for people. Nothing of it is one moment: what
// moves meanwhile is seen where it was or where it is.

// Held is a ticket that somebody holds.
type Held struct {
	Ticket  *ticket.Ticket
	Worker  string
	Session int64     // that the claim goes with; 0: a lease
	Until   time.Time // a lease: when it ends
}

// Claims lists the tickets that somebody holds, the oldest first. One whose
// holder's session or lease has ended is held by nobody.
func (q *Queue) Claims(ctx context.Context) ([]Held, error) {
	var all []Held
	for _, root := range []string{claimRoot, leaseRoot} {
		ids, err := q.conn.Children(ctx, root)
		if err != nil {
			return nil, err
		}
		found := make([]*Held, len(ids))
		err = each(ctx, ids, func(ctx context.Context, i int) (err error) {
			found[i], err = q.held(ctx, root, ids[i])
			if errors.Is(err, coord.ErrNoNode) { // it ended meanwhile
				return nil
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, h := range found {
			if h != nil {
				all = append(all, *h)
			}
		}
	}
	slices.SortFunc(all, func(a, b Held) int { return strings.Compare(a.Ticket.ID, b.Ticket.ID) })
	return all, nil
}

// held reads one claim; nil if it is a lease that has run out.
func (q *Queue) held(ctx context.Context, root, id string) (*Held, error) {
	data, st, err := q.conn.Get(ctx, root+"/"+id)
	if err != nil {
		return nil, err
	}
	r := readClaim(data)
	h := &Held{Worker: r.Worker, Session: st.Owner}
	if st.Owner == 0 {
		if h.Until = time.UnixMilli(r.Until); time.Now().After(h.Until) {
			return nil, nil
		}
	}
	if data, _, err = q.conn.Get(ctx, runRoot+"/"+id); err != nil {
		return nil, err
	}
	p, ok := placeInRun(id, data)
	if !ok {
		return nil, fault.Errorf(fault.Internal, "queue: %s/%s: %q is not a place", runRoot, id, data)
	}
	if data, _, err = q.conn.Get(ctx, p.ticket()); err != nil {
		return nil, err
	}
	if h.Ticket, err = ticket.Parse(data); err != nil {
		return nil, fault.Errorf(fault.Internal, "queue: ticket %s: %w", id, err)
	}
	return h, nil
}

// each calls do for the index of every name, several at a time.
func each(ctx context.Context, names []string, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range names {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

// Load is how much there is to do for a set of capabilities.
type Load struct {
	Capabilities []string `json:"capabilities"` // none: any worker
	Priority     int      `json:"priority"`
	Ready        int      `json:"ready"`   // tickets that wait for a worker
	Running      int      `json:"running"` // tickets that are claimed
	// OldestAge is how many seconds ago the oldest ready ticket was posted; 0 if
	// none is ready.
	OldestAge float64 `json:"oldest_age"`
	// Oldest is when that was, by the poster's clock; zero if none is ready.
	Oldest time.Time `json:"-"`
}

// Loads tells how much there is to do for every set of capabilities that
// tickets ask for now.
func (q *Queue) Loads(ctx context.Context) ([]Load, error) {
	running, err := q.running(ctx)
	if err != nil {
		return nil, err
	}
	names, err := q.conn.Children(ctx, queueRoot)
	if err != nil {
		return nil, err
	}
	loads := []Load{}
	for _, name := range names {
		if name == parkedSet {
			continue
		}
		s := parseSet(name)
		l := Load{Capabilities: append([]string{}, s.caps...), Priority: s.priority, Running: running[name]}
		if l.Ready, l.Oldest, err = q.ready(ctx, queueRoot+"/"+name+"/r"); err != nil {
			return nil, err
		}
		if !l.Oldest.IsZero() {
			l.OldestAge = max(0, time.Since(l.Oldest).Truncate(time.Millisecond).Seconds())
		}
		if l.Ready+l.Running > 0 {
			loads = append(loads, l)
		}
	}
	return loads, nil
}

// running counts the claimed tickets of each set.
func (q *Queue) running(ctx context.Context) (map[string]int, error) {
	ids, err := q.conn.Children(ctx, runRoot)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	counts := map[string]int{}
	return counts, each(ctx, ids, func(ctx context.Context, i int) error {
		data, _, err := q.conn.Get(ctx, runRoot+"/"+ids[i])
		if errors.Is(err, coord.ErrNoNode) {
			return nil
		}
		if p, ok := placeInRun(ids[i], data); ok && err == nil {
			mu.Lock()
			defer mu.Unlock()
			counts[p.set]++
		}
		return err
	})
}

// ready counts the ready tickets below a folder, and tells when the oldest was
// posted: it is in the first slice that has any, as slices are filled in turn.
func (q *Queue) ready(ctx context.Context, root string) (n int, oldest time.Time, err error) {
	names, err := q.conn.Children(ctx, root)
	if errors.Is(err, coord.ErrNoNode) {
		return 0, oldest, nil
	}
	if err != nil {
		return 0, oldest, err
	}
	for _, name := range names {
		dir := root + "/" + name
		if !oldest.IsZero() { // a long queue is counted, not listed
			_, st, err := q.conn.Get(ctx, dir)
			if err != nil && !errors.Is(err, coord.ErrNoNode) {
				return 0, oldest, err
			}
			n += st.NumChildren
			continue
		}
		ids, err := q.conn.Children(ctx, dir)
		if err != nil && !errors.Is(err, coord.ErrNoNode) {
			return 0, oldest, err
		}
		n += len(ids)
		for _, id := range ids {
			at, err := q.posted(ctx, dir, id)
			if err != nil {
				return 0, oldest, err
			}
			if oldest.IsZero() || !at.IsZero() && at.Before(oldest) {
				oldest = at
			}
		}
	}
	return n, oldest, nil
}

// posted tells when a ready ticket was posted. That is in the ids that we make.
// Who posts over REST may have made another one; then it is when the ticket
// became ready. It is zero if the ticket has gone meanwhile.
func (q *Queue) posted(ctx context.Context, dir, id string) (time.Time, error) {
	if u, err := uuid.Parse(id); err == nil && u.Version() == 7 {
		sec, nsec := u.Time().UnixTime()
		return time.Unix(sec, nsec), nil
	}
	_, st, err := q.conn.Get(ctx, dir+"/"+id)
	if errors.Is(err, coord.ErrNoNode) {
		err = nil
	}
	return st.Modified, err
}
