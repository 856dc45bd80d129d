package api

import (
	"context"
	_ "embed"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/distci/distci/lib/store"
)

// readiness is whether the services that we need answer, as it was a moment
// ago: whoever asks often asks us, not them.
type readiness struct {
	mu   sync.Mutex
	at   time.Time
	fail string // what does not; "": all do
}

const (
	readyKept = time.Second
	readyWait = 3 * time.Second // a service that takes longer does not answer
)

// ready tells whether requests can be served. A balancer sends them elsewhere
// while it is not.
func (c *call) ready() error {
	select {
	case <-c.Done:
		return status(http.StatusServiceUnavailable, "the server is about to end")
	default:
	}
	if fail := c.readiness.look(c.r.Context(), c.server); fail != "" {
		return status(http.StatusServiceUnavailable, fail)
	}
	return c.json(http.StatusOK, map[string]string{"status": "ok"})
}

func (r *readiness) look(ctx context.Context, s *server) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Since(r.at) < readyKept {
		return r.fail
	}
	// For all who wait, of whom this one may go.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readyWait)
	defer cancel()
	r.fail = ""
	if !s.repo.Reachable() {
		r.fail = "the coordination service does not answer"
	} else if _, err := s.repo.LastNumber(ctx, "-"); err != nil {
		r.fail = "the coordination service does not answer"
	}
	if _, err := s.repo.Store().Stat(ctx, "jobs/-/-"); err != nil && !errors.Is(err, store.ErrNotFound) {
		r.fail = "the store does not answer"
	}
	r.at = time.Now()
	return r.fail
}

//go:embed openapi.yaml
var openapi []byte

// OpenAPI is the description of the interface, in OpenAPI 3.
func OpenAPI() []byte { return openapi }

func (c *call) description() error {
	h := c.w.Header()
	h.Set("Content-Type", "application/yaml")
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Length", strconv.Itoa(len(openapi)))
	_, err := c.w.Write(openapi)
	return gone(err)
}
