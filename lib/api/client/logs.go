package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

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

// LogInfo describes one of a build's logs.
type LogInfo struct {
	Name    string // for Log
	Step    string // key in the build's record; "": of none
	Attempt int
	Size    int64 // bytes so far
	Live    bool  // more may come
}

// LogList is the logs of a build, in the order in which they are shown.
type LogList struct {
	Complete bool      // the build is, and so are its logs
	Tag      string    // of this list; for Logs
	Logs     []LogInfo // as they are
}

// Logs lists a build's logs. If seen is the tag of the list as it is, the
// server waits a while for another one.
func (c *Client) Logs(ctx context.Context, job string, n ticket.Number, seen string) (*LogList, error) {
	q := &request{method: http.MethodGet, path: buildPath(job, n, "logs"), query: url.Values{}}
	if seen != "" {
		q.query = url.Values{"seen": {seen}}
	}
	l := &LogList{}
	return l, c.json(ctx, q, l)
}

// Lines are those lines of a log that are wanted. The zero value: all.
type Lines struct {
	From, To int64 // from 1 on; To 0: the last
	Tail     int64 // so many last ones, if From is 0
}

func (l Lines) query(q url.Values) {
	switch {
	case l.From > 0 && l.To > 0:
		q.Set("lines", fmt.Sprintf("%d-%d", l.From, l.To))
	case l.From > 0:
		q.Set("lines", fmt.Sprintf("%d-", l.From))
	case l.Tail > 0:
		q.Set("tail", strconv.FormatInt(l.Tail, 10))
	}
}

// ConsoleLines writes lines of a build's log so far to w.
func (c *Client) ConsoleLines(ctx context.Context, job string, n ticket.Number, l Lines, w io.Writer) error {
	return c.lines(ctx, &request{method: http.MethodGet, path: buildPath(job, n, "console")}, l, w)
}

// StepLines writes lines of the log of the last attempt at a step to w.
func (c *Client) StepLines(ctx context.Context, job string, n ticket.Number, step string, l Lines, w io.Writer) error {
	return c.lines(ctx, &request{method: http.MethodGet, path: buildPath(job, n, "steps", step, "log")}, l, w)
}

// LogRange writes n bytes of a log from offset on to w, or what there is of
// them.
func (c *Client) LogRange(ctx context.Context, job string, b ticket.Number, name string, offset, n int64, w io.Writer) error {
	q := &request{method: http.MethodGet, path: buildPath(job, b, "logs", name),
		header: map[string]string{"Range": fmt.Sprintf("bytes=%d-%d", offset, offset+n-1)}}
	err := c.lines(ctx, q, Lines{}, w)
	if Status(err) == http.StatusRequestedRangeNotSatisfiable {
		return nil
	}
	return err
}

// lines asks for lines. Where the last ones are is not asked twice: the log may
// have grown.
func (c *Client) lines(ctx context.Context, q *request, l Lines, w io.Writer) error {
	q.query = url.Values{}
	l.query(q.query)
	resp, err := c.open(ctx, q)
	if err != nil {
		return err
	}
	_, readErr, writeErr := copyFrom(w, resp.Body, 0)
	resp.Body.Close()
	if writeErr != nil {
		return fault.Wrap(fault.Temporary, fmt.Errorf("client: %s: writing: %w", q, writeErr))
	}
	if readErr != nil {
		return c.network(ctx, q, readErr)
	}
	return nil
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
