package api

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"
)

// heartbeat is how often a stream of events says something, so that neither a
// proxy nor a client takes a silent one for dead.
const heartbeat = 15 * time.Second

// wantsEvents tells whether the client asks for server-sent events.
func (c *call) wantsEvents() bool {
	return strings.Contains(c.r.Header.Get("Accept"), "text/event-stream")
}

// stream sends events as the WHATWG's HTML standard has them ("Server-sent
// events"), until it is stopped.
type stream struct {
	c    *call
	mu   sync.Mutex
	err  error
	stop func()
}

// events sends what follow makes of a stream. When the server ends, the reply
// does, too: a client goes on where it was with whoever answers then. So it does
// after an error, which breaks the reply off.
func (c *call) events(follow func(ctx context.Context, s *stream) error) error {
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no") // nginx
	if c.r.Method == http.MethodHead {
		c.w.WriteHeader(http.StatusOK)
		return nil
	}
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	stop := c.untilDone(cancel)
	defer stop()
	c.Meter.Following(1)
	defer c.Meter.Following(-1)
	c.w.WriteHeader(http.StatusOK)
	s := &stream{c: c, stop: cancel}
	if err := s.send("retry: 1000\n\n"); err != nil {
		return err
	}
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		s.beat(ctx)
	}()
	err := follow(ctx, s)
	cancel()
	<-beats
	if s.err != nil {
		return s.err
	}
	if errors.Is(err, context.Canceled) && c.r.Context().Err() == nil {
		return nil
	}
	return err
}

// beat sends a comment now and then.
func (s *stream) beat(ctx context.Context) {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s.send(":\n\n") != nil {
			return
		}
	}
}

// event sends one event; id, which may be empty, is what the client says when it
// comes again. The data is JSON, which has no newlines.
func (s *stream) event(name, id string, data any) error {
	b, ok := data.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(data); err != nil {
			return err
		}
	}
	var e strings.Builder
	e.WriteString("event: " + name + "\n")
	if id != "" {
		e.WriteString("id: " + id + "\n")
	}
	e.WriteString("data: ")
	e.Write(b)
	e.WriteString("\n\n")
	return s.send(e.String())
}

func (s *stream) send(text string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	_, err := s.c.w.Write([]byte(text))
	if err == nil {
		err = http.NewResponseController(s.c.w).Flush()
	}
	if err != nil {
		s.err = gone(err)
		s.stop() // who waits for news need not any more
	}
	return s.err
}
