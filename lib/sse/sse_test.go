package sse

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"
)

// TestHeartbeat: a stream without news says something now and then, between
// the events.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := httptest.NewRecorder()
		err := Serve(t.Context(), w, httptest.NewRequest("GET", "/", nil), func(_ context.Context, s *Stream) error {
			time.Sleep(2*heartbeat + time.Second)
			return s.Send("data: news\n\n")
		})
		if got := w.Body.String(); err != nil || got != "retry: 1000\n\n:\n\n:\n\ndata: news\n\n" {
			t.Errorf("%q, %v", got, err)
		}
		if got := w.Header().Get("Content-Type"); got != "text/event-stream" {
			t.Errorf("the type is %q", got)
		}
		if got := w.Header().Get("Cache-Control"); got != "no-store, no-transform" { // logs are not everybody's
			t.Errorf("caches are told %q", got)
		}
	})
}

// TestGone: whoever waits for news of a client that has gone is told at the
// next heartbeat, and nothing more is sent.
func TestGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &broken{ResponseRecorder: httptest.NewRecorder()}
		start := time.Now()
		err := Serve(t.Context(), w, httptest.NewRequest("GET", "/", nil), func(ctx context.Context, s *Stream) error {
			w.err = errors.New("broken pipe")
			<-ctx.Done()
			if err := s.Send("data: news\n\n"); !errors.Is(err, ErrGone) {
				t.Errorf("sending after that: %v", err)
			}
			return ctx.Err()
		})
		if !errors.Is(err, ErrGone) || !errors.Is(err, w.err) || time.Since(start) != heartbeat {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if got := w.Body.String(); got != "retry: 1000\n\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestEnd: an error of follow's is the stream's, and a request for the head
// alone follows nothing.
func TestEnd(t *testing.T) {
	want := errors.New("lost")
	follow := func(context.Context, *Stream) error { return want }
	if err := Serve(t.Context(), httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), follow); err != want {
		t.Errorf("got %v", err)
	}
	w := httptest.NewRecorder()
	if err := Serve(t.Context(), w, httptest.NewRequest("HEAD", "/", nil), follow); err != nil || w.Body.Len() > 0 {
		t.Errorf("the head: %v, %q", err, w.Body)
	}
}

// broken is a client's end once it has an error.
type broken struct {
	*httptest.ResponseRecorder
	err error
}

var _ http.ResponseWriter = (*broken)(nil)

func (b *broken) Write(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	return b.ResponseRecorder.Write(p)
}
