// Package sse sends server-sent events, as the WHATWG's HTML standard has them.
package sse

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"
)

// heartbeat is how often a stream of events says something, so that neither a
// proxy nor a client takes a silent one for dead.
const heartbeat = 15 * time.Second

// ErrGone: the client has broken off.
var ErrGone = errors.New("the client has gone")

// Stream is a reply that consists of events.
type Stream struct {
	w    http.ResponseWriter
	mu   sync.Mutex
	err  error
	stop func()
}

// Serve sends what follow makes of a stream. The context that follow gets is
// done when the client has gone, too; the error is ErrGone then, and else
// follow's. Of a request for the head alone follow is not called.
func Serve(ctx context.Context, w http.ResponseWriter, r *http.Request, follow func(context.Context, *Stream) error) error {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store, no-transform")
	h.Set("X-Accel-Buffering", "no") // nginx
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &Stream{w: w, stop: cancel}
	if err := s.Send("retry: 1000\n\n"); err != nil {
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
	return err
}

// beat sends a comment now and then.
func (s *Stream) beat(ctx context.Context) {
	ticker := time.NewTicker(heartbeat)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if s.Send(":\n\n") != nil {
			return
		}
	}
}

// Send sends whole events at once. After an error, which is ErrGone, nothing
// more is sent.
func (s *Stream) Send(events string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	_, err := s.w.Write([]byte(events))
	if err == nil {
		err = http.NewResponseController(s.w).Flush()
	}
	if err != nil {
		s.err = errors.Join(ErrGone, err)
		s.stop() // who waits for news need not any more
	}
	return s.err
}
