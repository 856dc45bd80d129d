package queue

import (
	"context"
	"errors"
	"strconv"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

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
