package client

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// task is the reply to what is asked of one ticket.
type task struct {
	ID   string         `json:"id"`
	Data *ticket.Ticket `json:"data"`
}

// Tasks lists the ids of the tickets that are not gone.
func (c *Client) Tasks(ctx context.Context) ([]string, error) {
	var reply struct{ Tasks []string }
	err := c.json(ctx, &request{method: http.MethodGet, path: []string{"tasks"}}, &reply)
	return reply.Tasks, err
}

// Task returns a ticket.
func (c *Client) Task(ctx context.Context, id string) (*ticket.Ticket, error) {
	return c.task(ctx, &request{method: http.MethodGet, path: []string{"tasks", id}})
}

// PostTask posts a ticket and returns it as it is now, with its id. It is not
// repeated after a lost answer.
func (c *Client) PostTask(ctx context.Context, t *ticket.Ticket) (*ticket.Ticket, error) {
	return c.task(ctx, &request{method: http.MethodPost, path: []string{"tasks"}, header: jsonBody}, t)
}

// PutTask replaces the ticket that has t's id: to fill, claim, release or
// complete it. Of an error with status 409, somebody else has it. After a lost
// answer the repeat may meet the first one's effect, which for a completion is
// 404.
func (c *Client) PutTask(ctx context.Context, t *ticket.Ticket) (*ticket.Ticket, error) {
	return c.task(ctx, &request{method: http.MethodPut, path: []string{"tasks", t.ID}, header: jsonBody}, t)
}

// DeleteTask removes a ticket; that it was gone already is no error.
func (c *Client) DeleteTask(ctx context.Context, id string) error {
	return c.json(ctx, &request{method: http.MethodDelete, path: []string{"tasks", id}}, nil)
}

// Lease says that the worker of a ticket is alive.
func (c *Client) Lease(ctx context.Context, id string) error {
	return c.json(ctx, &request{method: http.MethodPost, path: []string{"tasks", id, "lease"}, repeat: true}, nil)
}

// task sends q, with a ticket as its body if there is one, and returns the
// ticket of the reply.
func (c *Client) task(ctx context.Context, q *request, body ...*ticket.Ticket) (*ticket.Ticket, error) {
	for _, t := range body {
		b, err := json.Marshal(t)
		if err != nil {
			return nil, fault.Errorf(fault.BadTicket, "client: %s: %w", q, err)
		}
		q.body = b
	}
	var reply task
	if err := c.json(ctx, q, &reply); err != nil {
		return nil, err
	}
	if reply.Data == nil {
		return nil, fault.Errorf(fault.Config, "client: %s: the reply has no ticket", q)
	}
	if reply.Data.ID == "" { // one that was posted empty has it beside
		reply.Data.ID = reply.ID
	}
	return reply.Data, nil
}
