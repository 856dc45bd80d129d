package queue

import (
	"context"
	"errors"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/ticket"
)

// Peek returns the ticket that a worker with these capabilities would get now,
// without claiming it; nil if there is none. Those for which skip (which may be
// nil) is true do not count.
func (q *Queue) Peek(ctx context.Context, offer []string, skip func(id string) bool) (*ticket.Ticket, error) {
	places, err := q.oldest(ctx, offer, skip)
	if err != nil {
		return nil, err
	}
	for _, p := range places {
		data, _, err := q.conn.Get(ctx, p.ticket())
		if errors.Is(err, coord.ErrNoNode) {
			continue // claimed meanwhile
		}
		if err != nil {
			return nil, err
		}
		if t, err := ticket.Parse(data); err == nil && t.ID == p.id && t.Status == ticket.Pending {
			return t, nil
		}
	}
	return nil, nil
}

// WatchClaim returns a watch on whether somebody has claimed a ticket.
func (q *Queue) WatchClaim(ctx context.Context, id string) (coord.Watch, error) {
	return q.conn.WatchNode(ctx, runRoot+"/"+id)
}
