package dir

import (
	"context"
	"errors"
	"testing"

	"github.com/distci/distci/lib/store"
)

// TestWatch: what another process does to an object is told to whoever watches
// it, and nothing else is; a watch ends with its context and with the store.
func TestWatch(t *testing.T) {
	path := t.TempDir()
	s, other := openT(t, path), openT(t, path)
	if _, err := s.Watch(t.Context(), "log/a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no folder: %v", err)
	}
	if _, err := s.Watch(t.Context(), "../a"); !errors.Is(err, store.ErrBadKey) {
		t.Errorf("no key: %v", err)
	}
	put(t, other, "log/a", "x")
	ctx, cancel := context.WithCancel(t.Context())
	a, err := s.Watch(ctx, "log/a")
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Watch(t.Context(), "log/a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Watch(t.Context(), "log/b") // not there yet
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Append(t.Context(), "log/a", 1, []byte("y")); err != nil {
		t.Fatal(err)
	}
	<-a
	<-again
	select {
	case <-b:
		t.Error("told of another object")
	default:
	}
	if err := other.Append(t.Context(), "log/b", 0, []byte("new")); err != nil {
		t.Fatal(err)
	}
	<-b
	cancel()
	for range a { // until it is closed
	}
	put(t, other, "log/a", "z")
	<-again
	s.Close()
	for range again {
	}
	for range b {
	}
	if _, err := s.Watch(t.Context(), "log/a"); err == nil {
		t.Error("a closed store watches")
	}
}
