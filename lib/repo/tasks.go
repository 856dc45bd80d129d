package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/ticket"
)

// This file is the protocol of workers that speak REST and have no session: a
// worker puts the ticket as running with itself as the assignee, which leases
// it, puts it again now and then, and puts it as complete, which commits it.

// conflict is the refusal of a worker that does not hold the ticket, or not any
// longer.
func conflict(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, queue.ErrLost)...)
}

// attempts bounds how often a change is tried again that ran into another.
const attempts = 10

// PutTask changes a ticket as its worker or its poster wants it, and returns
// it as it is then. With match, which may be nil, the ticket as it stands must
// be one that match accepts. Errors: queue.ErrNotFound, of kind BadTicket, and
// such that wrap queue.ErrLost if somebody else has the ticket.
//
// Of a build's ticket the caller decides what a worker decides: the result, the
// artefacts, the fields that we do not know. The rest stays as it is.
func (r *Repo) PutTask(ctx context.Context, id string, put *ticket.Ticket, match func(*ticket.Ticket) bool) (*ticket.Ticket, error) {
	if err := checkArtifacts(put); err != nil {
		return nil, err
	}
	for range attempts {
		t, ref, err := r.queue.Get(ctx, id)
		if err != nil {
			return nil, err
		}
		if match != nil && !match(t) {
			return nil, conflict("the ticket has changed")
		}
		if put.Attempt != t.Attempt && (put.Attempt != 0 || t.Attempt > 1) && !before(t, ref, put) {
			return nil, conflict("the ticket is at attempt %d, the request is of attempt %d", t.Attempt, put.Attempt)
		}
		done, again, err := r.putTask(ctx, t, ref, put)
		if !again {
			return done, err
		}
	}
	return nil, conflict("the ticket keeps changing")
}

// before tells whether put comes from the worker that holds the ticket but sends
// it as it has found it, not as the reply to its claim was, as the original's
// workers may: with the number and the end of the attempt before its own, and
// not begun. A late worker of that attempt has another history, or has begun.
func before(t *ticket.Ticket, ref queue.Ref, put *ticket.Ticket) bool {
	now, ok := queue.PreviousOf(t)
	then, _ := queue.PreviousOf(put)
	return ok && then == now && ref.Claimed() && put.Started == nil && put.Attempt == t.Attempt-1
}

// putTask is one try; again tells that the ticket has changed under its hands.
func (r *Repo) putTask(ctx context.Context, t *ticket.Ticket, ref queue.Ref, put *ticket.Ticket) (_ *ticket.Ticket, again bool, err error) {
	next := merge(t, put)
	lease, err := leaseTime(next)
	if err != nil {
		return nil, false, err
	}
	if ref.Claimed() {
		c, err := r.claimOf(ctx, t, ref)
		if err != nil {
			return nil, false, err
		}
		if c == nil {
			return nil, true, nil
		}
		if put.Assignee != "" && put.Assignee != t.Assignee {
			return nil, false, conflict("the ticket is assigned to %q", t.Assignee)
		}
		c.Ticket = next
		switch put.Status {
		case ticket.Complete:
			err = r.complete(ctx, c, next)
		case ticket.Pending:
			err = c.Release(ctx, fault.Errorf(fault.Interrupted, "given back by its worker"), false)
			if err == nil {
				next, _, err = r.queue.Get(ctx, t.ID)
			}
		default:
			next.Status, next.Assignee, next.Result, next.Error, next.Fault = ticket.Running, t.Assignee, "", "", fault.None
			err = c.Extend(ctx, lease)
		}
		return next, errors.Is(err, queue.ErrLost), err
	}
	ofBuild := t.JobID != "" && (t.Step != "" || t.Type == controlType)
	switch {
	case t.Status == ticket.Pending && put.Status == ticket.Running:
		if put.Started != nil {
			return nil, false, conflict("the lease has run out, and the ticket is pending again")
		}
		if put.Assignee == "" {
			return nil, false, fault.Errorf(fault.BadTicket, `ticket: field "assignee": a ticket that is running has one`)
		}
		next.Result, next.Error, next.Fault, next.Artifacts = "", "", fault.None, nil
		next, err = r.lease(ctx, t, ref, next, put.Assignee)
	case t.Status == ticket.Pending && put.Status == ticket.Complete:
		return nil, false, conflict("nobody has the ticket: it was not claimed, or the lease has run out")
	case put.Status == ticket.Pending && put.Assignee != "":
		return nil, false, fault.Errorf(fault.BadTicket, `ticket: field "assignee": a ticket that is pending has none`)
	case ofBuild && t.Status != ticket.Pending:
		return nil, true, nil // it is just being claimed
	case ofBuild:
		// Whoever puts it has not understood that it is not his; nothing is lost.
		next = t
	default:
		next.Status, next.Assignee = put.Status, put.Assignee
		err = r.queue.Replace(ctx, ref, next)
	}
	var taken *takenError
	return next, errors.Is(err, queue.ErrLost) && !errors.As(err, &taken), err
}

