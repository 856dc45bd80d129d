package client

import (
	"context"
	"net/http"

	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/queue"
)

// Members tells who is there and what each runs.
func (c *Client) Members(ctx context.Context) ([]member.Member, error) {
	var reply struct{ Members []member.Member }
	err := c.json(ctx, &request{method: http.MethodGet, path: []string{"members"}}, &reply)
	return reply.Members, err
}

// Queue tells how much there is to do, for each set of capabilities.
func (c *Client) Queue(ctx context.Context) ([]queue.Load, error) {
	var reply struct{ Queue []queue.Load }
	err := c.json(ctx, &request{method: http.MethodGet, path: []string{"queue"}}, &reply)
	return reply.Queue, err
}
