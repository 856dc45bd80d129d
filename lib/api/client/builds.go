package client

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strconv"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// Jobs lists at most limit ids of jobs that come after the given one, in
// order; all of them if limit is 0.
func (c *Client) Jobs(ctx context.Context, after string, limit int) ([]string, error) {
	q := &request{method: http.MethodGet, path: []string{"jobs"}, query: url.Values{}}
	if after != "" {
		q.query.Set("after", after)
	}
	if limit > 0 {
		q.query.Set("limit", strconv.Itoa(limit))
	}
	var reply struct{ Jobs []string }
	err := c.json(ctx, q, &reply)
	return reply.Jobs, err
}

// Job returns a job's configuration.
func (c *Client) Job(ctx context.Context, job string) (json.RawMessage, error) {
	var reply struct{ Config json.RawMessage }
	err := c.json(ctx, &request{method: http.MethodGet, path: []string{"jobs", job}}, &reply)
	return reply.Config, err
}

// PutJob creates or replaces a job; the configuration's job_id is the same.
func (c *Client) PutJob(ctx context.Context, job string, config []byte) error {
	return c.json(ctx, &request{method: http.MethodPut, path: []string{"jobs", job}, header: jsonBody, body: config}, nil)
}

// DeleteJob removes a job with its builds.
func (c *Client) DeleteJob(ctx context.Context, job string) error {
	return c.json(ctx, &request{method: http.MethodDelete, path: []string{"jobs", job}}, nil)
}

var jsonBody = map[string]string{"Content-Type": "application/json"}

// Builds lists the numbers of a job's builds, in order.
func (c *Client) Builds(ctx context.Context, job string) ([]ticket.Number, error) {
	var reply struct{ Builds []ticket.Number }
	err := c.json(ctx, &request{method: http.MethodGet, path: []string{"jobs", job, "builds"}}, &reply)
	return reply.Builds, err
}

// Build returns the state of a build.
func (c *Client) Build(ctx context.Context, job string, n ticket.Number) (*build.State, error) {
	var reply struct{ State *build.State }
	q := &request{method: http.MethodGet, path: buildPath(job, n, "state")}
	if err := c.json(ctx, q, &reply); err != nil {
		return nil, err
	}
	if reply.State == nil {
		return nil, fault.Errorf(fault.Config, "client: %s: the reply has no state", q)
	}
	return reply.State, nil
}

// Start is what a build is begun with; the zero value: as the job is.
type Start struct {
	Parameters map[string]string `json:"parameters,omitempty"` // values in place of the defaults
	Ref        string            `json:"ref,omitempty"`        // what to check out
	// Key is an idempotency key. With one the request is repeated when its answer
	// is lost, and so may the caller for a day: it begins one build.
	Key string `json:"-"`
}

// Trigger begins a build of a job as it is and returns its number. A request
// whose answer is lost is not repeated: it may have begun one. See Begin.
func (c *Client) Trigger(ctx context.Context, job string) (ticket.Number, error) {
	return c.Begin(ctx, job, Start{})
}

// Begin begins a build and returns its number.
func (c *Client) Begin(ctx context.Context, job string, s Start) (ticket.Number, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return 0, fault.Wrap(fault.Usage, err)
	}
	return c.begin(ctx, []string{"jobs", job, "builds"}, body, s.Key)
}

func (c *Client) begin(ctx context.Context, path []string, body []byte, key string) (ticket.Number, error) {
	var reply struct {
		Number ticket.Number `json:"build_number"`
	}
	q := &request{method: http.MethodPost, path: path, header: maps.Clone(jsonBody), body: body, repeat: key != ""}
	if key != "" {
		q.header["Idempotency-Key"] = key
	}
	err := c.json(ctx, q, &reply)
	if err == nil && reply.Number <= 0 {
		err = fault.Errorf(fault.Config, "client: %s: the reply has no build_number", q)
	}
	return reply.Number, err
}

// Cancel ends a build. It does nothing to one that has ended.
func (c *Client) Cancel(ctx context.Context, job string, n ticket.Number) error {
	return c.json(ctx, &request{method: http.MethodPost, path: buildPath(job, n, "cancel"), repeat: true}, nil)
}

// Retry begins a build that takes over what a finished one has done and goes on
// from a step, by its key; "": the first that did not succeed. The key is as
// Start's.
func (c *Client) Retry(ctx context.Context, job string, n ticket.Number, from, key string) (ticket.Number, error) {
	body, err := json.Marshal(struct {
		From string `json:"from,omitempty"`
	}{from})
	if err != nil {
		return 0, fault.Wrap(fault.Usage, err)
	}
	return c.begin(ctx, buildPath(job, n, "retry"), body, key)
}

// DeleteBuild removes a build and everything of it.
func (c *Client) DeleteBuild(ctx context.Context, job string, n ticket.Number) error {
	return c.json(ctx, &request{method: http.MethodDelete, path: buildPath(job, n)}, nil)
}

func buildPath(job string, n ticket.Number, more ...string) []string {
	return append([]string{"jobs", job, "builds", n.String()}, more...)
}
