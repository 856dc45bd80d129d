package api

import (
	"bytes"
	"errors"
	"net/http"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/ticket"
)

// How long a worker that speaks REST holds a ticket without a sign of life.
const (
	defaultLease = 60 * time.Second
	minLease     = time.Second
	maxLease     = time.Hour
)

// tasks answers below /tasks.
func (s *server) tasks(x *exchange, parts []string) error {
	ctx := x.Context()
	if len(parts) == 0 {
		switch x.Method {
		case http.MethodGet:
			ids, err := s.repo.Queue().List(ctx)
			if err != nil {
				return err
			}
			return x.reply(http.StatusOK, map[string]any{"tasks": ids})
		case http.MethodPost:
			return s.postTask(x)
		}
		return errMethod
	}
	id := parts[0]
	if !ticket.ValidID(id) {
		return errID
	}
	switch {
	case len(parts) == 2 && parts[1] == "lease" && x.Method == http.MethodPost:
		return s.extendLease(x, id)
	case len(parts) != 1:
		return errMethod
	}
	switch x.Method {
	case http.MethodGet:
		t, _, err := s.repo.Queue().Get(ctx, id)
		if err != nil {
			return err
		}
		return x.ticket(http.StatusOK, t)
	case http.MethodPut:
		return s.putTask(x, id)
	case http.MethodDelete:
		return s.deleteTask(x, id)
	}
	return errMethod
}

func (x *exchange) ticket(status int, t *ticket.Ticket) error {
	return x.reply(status, map[string]any{"id": t.ID, "data": t})
}

// readTicket reads the body; an empty one is an empty ticket.
func (x *exchange) readTicket() (*ticket.Ticket, error) {
	b, err := x.body(maxDocument)
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(b)) == 0 {
		b = []byte("{}")
	}
	return ticket.Parse(b)
}

func (s *server) postTask(x *exchange) error {
	t, err := x.readTicket()
	if err != nil {
		return err
	}
	if t.ID == "" {
		t.ID = ticket.NewID()
	}
	if t.Step != "" && t.JobID != "" {
		return fault.Errorf(fault.BadTicket, `ticket: field "step": tickets of a build are posted by the build`)
	}
	if err := s.repo.Queue().Post(x.Context(), t); err != nil {
		return err
	}
	return x.ticket(http.StatusCreated, t)
}

// lease reads how long the ticket is to be held.
func lease(t *ticket.Ticket) (time.Duration, error) {
	seconds := defaultLease.Seconds()
	if _, err := t.Get("lease", &seconds); err != nil {
		return 0, err
	}
	return min(max(time.Duration(seconds*float64(time.Second)), minLease), maxLease), nil
}

// putTask is how a worker without a session takes a ticket, shows that it is
// alive, and brings the result; and how whoever has posted a ticket changes it
// until it is taken.
func (s *server) putTask(x *exchange, id string) error {
	in, err := x.readTicket()
	if err != nil {
		return err
	}
	t, ref, err := s.repo.Queue().Get(x.Context(), id)
	if err != nil {
		return err
	}
	if in.ID != "" && in.ID != id {
		return fault.Errorf(fault.BadTicket, "ticket: field \"id\": expected %q, found %q", id, in.ID)
	}
	if in.Attempt != 0 && in.Attempt != t.Attempt || t.Assignee != "" && in.Assignee != "" && in.Assignee != t.Assignee {
		return queue.ErrLost
	}
	d, err := lease(in)
	if err != nil {
		return err
	}
	c, err := s.repo.Queue().Leased(x.Context(), ref, t)
	if errors.Is(err, queue.ErrLost) {
		return s.putUnleased(x, t, ref, in, d)
	}
	if err != nil {
		return err
	}
	c.Ticket = merge(t, in)
	switch {
	case in.Status == ticket.Complete:
		return s.complete(x, c)
	case in.Status == ticket.Pending && in.Assignee == "":
		if err := c.Release(x.Context(), fault.Errorf(fault.Interrupted, "given back by its worker"), true); err != nil {
			return err
		}
		return x.ticket(http.StatusOK, in)
	}
	c.Ticket.Status, c.Ticket.Assignee = ticket.Running, t.Assignee
	if err := c.Extend(x.Context(), d); err != nil {
		return err
	}
	return x.ticket(http.StatusOK, c.Ticket)
}

