// Package api serves the REST interface over the shared repository. It keeps
// no state of its own.
//
// The interface is that of the 2013 original, whose clients and workers work
// against it unchanged, and more; see distci-frontend(8).
package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/workspace"
)

// Bounds of request bodies, in bytes.
const (
	maxDocument = 1 << 20  // configurations, tickets, records
	maxConsole  = 16 << 20 // one piece of a log
	maxUpload   = 16 << 30 // artefacts and workspaces, unless Options says otherwise
)

// Options of New.
type Options struct {
	Layers    *workspace.Layers // for workspaces; nil: they are refused
	MaxUpload int64             // bytes of an artefact or a workspace; 0: 16 GiB
	Log       *slog.Logger      // for requests; nil: none
}

// server is the handler.
type server struct {
	Options
	repo *repo.Repo
}

// New returns the handler of the whole interface.
func New(r *repo.Repo, o Options) http.Handler {
	if o.MaxUpload == 0 {
		o.MaxUpload = maxUpload
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &server{o, r}
	return http.HandlerFunc(s.serve)
}

// Errors of requests that are wrong in themselves.
var (
	errMethod   = fault.Errorf(fault.Usage, "no such path, or not with this method")
	errID       = fault.Errorf(fault.Usage, "not a valid identifier")
	errTooLarge = errors.New("the body is too large")
	errNotFound = fault.Errorf(fault.Unavailable, "not found")
)

// exchange is one request with its reply.
type exchange struct {
	http.ResponseWriter
	*http.Request
	status int
	bytes  int64
}

func (x *exchange) WriteHeader(status int) {
	if x.status == 0 {
		x.status = status
	}
	x.ResponseWriter.WriteHeader(status)
}

func (x *exchange) Write(p []byte) (int, error) {
	if x.status == 0 {
		x.status = http.StatusOK
	}
	n, err := x.ResponseWriter.Write(p)
	x.bytes += int64(n)
	return n, err
}

// Unwrap is for http.ResponseController.
func (x *exchange) Unwrap() http.ResponseWriter { return x.ResponseWriter }

// serve answers one request, logs it, and turns errors into replies.
func (s *server) serve(w http.ResponseWriter, r *http.Request) {
	from := time.Now()
	id := uuid.NewString()
	x := &exchange{ResponseWriter: w, Request: r}
	w.Header().Set("X-Request-Id", id)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	err := s.route(x)
	if err != nil {
		x.fail(err)
	}
	log := s.Log.Info
	if r.Method == http.MethodGet {
		log = s.Log.Debug // what changes nothing, and is asked all the time
	}
	args := []any{"method", r.Method, "path", r.URL.Path, "status", x.status, "bytes", x.bytes,
		"took", time.Since(from).Round(100 * time.Microsecond), "request", id}
	if x.status >= 500 && err != nil {
		log, args = s.Log.Error, append(args, "error", err)
	}
	log("request", args...)
}

// route finds who answers.
func (s *server) route(x *exchange) error {
	path := strings.Trim(x.URL.Path, "/")
	parts := strings.Split(path, "/")
	switch {
	case path == "":
		if x.Method != http.MethodGet {
			return errMethod
		}
		return x.empty()
	case parts[0] == "jobs":
		return s.jobs(x, parts[1:])
	case parts[0] == "tasks":
		return s.tasks(x, parts[1:])
	case path == "healthz" && x.Method == http.MethodGet:
		return x.reply(http.StatusOK, map[string]string{"status": "ok"})
	case path == "schema/job.json" && x.Method == http.MethodGet:
		return x.schema()
	}
	return errNotFound
}

func (x *exchange) schema() error {
	x.Header().Set("Content-Type", "application/schema+json")
	_, err := x.Write(job.Schema())
	return ignoreBroken(err)
}

// Header is the reply's.
func (x *exchange) Header() http.Header { return x.ResponseWriter.Header() }

// reply sends v as JSON.
func (x *exchange) reply(status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	x.Header().Set("Content-Type", "application/json")
	x.Header().Set("Content-Length", strconv.Itoa(len(b)))
	x.WriteHeader(status)
	_, err = x.Write(b)
	return ignoreBroken(err)
}

func (x *exchange) empty() error {
	x.WriteHeader(http.StatusNoContent)
	return nil
}

// ignoreBroken: that the client has gone away is nobody's error.
func ignoreBroken(error) error { return nil }

// fail replies with an error, unless the reply has begun: then the connection
// is cut, so that the client does not take a part for the whole.
func (x *exchange) fail(err error) {
	if x.status != 0 {
		panic(http.ErrAbortHandler)
	}
	status := statusOf(err)
	text := err.Error()
	switch status {
	case http.StatusInternalServerError:
		text = "internal error; the log knows more under the request's id"
	case http.StatusServiceUnavailable:
		x.Header().Set("Retry-After", "1")
		text = "not available at the moment"
	}
	x.Header().Set("Content-Type", "text/plain; charset=utf-8")
	x.WriteHeader(status)
	fmt.Fprintln(x, text)
}

// statusOf is the only place that knows what reply an error gets.
func statusOf(err error) int {
	switch {
	case errors.Is(err, queue.ErrLost):
		return http.StatusConflict
	case errors.Is(err, errTooLarge), errors.Is(err, workspace.ErrLimit):
		return http.StatusRequestEntityTooLarge
	case errors.Is(err, coord.ErrUnknown), errors.Is(err, coord.ErrExpired):
		return http.StatusServiceUnavailable
	}
	switch fault.Of(err) {
	case fault.Unavailable:
		return http.StatusNotFound
	case fault.BadTicket, fault.Config, fault.Usage:
		return http.StatusBadRequest
	case fault.Denied:
		return http.StatusForbidden
	case fault.Temporary, fault.Interrupted:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// body reads a document.
func (x *exchange) body(limit int64) ([]byte, error) {
	b, err := io.ReadAll(x.stream(limit))
	return b, bodyError(err)
}

// stream is the body, bounded.
func (x *exchange) stream(limit int64) io.Reader {
	return http.MaxBytesReader(x.ResponseWriter, x.Body, limit)
}

func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return fmt.Errorf("%w: at most %d bytes are taken", errTooLarge, tooLarge.Limit)
	}
	return fault.Wrap(fault.Usage, err)
}

// number reads a build number of at most 16 digits.
func number(s string) (ticket.Number, error) {
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil || len(s) > 16 {
		return 0, errID
	}
	return ticket.Number(n), nil
}

// limit reads a query parameter that is a count.
func (x *exchange) count(name string) (int, error) {
	v := x.URL.Query().Get(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > 10000 {
		return 0, fault.Errorf(fault.Usage, "%s=%q: expected a number from 1 to 10000", name, v)
	}
	return n, nil
}

// Scoped returns the part of h that a step of one build may use: it reads jobs
// and builds, and writes what belongs to its own build.
func Scoped(h http.Handler, job string, n ticket.Number) http.Handler {
	own := fmt.Sprintf("/jobs/%s/builds/%d/", job, n)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ours := strings.CutPrefix(r.URL.Path, own)
		writes := ours && (r.Method == http.MethodPost || r.Method == http.MethodPut) &&
			(rest == "artifacts" || strings.HasPrefix(rest, "artifacts/") || rest == "console")
		if reads := r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/jobs/"); !reads && !writes {
			http.Error(w, "a step may only read jobs and write artifacts of its own build", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}
