package queue

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// Requeue makes the tickets ready again whose holders are gone: claimed, but
// without a claim, or with a lease that has run out. Any number of processes
// may do so at any time. It returns the tickets' ids. What is there and no
// ticket is told once, as for Claim.
func (q *Queue) Requeue(ctx context.Context) ([]string, error) {
	running, err := q.conn.Children(ctx, runRoot)
	if err != nil || len(running) == 0 {
		return nil, err
	}
	claims, err := q.conn.Children(ctx, claimRoot)
	if err != nil {
		return nil, err
	}
	leases, err := q.conn.Children(ctx, leaseRoot)
	if err != nil {
		return nil, err
	}
	var done []string
	var odd []error
	for _, id := range running {
		if _, held := slices.BinarySearch(claims, id); held {
			continue
		}
		_, leased := slices.BinarySearch(leases, id)
		ok, err := q.requeue(ctx, id, leased)
		switch p := (place{id: id}); {
		case errors.Is(err, errForeign) && q.ignored(p): // told before
		case errors.Is(err, errForeign):
			q.ignore(p)
			odd = append(odd, err)
		case err != nil:
			return done, err
		}
		if ok {
			done = append(done, id)
		}
	}
	return done, errors.Join(append(odd, q.tidy(ctx))...)
}

// requeue puts one ticket back if its holder is gone. It reads first and
// proves with the transaction that nothing has changed since.
func (q *Queue) requeue(ctx context.Context, id string, leased bool) (bool, error) {
	entry, _, err := q.conn.Get(ctx, runRoot+"/"+id)
	if errors.Is(err, coord.ErrNoNode) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	p, ok := placeInRun(id, entry)
	if !ok {
		return false, fault.Errorf(fault.Internal, "queue: %s/%s: %q is not a place: %w", runRoot, id, entry, errForeign)
	}
	data, st, err := q.conn.Get(ctx, p.ticket())
	if errors.Is(err, coord.ErrNoNode) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	t, err := ticket.Parse(data)
	if err != nil {
		return false, fault.Errorf(fault.Internal, "queue: %s: %w: %w", p.ticket(), err, errForeign)
	}
	// Creating the claim and the lease for an instant proves that nobody holds
	// it: what was listed may have been given back and taken again since.
	claim := []coord.Op{coord.CreateEphemeral(p.claim(), nil), coord.Delete(p.claim(), 0)}
	cause := "the worker went away"
	if leased {
		data, st, err := q.conn.Get(ctx, p.lease())
		if errors.Is(err, coord.ErrNoNode) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if time.Now().UnixMilli() < readClaim(data).Until {
			return false, nil
		}
		claim = append(claim, coord.Delete(p.lease(), st.Version))
		cause = "the worker's lease ran out"
	} else {
		claim = append(claim, coord.Create(p.lease(), nil), coord.Delete(p.lease(), 0))
	}
	begin := time.Now()
	err = q.putBack(ctx, p, back(t, Previous{Worker: t.Assignee, Fault: fault.Lost, Error: cause}), st.Version, claim...)
	q.told(EventRequeue, begin, t, nil, err)
	if errors.Is(err, ErrLost) || errors.Is(err, errUnclear) {
		return false, nil
	}
	return err == nil, err
}

// tidy removes the slices that are used up. A slice that still has tickets
// refuses to go.
func (q *Queue) tidy(ctx context.Context) error {
	sets, err := q.conn.Children(ctx, queueRoot)
	if err != nil {
		return err
	}
	for _, name := range sets {
		root := queueRoot + "/" + name
		ready, err := q.conn.Children(ctx, root+"/r")
		if err != nil && !errors.Is(err, coord.ErrNoNode) {
			return err
		}
		all, err := q.conn.Children(ctx, root+"/t")
		if err != nil && !errors.Is(err, coord.ErrNoNode) {
			return err
		}
		for i, slice := range all {
			if _, used := slices.BinarySearch(ready, slice); used || i == len(all)-1 {
				continue
			}
			_, err := q.conn.Txn(ctx, coord.Delete(root+"/t/"+slice, coord.AnyVersion))
			var te *coord.TxnError
			if err != nil && !errors.As(err, &te) {
				return err
			}
		}
	}
	return nil
}

// turn is what this process knows of the sweeps of all.
type turn struct {
	version int32 // of the node that each sweep sets
	since   time.Time
}

// RequeueInTurn is Requeue for processes that do so again and again: of all of
// them, one does it in each interval. It is a process's turn when it has seen
// nobody else's for so long, by its own clock; so no clocks are compared.
func (q *Queue) RequeueInTurn(ctx context.Context, interval time.Duration) ([]string, error) {
	_, st, err := q.conn.Get(ctx, sweepNode)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	if q.swept.since.IsZero() || q.swept.version != st.Version {
		q.swept = turn{st.Version, time.Now()}
	}
	due := time.Since(q.swept.since) >= interval
	q.mu.Unlock()
	if !due {
		return nil, nil
	}
	_, err = q.conn.Txn(ctx, coord.Set(sweepNode, nil, st.Version))
	var refused *coord.TxnError
	if errors.As(err, &refused) {
		return nil, nil // somebody else was faster
	}
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	q.swept = turn{st.Version + 1, time.Now()}
	q.mu.Unlock()
	return q.Requeue(ctx)
}
