package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// Follow writes a build's log to w as it comes, until the build is finished or
// ctx is done; with tail > 0 it begins with so many last lines. When the
// connection breaks or a server goes down it goes on where it was, with
// whatever server answers then, for as long as one comes back within a few
// attempts: a byte's place in its log is the same for all of them.
func (c *Client) Follow(ctx context.Context, job string, n ticket.Number, tail int64, w io.Writer) error {
	f := &follower{c, job, n, w, map[string]int64{}}
	if tail > 0 {
		if err := f.skip(ctx, tail); err != nil {
			return err
		}
	}
	for failed, seen := 0, ""; ; {
		// The list first: what it says is complete has its whole log in the store.
		l, err := c.Logs(ctx, job, n, seen)
		if err != nil {
			return err
		}
		news, err := f.round(ctx, l.Logs)
		var we writeError
		switch {
		case err == nil && l.Complete:
			return nil
		case news:
			failed = 0
		case err != nil:
			failed++
		}
		if failed == tries || errors.As(err, &we) || err != nil && !passing(ctx, err) {
			return err
		}
		if seen = l.Tag; err == nil {
			continue // the server waits, if there is nothing to be had
		}
		if seen = ""; news { // a server that is there, or another one
			continue
		}
		if pause(ctx, max(1, failed), err) != nil {
			return fmt.Errorf("client: following %s #%d: %w", job, n, ctx.Err())
		}
	}
}

// writeError: it is not the server that has failed.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

type follower struct {
	c    *Client
	job  string
	n    ticket.Number
	w    io.Writer
	done map[string]int64 // bytes of each log that were written
}

// round writes what is new in the logs, in their order, up to and with the
// first one that is live, and tells whether there was anything.
func (f *follower) round(ctx context.Context, logs []LogInfo) (news bool, err error) {
	for _, l := range logs {
		if !l.Live && f.done[l.Name] >= l.Size {
			continue
		}
		before := f.done[l.Name]
		err := f.log(ctx, l)
		news = news || f.done[l.Name] > before
		if err != nil || l.Live {
			return news, err
		}
	}
	return news, nil
}

// log writes a log from where we are: as it grows, or the rest of it.
func (f *follower) log(ctx context.Context, l LogInfo) error {
	at := f.done[l.Name]
	q := f.request(l.Name)
	q.query.Set("offset", strconv.FormatInt(at, 10))
	if l.Live {
		q.query.Set("follow", "1")
		q.slow = true
	}
	resp, err := f.c.once(ctx, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.Header.Get("Log-Offset") != strconv.FormatInt(at, 10) {
		return fault.Errorf(fault.Config, "client: %s: the server does not say where in the log its answer begins", q)
	}
	k, readErr, writeErr := copyFrom(f.w, resp.Body, 0)
	f.done[l.Name] += k
	switch {
	case writeErr != nil:
		return fault.Wrap(fault.Temporary, fmt.Errorf("client: %s: writing: %w", q, writeError{writeErr}))
	case readErr != nil:
		return f.c.network(ctx, q, readErr)
	}
	return nil
}

func (f *follower) request(name string) *request {
	return &request{method: http.MethodGet, path: buildPath(f.job, f.n, "logs", name), query: url.Values{}}
}

// skip leaves out everything but the last lines of what there is.
func (f *follower) skip(ctx context.Context, tail int64) error {
	list, err := f.c.Logs(ctx, f.job, f.n, "")
	if err != nil {
		return err
	}
	for _, l := range slices.Backward(list.Logs) {
		if tail == 0 {
			f.done[l.Name] = l.Size
			continue
		}
		q := f.request(l.Name)
		q.query.Set("tail", strconv.FormatInt(tail, 10))
		resp, err := f.c.open(ctx, q)
		if err != nil {
			return err
		}
		lines := &lineCounter{}
		_, readErr, _ := copyFrom(lines, resp.Body, 0)
		resp.Body.Close()
		if readErr != nil {
			return f.c.network(ctx, q, readErr)
		}
		at, err := strconv.ParseInt(resp.Header.Get("Log-Offset"), 10, 64)
		if err != nil {
			return fault.Errorf(fault.Config, "client: %s: the server does not say where in the log its answer begins", q)
		}
		f.done[l.Name] = at
		tail = max(0, tail-lines.count())
	}
	return nil
}

// lineCounter counts the lines that are written to it.
type lineCounter struct {
	newlines int64
	open     bool // the last line has no newline
}

func (c *lineCounter) Write(p []byte) (int, error) {
	for _, b := range p {
		c.open = b != '\n'
		if !c.open {
			c.newlines++
		}
	}
	return len(p), nil
}

func (c *lineCounter) count() int64 {
	if c.open {
		return c.newlines + 1
	}
	return c.newlines
}