// takenError is a conflict that no further look would change.
type takenError struct{ error }

func (e *takenError) Unwrap() error { return e.error }

// controlType is the type of the tickets that begin and end a build.
const controlType = "build-control"

// merge is the ticket t with what put may change in it.
func merge(t, put *ticket.Ticket) *ticket.Ticket {
	var next *ticket.Ticket
	if t.JobID != "" && (t.Step != "" || t.Type == controlType) {
		next = t.Clone()
		next.Result, next.Error, next.Fault, next.Artifacts = put.Result, put.Error, put.Fault, put.Artifacts
		next.Extra = map[string]json.RawMessage{}
		for name, raw := range put.Extra {
			next.Extra[name] = raw
		}
	} else {
		next = put.Clone()
		next.ID, next.Attempt, next.Spared, next.Started, next.Ended = t.ID, t.Attempt, t.Spared, t.Started, nil
		if put.Status == ticket.Complete { // said once more
			next.Ended = t.Ended
		}
	}
	for _, name := range []string{FieldLease, queue.FieldPrevious} {
		if _, there := next.Extra[name]; !there && t.Extra[name] != nil {
			next.Extra[name] = t.Extra[name]
		}
	}
	return next
}

// claimOf returns the lease on a claimed ticket; nil if there was one that has
// run out. Then the ticket is made pending again first.
func (r *Repo) claimOf(ctx context.Context, t *ticket.Ticket, ref queue.Ref) (*queue.Claim, error) {
	c, err := r.queue.Leased(ctx, ref, t)
	if errors.Is(err, queue.ErrLost) {
		// Between two looks it may have been given back as well.
		if _, now, e := r.queue.Get(ctx, t.ID); e == nil && now != ref {
			return nil, nil
		}
		return nil, conflict("the ticket is with worker %q", t.Assignee)
	}
	if err != nil {
		return nil, err
	}
	if c.Left() <= 0 {
		_, err := r.queue.Requeue(ctx)
		return nil, err
	}
	return c, nil
}

// lease claims a pending ticket, which becomes next. A ticket that nobody
// should work on any more is ended instead.
func (r *Repo) lease(ctx context.Context, t *ticket.Ticket, ref queue.Ref, next *ticket.Ticket, worker string) (*ticket.Ticket, error) {
	d, err := leaseTime(next)
	if err != nil {
		return nil, err
	}
	next.Capabilities = t.Capabilities // they are its place in the queue
	c, err := r.queue.Lease(ctx, ref, next, worker, d)
	if err != nil {
		return nil, err
	}
	by := ""
	if t.JobID != "" && t.Step != "" {
		if by, err = r.Canceled(ctx, t.JobID, t.BuildNumber); err != nil {
			return nil, err
		}
	}
	end := c.Ticket.Clone()
	switch {
	case by != "":
		end.Status, end.Result, end.Error = ticket.Complete, ticket.Canceled, "canceled by "+by
	case c.Ticket.Spent():
		p, _ := queue.PreviousOf(c.Ticket)
		end.Finish(fault.Errorf(fault.Lost, "no attempt of %d was brought to an end; the last, on %s: %s", c.Ticket.Attempt-1, p.Worker, p.Error))
	default:
		return c.Ticket, nil
	}
	if err := r.complete(ctx, c, end); err != nil {
		return nil, err
	}
	return nil, &takenError{conflict("the ticket is not to be worked on: %s", end.Error)}
}

// complete commits a leased ticket.
func (r *Repo) complete(ctx context.Context, c *queue.Claim, t *ticket.Ticket) error {
	t.Status, t.Assignee = ticket.Complete, ""
	delete(t.Extra, FieldLease)
	if t.Result == "" {
		t.Finish(fault.Errorf(fault.BadTicket, "the worker has completed the ticket without a result"))
	}
	if t.JobID != "" && t.Step == "" && t.Type == controlType {
		return r.completeControl(ctx, c, t)
	}
	_, err := r.Commit(ctx, c, t, nil)
	if fault.Of(err) == fault.Unavailable { // it names artefacts that are not there
		return fault.Errorf(fault.BadTicket, "ticket: %w", err)
	}
	if err == nil && t.JobID != "" && t.Step != "" {
		_ = r.SealLog(ctx, t.JobID, t.BuildNumber, t.Step, t.Attempt) // else the build's end does it
	}
	return err
}

