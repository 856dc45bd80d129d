package queue

import (
	"context"
	"errors"
	"slices"
	"sort"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/ticket"
)

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