// putUnleased changes a ticket that no worker of this kind holds.
func (s *server) putUnleased(x *exchange, t *ticket.Ticket, ref queue.Ref, in *ticket.Ticket, d time.Duration) error {
	ctx := x.Context()
	next := merge(t, in)
	switch {
	case t.Status == ticket.Running && t.Assignee != "", t.Status == ticket.Pending && in.Status == ticket.Complete:
		return queue.ErrLost // it is another worker's, or nobody's any more
	case t.Status == ticket.Pending && in.Status == ticket.Running:
		if in.Assignee == "" {
			return fault.Errorf(fault.BadTicket, `ticket: field "assignee": expected the worker's name`)
		}
		next.Status = ticket.Pending
		c, err := s.repo.Queue().Lease(ctx, ref, next, in.Assignee, d)
		if err != nil {
			return err
		}
		if err := s.dropCanceled(x, c); err != nil {
			return err
		}
		return x.ticket(http.StatusOK, c.Ticket)
	}
	if err := s.repo.Queue().Replace(ctx, ref, next); err != nil {
		return err
	}
	return x.ticket(http.StatusOK, next)
}

// dropCanceled ends a step that was taken although its build is canceled.
func (s *server) dropCanceled(x *exchange, c *queue.Claim) error {
	t := c.Ticket
	if t.JobID == "" || t.Step == "" {
		return nil
	}
	by, err := s.repo.Canceled(x.Context(), t.JobID, t.BuildNumber)
	if err != nil || by == "" {
		return err
	}
	c.Ticket = t.Clone()
	c.Ticket.Status, c.Ticket.Result, c.Ticket.Error = ticket.Complete, ticket.Canceled, "canceled by "+by
	if _, err := s.repo.Commit(x.Context(), c, c.Ticket, nil); err != nil {
		return err
	}
	return queue.ErrLost
}

// complete commits the result of a leased ticket; its build moves on as if
// distci-claim had done it.
func (s *server) complete(x *exchange, c *queue.Claim) error {
	t := c.Ticket
	if t.Result == "" {
		return fault.Errorf(fault.BadTicket, `ticket: field "result": expected "success", "failure", "error" or "canceled"`)
	}
	t.Assignee = ""
	if _, err := s.repo.Commit(x.Context(), c, t, nil); err != nil {
		return err
	}
	return x.ticket(http.StatusOK, t)
}

// merge is the stored ticket with what a client has sent. What a build's
// ticket is about, and how often it was tried, is not the client's to say.
func merge(t, in *ticket.Ticket) *ticket.Ticket {
	m := in.Clone()
	m.ID, m.Attempt, m.Spared, m.Started = t.ID, t.Attempt, t.Spared, t.Started
	if t.JobID != "" && t.Step != "" {
		was := t.Clone()
		was.Status, was.Result, was.Error, was.Fault = in.Status, in.Result, in.Error, in.Fault
		was.Assignee, was.Artifacts, was.Extra = in.Assignee, in.Artifacts, in.Extra
		return was
	}
	return m
}

func (s *server) extendLease(x *exchange, id string) error {
	in, err := x.readTicket()
	if err != nil {
		return err
	}
	d, err := lease(in)
	if err != nil {
		return err
	}
	t, ref, err := s.repo.Queue().Get(x.Context(), id)
	if err != nil {
		return err
	}
	c, err := s.repo.Queue().Leased(x.Context(), ref, t)
	if err != nil {
		return err
	}
	if err := c.Extend(x.Context(), d); err != nil {
		return err
	}
	return x.ticket(http.StatusOK, c.Ticket)
}

// deleteTask removes a ticket. A build's step ends as canceled, so that the
// build can go on to its end.
func (s *server) deleteTask(x *exchange, id string) error {
	ctx := x.Context()
	t, ref, err := s.repo.Queue().Get(ctx, id)
	if err != nil {
		return err
	}
	if t.JobID != "" && t.Step != "" {
		if err := s.repo.Cancel(ctx, t.JobID, t.BuildNumber, "the deletion of its ticket"); err != nil && fault.Of(err) != fault.Unavailable {
			return err
		}
		return x.empty()
	}
	if err := s.repo.Queue().Delete(ctx, ref); err != nil {
		return err
	}
	return x.empty()
}