// completeControl commits a control ticket: its worker answers in it as
// distci-buildctl does, or has put the build's record as complete already.
func (r *Repo) completeControl(ctx context.Context, c *queue.Claim, t *ticket.Ticket) error {
	for {
		ctl, err := r.Prepare(ctx, t.Clone())
		if err != nil {
			return err
		}
		if ctl == nil {
			return r.Drop(ctx, c)
		}
		if _, err = r.CommitControl(ctx, c, ctl, t, nil); !errors.Is(err, ErrChanged) {
			return err
		}
	}
}

// Lease says that the worker of a leased ticket is alive, and returns the
// ticket. The fields assignee, attempt and lease of put count, if they are
// there. Canceled tells who canceled the ticket's build; "": nobody did.
// Errors: as PutTask's.
func (r *Repo) Lease(ctx context.Context, id string, put *ticket.Ticket) (t *ticket.Ticket, canceled string, err error) {
	for range attempts {
		t, ref, err := r.queue.Get(ctx, id)
		if err != nil {
			return nil, "", err
		}
		if !ref.Claimed() {
			return nil, "", conflict("nobody has the ticket: it was not claimed, or the lease has run out")
		}
		if put.Attempt != 0 && put.Attempt != t.Attempt || put.Assignee != "" && put.Assignee != t.Assignee {
			return nil, "", conflict("the ticket is with worker %q, at attempt %d", t.Assignee, t.Attempt)
		}
		c, err := r.claimOf(ctx, t, ref)
		if err != nil {
			return nil, "", err
		}
		if c == nil {
			continue
		}
		if raw, ok := put.Extra[FieldLease]; ok {
			t.Extra[FieldLease] = raw
		}
		d, err := leaseTime(t)
		if err != nil {
			return nil, "", err
		}
		if err := c.Extend(ctx, d); errors.Is(err, queue.ErrLost) {
			continue
		} else if err != nil {
			return nil, "", err
		}
		if t.JobID != "" && t.Step != "" {
			canceled, err = r.Canceled(ctx, t.JobID, t.BuildNumber)
		}
		return t, canceled, err
	}
	return nil, "", conflict("the ticket keeps changing")
}

// DeleteTask removes a ticket. One that a build waits for is ended as canceled,
// so that the build goes on; one that distci-claim works on is refused with an
// error that wraps queue.ErrLost: its build can be canceled. That there is no
// such ticket is no error.
func (r *Repo) DeleteTask(ctx context.Context, id string) error {
	for range attempts {
		t, ref, err := r.queue.Get(ctx, id)
		if errors.Is(err, queue.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		waited, err := r.waitedFor(ctx, t)
		if err != nil {
			return err
		}
		if waited {
			err = r.cancelTask(ctx, t, ref)
		} else {
			err = r.queue.Delete(ctx, ref)
		}
		var taken *takenError
		if !errors.Is(err, queue.ErrLost) || errors.As(err, &taken) {
			return err
		}
	}
	return conflict("the ticket keeps changing")
}

// waitedFor tells whether a build waits for a ticket.
func (r *Repo) waitedFor(ctx context.Context, t *ticket.Ticket) (bool, error) {
	if t.JobID == "" {
		return false, nil
	}
	rec, err := r.live(ctx, t.JobID, t.BuildNumber)
	if errors.Is(err, ErrNoBuild) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return rec.Waits(t) && rec.State.Status != build.Complete, nil
}

// cancelTask ends a ticket that a build waits for.
func (r *Repo) cancelTask(ctx context.Context, t *ticket.Ticket, ref queue.Ref) error {
	const by = "the deletion of the ticket"
	var c *queue.Claim
	var err error
	if ref.Claimed() {
		if c, err = r.claimOf(ctx, t, ref); c == nil && err == nil {
			return queue.ErrLost // look again
		}
		if errors.Is(err, queue.ErrLost) {
			err = &takenError{err}
		}
	} else {
		c, err = r.queue.Take(ctx, ref, by)
	}
	if err != nil {
		return err
	}
	end := c.Ticket.Clone()
	end.Status, end.Result, end.Error, end.Fault = ticket.Complete, ticket.Canceled, "canceled by "+by, fault.None
	return r.complete(ctx, c, end)
}

// checkArtifacts looks at what a worker says it has published, before it
// becomes part of keys and of other workers' paths.
func checkArtifacts(t *ticket.Ticket) error {
	for id, path := range t.Artifacts {
		if !ticket.ValidID(id) {
			return fault.Errorf(fault.BadTicket, `ticket: field "artifacts": id %q: expected a lower-case UUID`, id)
		}
		bad := func(part string) bool {
			return part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\x00")
		}
		if len(path) == 0 || slices.ContainsFunc(path, bad) {
			return fault.Errorf(fault.BadTicket, `ticket: field "artifacts": path %q: expected the parts of a relative path`, path)
		}
	}
	return nil
}
