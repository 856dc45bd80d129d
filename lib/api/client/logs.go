package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// Console writes a build's log so far to w.
func (c *Client) Console(ctx context.Context, job string, n ticket.Number, w io.Writer) error {
	_, err := c.stream(ctx, &request{method: http.MethodGet, path: buildPath(job, n, "console")}, w, 0)
	return err
}

// StepLog writes the log of an attempt (0: the last) at a step to w.
func (c *Client) StepLog(ctx context.Context, job string, n ticket.Number, step string, attempt int, w io.Writer) error {
	q := &request{method: http.MethodGet, path: buildPath(job, n, "steps", step, "log"), query: url.Values{}}
	if attempt > 0 {
		q.query.Set("attempt", strconv.Itoa(attempt))
	}
	_, err := c.stream(ctx, q, w, 0)
	return err
}

// Follow writes a build's log to w as it comes, until the build is finished or
// ctx is done. When the connection breaks it goes on where it was, for as long
// as the server comes back within a few attempts.
func (c *Client) Follow(ctx context.Context, job string, n ticket.Number, w io.Writer) error {
	q := &request{method: http.MethodGet, path: buildPath(job, n, "console")}
	for done := int64(0); ; {
		// The log ends also because a server goes down or does not know how to
		// follow. It is whole if the build had ended before it was read.
		state, err := c.Build(ctx, job, n)
		if err != nil {
			return err
		}
		ended := state.Status == build.Complete
		q.query, q.slow = nil, !ended
		if !ended {
			q.query = url.Values{"follow": {"1"}}
		}
		before := done
		if done, err = c.stream(ctx, q, w, done); err != nil || ended {
			return err
		}
		if done == before && pause(ctx, tries, nil) != nil {
			return c.network(ctx, q, ctx.Err())
		}
	}
}

// stream writes the reply's body to w but for the first skip bytes, and
// returns skip plus the number of bytes written. A broken connection is taken
// up again; attempts without a new byte are bounded.
func (c *Client) stream(ctx context.Context, q *request, w io.Writer, skip int64) (int64, error) {
	for n := 1; ; n++ {
		q.header = nil
		if skip > 0 && !q.slow {
			q.header = map[string]string{"Range": fmt.Sprintf("bytes=%d-", skip)}
		}
		resp, err := c.open(ctx, q)
		if Status(err) == http.StatusRequestedRangeNotSatisfiable {
			return skip, nil // nothing new
		}
		if err != nil {
			return skip, err
		}
		rest := skip
		if resp.StatusCode == http.StatusPartialContent {
			rest = 0
		}
		k, readErr, writeErr := copyFrom(w, resp.Body, rest)
		resp.Body.Close()
		skip += k
		switch {
		case writeErr != nil:
			return skip, fault.Wrap(fault.Temporary, fmt.Errorf("client: %s: writing: %w", q, writeErr))
		case readErr == nil:
			return skip, nil
		case ctx.Err() != nil:
			return skip, c.network(ctx, q, ctx.Err())
		}
		if k > 0 {
			n = 1
		}
		err = c.network(ctx, q, readErr)
		if n == tries {
			return skip, err
		}
		if pause(ctx, n, err) != nil {
			return skip, c.network(ctx, q, ctx.Err())
		}
	}
}

// copyFrom copies r without its first skip bytes to w, and tells which side
// has failed. An end within those bytes is a failure too: a log only grows.
func copyFrom(w io.Writer, r io.Reader, skip int64) (n int64, readErr, writeErr error) {
	if _, err := io.CopyN(io.Discard, r, skip); err == io.EOF {
		return 0, io.ErrUnexpectedEOF, nil
	} else if err != nil {
		return 0, err, nil
	}
	buf := make([]byte, 32<<10)
	for {
		k, err := r.Read(buf)
		if k > 0 {
			m, werr := w.Write(buf[:k])
			n += int64(m)
			if werr != nil {
				return n, nil, werr
			}
		}
		if err == io.EOF {
			return n, nil, nil
		}
		if err != nil {
			return n, err, nil
		}
	}
}
