package queue

import (
	"context"
	"errors"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// Previous is what became of the attempt before, as it stands in a ticket that
// was given back.
type Previous struct {
	Worker string     `json:"worker"`
	Fault  fault.Kind `json:"fault"`
	Error  string     `json:"error,omitempty"`
}

// FieldPrevious is the ticket's field that holds a Previous.
const FieldPrevious = "previous"

// PreviousOf tells what became of the attempt before; ok is false at the
// first one.
func PreviousOf(t *ticket.Ticket) (p Previous, ok bool) {
	ok, err := t.Get(FieldPrevious, &p)
	return p, ok && err == nil
}

// back is the ticket as it is posted again.
func back(t *ticket.Ticket, p Previous) *ticket.Ticket {
	t = t.Clone()
	t.Status, t.Assignee, t.Started, t.Result, t.Error, t.Fault = ticket.Pending, "", nil, "", "", fault.None
	_ = t.Set(FieldPrevious, p) // plain strings
	return t
}

// Release gives the ticket back for another attempt, because of cause. With
// spare, this attempt does not count. Errors: ErrLost.
func (c *Claim) Release(ctx context.Context, cause error, spare bool) error {
	t := back(c.Ticket, Previous{Worker: c.Worker, Fault: fault.Of(cause), Error: cause.Error()})
	if spare {
		t.Spared++
	}
	begin := time.Now()
	err := c.q.putBack(ctx, c.place, t, c.version, coord.Delete(c.path, c.claimVersion))
	if errors.Is(err, errUnclear) && c.session != 0 && !c.over() {
		err = nil // nobody else could
	}
	c.q.told(EventRelease, begin, t, c, err)
	if errors.Is(err, errUnclear) {
		return nil // it is back
	}
	return err
}

// errUnclear: a ticket was given back by us, or by somebody who had the same
// in mind.
var errUnclear = fault.Errorf(fault.Temporary, "queue: given back by whomever: %w", coord.ErrUnknown)

// putBack makes a claimed ticket ready again. The claim operations come first;
// they prove that the caller may do it.
func (q *Queue) putBack(ctx context.Context, p place, t *ticket.Ticket, version int32, claim ...coord.Op) error {
	data, err := encode(t)
	if err != nil {
		return err
	}
	ops := append(claim, coord.Delete(p.run(), coord.AnyVersion), coord.Set(p.ticket(), data, version), coord.Create(p.ready(), nil))
	for uncertain := false; ; {
		_, err := q.conn.Txn(ctx, ops...)
		var te *coord.TxnError
		switch {
		case errors.Is(err, coord.ErrUnknown):
			uncertain = true
			if err := q.pause(ctx); err != nil {
				return err
			}
			continue
		case coord.Refused(err, len(ops)-1) && errors.Is(err, coord.ErrNoNode):
			if err := q.ensureSlice(ctx, p); err != nil {
				return err
			}
			continue
		case errors.As(err, &te) && uncertain, errors.Is(err, coord.ErrExpired) && uncertain:
			return errUnclear
		case errors.As(err, &te), errors.Is(err, coord.ErrExpired):
			return ErrLost // nothing was done
		}
		return err
	}
}
