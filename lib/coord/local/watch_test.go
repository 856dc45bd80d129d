package local

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
)

func waitNews(t *testing.T, w coord.Watch) {
	t.Helper()
	select {
	case <-w.C():
	case <-time.After(time.Minute):
		t.Fatal("no news")
	}
}

// TestPoke has news of another connection without ever looking by itself.
func TestPoke(t *testing.T) {
	path := filepath.Join(t.TempDir(), "coord.db")
	c, err := openSpec(t.Context(), path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.(*conn).watcher.poll = time.Hour // before there is a watch: nobody reads it
	other, err := openSpec(t.Context(), path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	for _, op := range []coord.Op{coord.Create("/a", nil), coord.Set("/a", nil, 0), coord.Delete("/a", 1)} {
		w, err := c.WatchNode(t.Context(), "/a")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Txn(t.Context(), op); err != nil {
			t.Fatal(err)
		}
		waitNews(t, w)
	}
}

// TestLostPoke changes a node as a process would that was killed before it
// could tell anybody.
func TestLostPoke(t *testing.T) {
	path := filepath.Join(t.TempDir(), "coord.db")
	c, err := openSpec(t.Context(), path, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.(*conn).watcher.poll = 10 * time.Millisecond
	w, err := c.WatchNode(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	edit(t, path, `update meta set zxid=zxid+1; update node set mzxid=(select zxid from meta)`)
	waitNews(t, w)
}

// TestNoInotify polls where the system gives no inotify.
func TestNoInotify(t *testing.T) {
	var n notifier
	defer n.off()
	if err := n.on(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Fatal("a file that is not there is watched")
	}
	if n.events != nil {
		t.Error("a failed notifier tells of events")
	}
}

// TestWatchesFreed asserts that a watch is forgotten when it is over.
func TestWatchesFreed(t *testing.T) {
	c, ctx := open(t), context.Background()
	w, err := c.WatchNode(ctx, "/a")
	if err != nil {
		t.Fatal(err)
	}
	stopped, err := c.WatchNode(ctx, "/b")
	if err != nil {
		t.Fatal(err)
	}
	stopped.Stop()
	if _, err := c.Txn(ctx, coord.Create("/a", nil)); err != nil {
		t.Fatal(err)
	}
	waitNews(t, w)
	x := c.(*conn).watcher
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.watches) != 0 || x.active.Load() {
		t.Errorf("%d watches remain", len(x.watches))
	}
}
