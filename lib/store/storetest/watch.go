package storetest

import (
	"context"
	"errors"
	"testing"

	"github.com/distci/distci/lib/store"
)

// testWatch: what anybody does to an object is told to all who watch it, and a
// watch ends with its context and with the store. A watch that the store has
// ended is begun again, as its users do.
func testWatch(t *testing.T, b *bench) {
	s, other := b.store(t), b.store(t)
	w, ok := s.Store.(store.Watcher)
	if !ok {
		t.Skip("this store tells of no changes")
	}
	if _, err := w.Watch(t.Context(), "../k"); !errors.Is(err, store.ErrBadKey) {
		t.Errorf("watch of no key: %v", err)
	}
	s.put("a/k", "")
	watch := func(ctx context.Context, key string) <-chan struct{} {
		t.Helper()
		c, err := w.Watch(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	ctx, cancel := context.WithCancel(t.Context())
	one, two, absent := watch(ctx, "a/k"), watch(t.Context(), "a/k"), watch(t.Context(), "a/new")
	size := int64(0)
	for range 20 {
		other.append("a/k", size, "line\n")
		size += 5
		<-one
		<-two
		s.append("a/k", size, "own\n") // what one does oneself, too
		size += 4
		<-one
		<-two
	}
	other.append("a/new", 0, "x")
	<-absent
	for name, change := range map[string]func(){
		"put":    func() { other.put("a/k", "put") },
		"swap":   func() { _, _ = other.Swap(t.Context(), "a/k", other.stat("a/k").Version, uniform('x', 10)) },
		"delete": func() { _ = other.Delete(t.Context(), "a/k") },
	} {
		if name != "put" {
			other.put("a/k", "x")
			<-one
			<-two
		}
		change()
		<-one
		<-two
	}
	cancel()
	for range one { // until it is closed
	}
	other.put("a/k", "again")
	<-two
	s.Close()
	for range two {
	}
	for range absent {
	}
	if _, err := w.Watch(t.Context(), "a/k"); err == nil {
		t.Error("a closed store watches")
	}
}

// testWatchProcess: a process is told of what another one appends.
func testWatchProcess(t *testing.T, b *bench) {
	s := b.store(t)
	w, ok := s.Store.(store.Watcher)
	if !ok {
		t.Skip("this store tells of no changes")
	}
	s.append("deep/er/log", 0, "")
	told, err := w.Watch(t.Context(), "deep/er/log")
	if err != nil {
		t.Fatal(err)
	}
	cmd, _ := b.start(t, "append", "w")
	for range 10 {
		if _, open := <-told; !open {
			t.Fatal("the watch has ended")
		}
	}
	if s.size("deep/er/log") <= 0 {
		t.Error("told of nothing")
	}
	cmd.Process.Kill()
	cmd.Wait()
}
