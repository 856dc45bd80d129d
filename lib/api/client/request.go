package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/distci/distci/lib/fault"
)

const (
	tries    = 4                      // attempts at a request that may be repeated
	backoff  = 200 * time.Millisecond // before the second; doubled from then on
	patience = 30 * time.Second       // a server that wants a longer pause is not waited for
	maxReply = 64 << 20               // bytes of a JSON reply
	maxError = 64 << 10               // bytes of an error's body that are read
)

// Error is an answer of the server that is not a success.
type Error struct {
	Status  int    // of HTTP
	Message string // the first line of the answer; may be empty

	after time.Duration // Retry-After
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%d %s", e.Status, http.StatusText(e.Status))
	if e.Message == "" || e.Message == http.StatusText(e.Status) {
		return s
	}
	return e.Message + " (" + s + ")"
}

// Status is the status of HTTP that err came with; 0 if the server did not
// answer.
func Status(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

// kind sorts the answers that are not a success.
func (e *Error) kind() fault.Kind {
	switch {
	case e.Status == http.StatusNotFound || e.Status == http.StatusGone:
		return fault.Unavailable
	case e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden:
		return fault.Denied
	case e.Status == http.StatusTooManyRequests || e.Status == http.StatusRequestTimeout || e.Status >= 500:
		return fault.Temporary
	case e.Status < 400: // a redirect, or something that is not our server
		return fault.Config
	}
	return fault.BadTicket
}

// request is one request, as often as it is sent.
type request struct {
	method string
	path   []string // parts, unescaped
	query  url.Values
	header map[string]string
	body   []byte
	stream io.Reader // instead of body; sent once
	size   int64     // of stream; -1: not known
	repeat bool      // a POST that may be repeated
	slow   bool      // the reply may begin at any time
}

func (q *request) String() string { return q.method + " /" + strings.Join(q.path, "/") }

// repeatable tells whether a repeat does no harm after err.
func (q *request) repeatable(err error) bool {
	if q.stream != nil {
		return false
	}
	if q.method != http.MethodPost || q.repeat || Status(err) == http.StatusTooManyRequests {
		return true // of the last one nothing was done
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// passing tells whether err may be over soon.
func passing(ctx context.Context, err error) bool {
	var e *Error
	if !errors.As(err, &e) {
		return fault.Of(err) == fault.Temporary && ctx.Err() == nil
	}
	switch e.Status {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return e.after <= patience
	}
	return false
}

// pause waits before attempt number try+1. It returns the context's error.
func pause(ctx context.Context, try int, err error) error {
	d := backoff << (try - 1)
	d += rand.N(d / 2) // clients that failed together shall not come back together
	var e *Error
	if errors.As(err, &e) {
		d = max(d, e.after)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// try calls f until it succeeds, as often as q allows, and returns its last
// error.
func (c *Client) try(ctx context.Context, q *request, f func() error) error {
	for n := 1; ; n++ {
		err := f()
		if err == nil || n == tries || !passing(ctx, err) || !q.repeatable(err) {
			return err
		}
		if pause(ctx, n, err) != nil {
			return c.network(ctx, q, ctx.Err())
		}
	}
}

// json sends q and reads the reply into dst, unless dst is nil.
func (c *Client) json(ctx context.Context, q *request, dst any) error {
	repeated := false
	return c.try(ctx, q, func() error {
		resp, err := c.once(ctx, q)
		// Gone is gone: the answer that says who did it was lost.
		if q.method == http.MethodDelete && repeated && Status(err) == http.StatusNotFound {
			return nil
		}
		repeated = true
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply+1))
		if err != nil {
			return c.network(ctx, q, err)
		}
		if dst == nil {
			return nil
		}
		if len(b) > maxReply {
			return fault.Errorf(fault.Unavailable, "client: %s: the reply has more than %d bytes", q, maxReply)
		}
		if err := json.Unmarshal(b, dst); err != nil {
			return fault.Errorf(fault.Config, "client: %s: %s did not answer as a DistCI server does: %w", q, c.where, err)
		}
		return nil
	})
}

// open sends q and returns the reply, whose body is the caller's to close.
func (c *Client) open(ctx context.Context, q *request) (resp *http.Response, err error) {
	err = c.try(ctx, q, func() error {
		resp, err = c.once(ctx, q)
		return err
	})
	return resp, err
}

// once sends q. The reply is a success.
func (c *Client) once(ctx context.Context, q *request) (*http.Response, error) {
	for _, p := range q.path {
		// They would make another path, and so another request.
		if p == "" || p == "." || p == ".." {
			return nil, fault.Errorf(fault.BadTicket, "client: %s: %q is not an identifier", q, p)
		}
	}
	u := c.base.JoinPath(escape(q.path)...)
	u.RawQuery = q.query.Encode()
	var body io.Reader
	if q.stream != nil {
		lent := &loan{r: q.stream}
		defer lent.end()
		body = lent
	} else if q.body != nil {
		body = bytes.NewReader(q.body)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), body)
	if err != nil {
		return nil, fault.Errorf(fault.Internal, "client: %s: %w", q, err)
	}
	if q.stream != nil {
		req.ContentLength = q.size
		if q.size == 0 {
			req.Body = http.NoBody // 0 with a body would mean "not known"
		}
	}
	req.Header.Set("User-Agent", c.name)
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for k, v := range q.header {
		req.Header.Set(k, v)
	}
	h := c.http
	if q.slow {
		h = c.slow
	}
	resp, err := h.Do(req)
	if err != nil {
		return nil, c.network(ctx, q, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		return resp, nil
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxError))
	e := &Error{Status: resp.StatusCode, Message: message(resp, b), after: retryAfter(resp.Header)}
	return nil, fault.Errorf(e.kind(), "client: %s: %w", q, e)
}

// network makes the error of a request that was not answered, or not wholly.
func (c *Client) network(ctx context.Context, q *request, err error) error {
	var ue *url.Error
	if errors.As(err, &ue) { // it would repeat the request
		err = ue.Err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("client: %s: %w", q, ctx.Err())
	}
	kind := fault.Temporary
	var cert *tls.CertificateVerificationError
	if errors.As(err, &cert) {
		kind = fault.Config
	}
	return fault.Errorf(kind, "client: %s: %s: %w", q, c.where, err)
}

func escape(parts []string) []string {
	out := make([]string, len(parts))
	for i, p := range parts {
		out[i] = url.PathEscape(p)
	}
	return out
}

// message is what an error's reply says to people, in one line without
// anything that could disturb a terminal.
func message(resp *http.Response, body []byte) string {
	var s string
	if strings.HasSuffix(resp.Header.Get("Content-Type"), "json") {
		var problem struct{ Title, Detail, Error string }
		_ = json.Unmarshal(body, &problem) // what cannot be read says nothing
		for _, s = range []string{problem.Detail, problem.Error, problem.Title} {
			if s != "" {
				break
			}
		}
	} else if to := resp.Header.Get("Location"); to != "" {
		s = "the server is at " + to
	} else {
		s = string(body)
	}
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 500 {
		s = string(r[:500]) + "…"
	}
	return s
}

// retryAfter reads the header in both its forms; 0 if it is not there.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if s, err := strconv.Atoi(v); err == nil && s > 0 {
		return time.Duration(min(s, 1<<20)) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}

// loan is a reader that is the transport's until end returns: it may still be
// reading when an early answer is there.
type loan struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *loan) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.r == nil {
		return 0, io.ErrClosedPipe
	}
	return l.r.Read(p)
}

func (l *loan) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.r = nil
}
