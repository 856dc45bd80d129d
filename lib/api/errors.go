package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/workspace"
)

// statusError is an error with its own status.
type statusError struct {
	code int
	text string // for the client
	err  error  // for the log; may be nil
}

func (e *statusError) Error() string {
	if e.err != nil {
		return e.text + ": " + e.err.Error()
	}
	return e.text
}
func (e *statusError) Unwrap() error { return e.err }

func status(code int, text string) error { return &statusError{code: code, text: text} }

// errGone: the client has broken off. Nothing can be told to it.
var errGone = errors.New("the client has gone")

// gone is the error of a write to the client.
func gone(err error) error {
	if err == nil {
		return nil
	}
	return errors.Join(errGone, err)
}

// answer decides what a client is told of an error. What could show how things
// are inside is for the log alone. A file or a service that fails has no kind
// of fault, and so is Internal.
func answer(err error) (code int, text string) {
	var se *statusError
	var often *busy
	switch {
	case errors.As(err, &often):
		return http.StatusTooManyRequests, err.Error()
	case errors.As(err, &se):
		return se.code, se.text
	case errors.Is(err, access.ErrUnauthenticated):
		return http.StatusUnauthorized, err.Error()
	case errors.Is(err, queue.ErrLost):
		return http.StatusConflict, err.Error()
	case errors.Is(err, repo.ErrKeyReused):
		return http.StatusUnprocessableEntity, err.Error()
	case errors.Is(err, repo.ErrNotFinished):
		return http.StatusConflict, err.Error()
	case errors.Is(err, workspace.ErrLimit):
		return http.StatusRequestEntityTooLarge, err.Error()
	case errors.Is(err, store.ErrFull):
		return http.StatusInsufficientStorage, "no space left in the store"
	case errors.Is(err, repo.ErrDamaged): // what it says helps whoever has published it
		return http.StatusInternalServerError, err.Error()
	case errors.Is(err, coord.ErrUnknown), errors.Is(err, coord.ErrExpired), errors.Is(err, store.ErrUnknown):
		return http.StatusServiceUnavailable, "the outcome is not known; look, and try again"
	}
	switch fault.Of(err) {
	case fault.Unavailable:
		return http.StatusNotFound, err.Error()
	case fault.BadTicket, fault.Config, fault.Usage:
		return http.StatusBadRequest, err.Error()
	case fault.Denied:
		return http.StatusForbidden, err.Error()
	case fault.Temporary, fault.Interrupted:
		return http.StatusServiceUnavailable, "this does not work at the moment; try again"
	}
	return http.StatusInternalServerError, "an error inside the server"
}

// fail replies with an error, unless the reply has begun, which then breaks
// off, so that nobody takes it for whole. Nil is no error.
func (c *call) fail(err error) {
	if err == nil {
		return
	}
	rec := recorderOf(c.w)
	rec.err = err
	if c.r.Context().Err() != nil && errors.Is(err, context.Canceled) || errors.Is(err, errGone) || rec.code != 0 {
		panic(http.ErrAbortHandler)
	}
	code, text := answer(err)
	h := c.w.Header()
	for _, name := range []string{"Content-Length", "Content-Disposition", "Etag", "Last-Modified", "Accept-Ranges", "Repr-Digest"} {
		h.Del(name)
	}
	var often *busy
	if errors.As(err, &often) {
		h.Set("Retry-After", strconv.Itoa(often.seconds()))
	} else if code == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	if code == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", c.challenge())
	}
	if code >= 500 {
		text += " (request " + rec.id + ")"
	}
	if c.isPage() {
		c.Pages.Fail(c.w, c.r, code, text)
		return
	}
	typ, body := "text/plain; charset=utf-8", []byte(text+"\n")
	if c.problem {
		typ, body = "application/problem+json", problemOf(code, text)
	}
	h.Set("Content-Type", typ)
	c.w.WriteHeader(code)
	_, _ = c.w.Write(body) // a client that has gone needs no answer
}

// problemOf is an error as a "problem details" object of RFC 9457.
func problemOf(code int, text string) []byte {
	b, _ := json.Marshal(struct { // plain strings
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(code), code, text})
	return append(b, '\n')
}
