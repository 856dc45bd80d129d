package api

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/distci/distci/lib/access"
)

// requestID is what a proxy before us may say.
var requestID = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// observe gives each request its id and the log a line for each, and turns a
// panic into a reply.
func observe(log *slog.Logger, meter Meter, patience time.Duration, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun := time.Now()
		meter.Begun()
		rec := &recorder{ResponseWriter: w, route: noRoute, patience: patience, id: r.Header.Get("X-Request-Id")}
		if len(rec.id) > 64 || !requestID.MatchString(rec.id) {
			rec.id = uuid.NewString()
		}
		header := w.Header()
		header.Set("X-Request-Id", rec.id)
		// Nothing that we serve here is for a browser to run.
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
		defer func() {
			p := recover()
			if p != nil && p != http.ErrAbortHandler {
				rec.err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
				if rec.code == 0 {
					http.Error(rec, "an error inside the server (request "+rec.id+")", http.StatusInternalServerError)
					p = nil
				}
			}
			// For what is still to be flushed, and for what the client sends of a
			// body that nobody wants.
			rec.deadline()
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(patience)) // none is no harm
			took := time.Since(begun)
			rec.log(log, r, took)
			meter.Ended(rec.route, r.Method, rec.status(), took)
			if p != nil {
				panic(http.ErrAbortHandler)
			}
		}()
		h.ServeHTTP(rec, r)
	})
}

// recorder remembers what was replied.
type recorder struct {
	http.ResponseWriter
	id    string
	route string // its pattern, or noRoute
	code  int    // 0: nothing yet
	bytes int64
	sent  *atomic.Int64 // counts them, too; may be nil
	err   error         // for the log
	who   string        // for the log; "": nobody has asked
	from  string        // address, for the log

	patience time.Duration

	still func() error // nil if the client may still be told; itself nil: he may
	asked time.Time
}

// recheck makes a long reply end when still fails.
func (r *recorder) recheck(still func() error) { r.still, r.asked = still, time.Now() }

// recorderOf finds the recorder that observe has made.
func recorderOf(w http.ResponseWriter) *recorder {
	for {
		if rec, ok := w.(*recorder); ok {
			return rec
		}
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return &recorder{ResponseWriter: w}
		}
		w = u.Unwrap()
	}
}

// Unwrap is for [http.ResponseController].
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 && code >= 200 {
		r.code = code
	}
	r.ResponseWriter.WriteHeader(code)
}

func (r *recorder) Write(p []byte) (int, error) {
	if r.code == 0 {
		r.code = http.StatusOK
	}
	if r.still != nil && time.Since(r.asked) >= access.TokenAge {
		if err := r.still(); err != nil {
			r.err = err
			return 0, err
		}
		r.asked = time.Now()
	}
	r.deadline()
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	if r.sent != nil {
		r.sent.Add(int64(n))
	}
	return n, err
}

// deadline gives each piece of a reply its time: a log may be followed for
// days, but not by a client that does not read.
func (r *recorder) deadline() {
	err := http.NewResponseController(r.ResponseWriter).SetWriteDeadline(time.Now().Add(r.patience))
	if err != nil && !errors.Is(err, http.ErrNotSupported) && r.err == nil {
		r.err = err
	}
}

// status is what the client has got.
func (r *recorder) status() int {
	if r.code == 0 {
		return http.StatusOK
	}
	return r.code
}

func (r *recorder) log(log *slog.Logger, req *http.Request, took time.Duration) {
	level := slog.LevelInfo
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		level = slog.LevelDebug // what changes nothing, and is asked all the time
	}
	code := r.status()
	attrs := []slog.Attr{
		slog.String("method", req.Method), slog.String("path", req.URL.EscapedPath()), slog.Int("status", code),
		slog.Int64("bytes", r.bytes), slog.Duration("duration", took.Round(time.Microsecond)), slog.String("id", r.id),
	}
	if r.who != "" {
		attrs = append(attrs, slog.String("who", r.who), slog.String("from", r.from))
	}
	if r.err != nil {
		attrs = append(attrs, slog.String("error", r.err.Error()))
	}
	if code >= 500 {
		level = slog.LevelError
	}
	log.LogAttrs(req.Context(), level, "request", attrs...)
}
