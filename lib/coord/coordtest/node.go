package coordtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/test/lab"
)

func testNodes(t *testing.T, s *service) {
	c, other := s.open(long), s.open(long)
	if !c.exists("/") {
		t.Error("there is no root")
	}
	if got := c.children("/"); len(got) != 0 {
		t.Fatalf("a fresh service has %q", got)
	}
	c.do(coord.Create("/a", []byte("one")))
	if data, stat := c.get("/a"); data != "one" || stat.Version != 0 {
		t.Errorf("after create: %q, version %d", data, stat.Version)
	}
	c.do(coord.Set("/a", []byte("two"), 0))
	c.do(coord.Set("/a", []byte("three"), coord.AnyVersion))
	if data, stat := c.get("/a"); data != "three" || stat.Version != 2 {
		t.Errorf("after two sets: %q, version %d", data, stat.Version)
	}
	lab.Until(t, "another connection to see it", func() bool { return other.exists("/a") })

	c.refused(0, coord.ErrNodeExists, coord.Create("/a", nil))
	c.refused(0, coord.ErrNodeExists, coord.Create("/", nil))
	c.refused(0, coord.ErrNoNode, coord.Create("/none/b", nil))
	c.refused(0, coord.ErrNoNode, coord.CreateEphemeral("/none/b", nil))
	for _, v := range []int32{0, 1, 3} {
		c.refused(0, coord.ErrBadVersion, coord.Set("/a", nil, v))
		c.refused(0, coord.ErrBadVersion, coord.Delete("/a", v))
		c.refused(0, coord.ErrBadVersion, coord.Check("/a", v))
	}
	for _, v := range []int32{0, coord.AnyVersion} {
		c.refused(0, coord.ErrNoNode, coord.Set("/none", nil, v))
		c.refused(0, coord.ErrNoNode, coord.Delete("/none", v))
		c.refused(0, coord.ErrNoNode, coord.Check("/none", v))
	}
	c.do(coord.Check("/a", 2), coord.Check("/a", coord.AnyVersion))

	c.do(coord.Create("/a/b", nil))
	c.refused(0, coord.ErrNotEmpty, coord.Delete("/a", coord.AnyVersion))
	c.do(coord.Delete("/a/b", 0))
	c.do(coord.Delete("/a", 2))
	if c.exists("/a") {
		t.Error("a deleted node is there")
	}
	if _, err := c.Children(context.Background(), "/a"); !errors.Is(err, coord.ErrNoNode) {
		t.Errorf("children of a deleted node: %v", err)
	}
	c.do(coord.Create("/a", nil))
	if data, stat := c.get("/a"); data != "" || stat.Version != 0 {
		t.Errorf("created again: %q, version %d", data, stat.Version)
	}
}

func testPaths(t *testing.T, s *service) {
	c, ctx := s.open(long), context.Background()
	for _, p := range []string{"", "a", "a/b", "//", "/a/", "/a//b", "/.", "/..", "/a/../b", "/a\nb", "/\x00"} {
		c.refused(0, coord.ErrBadPath, coord.Create(p, nil))
		c.refused(1, coord.ErrBadPath, coord.Check("/", coord.AnyVersion), coord.Set(p, nil, 0))
		if _, _, err := c.Get(ctx, p); !errors.Is(err, coord.ErrBadPath) {
			t.Errorf("get %q: %v", p, err)
		}
		if _, err := c.Children(ctx, p); !errors.Is(err, coord.ErrBadPath) {
			t.Errorf("children of %q: %v", p, err)
		}
		if _, err := c.WatchNode(ctx, p); !errors.Is(err, coord.ErrBadPath) {
			t.Errorf("watch %q: %v", p, err)
		}
		if _, err := c.WatchChildren(ctx, p); !errors.Is(err, coord.ErrBadPath) {
			t.Errorf("watch children of %q: %v", p, err)
		}
	}
	for _, p := range []string{"/...", "/a b", "/%20", "/ä€😀", "/a'b\"c", "/_%", "/-"} {
		c.do(coord.Create(p, []byte(p)))
		if data, _ := c.get(p); data != p {
			t.Errorf("%q holds %q", p, data)
		}
	}
	if _, err := c.Txn(ctx, coord.Delete("/", coord.AnyVersion)); err == nil {
		t.Error("the root was deleted")
	}
}

func testSize(t *testing.T, s *service) {
	c := s.open(long)
	full := bytes.Repeat([]byte{0, 0xff, 'x', '\n'}, coord.MaxData/4)
	c.do(coord.Create("/a", full))
	if data, _ := c.get("/a"); data != string(full) {
		t.Errorf("%d bytes came back as %d others", len(full), len(data))
	}
	c.refused(0, coord.ErrTooLarge, coord.Create("/b", append(full, 0)))
	c.refused(1, coord.ErrTooLarge, coord.Create("/b", full[1:]), coord.Create("/c", full[:2]))
	if c.exists("/b") {
		t.Error("half of a transaction that is too large was done")
	}
	c.do(coord.Create("/b", full[1:]), coord.Create("/c", full[:1]))
}

func testTxn(t *testing.T, s *service) {
	c := s.open(long)
	stats := c.do(
		coord.Create("/a", []byte("0")),
		coord.Create("/a/b", nil),
		coord.Set("/a", []byte("1"), 0),
		coord.Check("/a", 1),
		coord.Delete("/a/b", 0),
		coord.Create("/a/c", nil),
	)
	if _, stat := c.get("/a"); stat.Version != 1 || stats[2].Version != 1 || stats[0].Version != 0 {
		t.Errorf("created and set at once: version %d; stats say %d, then %d", stat.Version, stats[0].Version, stats[2].Version)
	}
	if got := c.children("/a"); !slices.Equal(got, []string{"c"}) {
		t.Errorf("children: %q", got)
	}
	c.do(coord.Create("/full", nil), coord.Create("/full/x", nil))
	// Whatever fails, at whatever place: nothing of the others remains.
	for _, bad := range []struct {
		err error
		op  coord.Op
	}{
		{coord.ErrNodeExists, coord.Create("/a", nil)},
		{coord.ErrNoNode, coord.Create("/no/x", nil)},
		{coord.ErrBadVersion, coord.Set("/a", nil, 7)},
		{coord.ErrBadVersion, coord.Check("/a", 7)},
		{coord.ErrNotEmpty, coord.Delete("/full", coord.AnyVersion)},
	} {
		good := []coord.Op{coord.Create("/x", nil), coord.Create("/x/y", nil), coord.Delete("/a/c", 0), coord.Create("/a/c", nil), coord.CreateEphemeral("/e", nil)}
		for i := range len(good) + 1 {
			c.refused(i, bad.err, slices.Insert(slices.Clone(good), i, bad.op)...)
		}
		if c.exists("/x") || c.exists("/e") {
			t.Fatalf("a transaction that was refused with %q left something", bad.err)
		}
	}
	if _, stat := c.get("/a/c"); stat.Czxid != stats[5].Czxid {
		t.Error("a refused transaction replaced a node")
	}
	c.refused(1, coord.ErrNodeExists, coord.Create("/d", nil), coord.Create("/d", nil))
	if stats, err := c.Txn(context.Background()); err != nil || len(stats) != 0 {
		t.Errorf("an empty transaction: %v, %v", stats, err)
	}
}

func testOrder(t *testing.T, s *service) {
	c := s.open(long)
	names := []string{"z", "B", "a", "a.b", "a-", "aa", "ä", "10", "9", "Z", "~"}
	c.do(coord.Create("/d", nil))
	for _, n := range names {
		c.do(coord.Create("/d/"+n, nil), coord.Create("/d/"+n+"/below", nil))
	}
	slices.Sort(names)
	if got := c.children("/d"); !slices.Equal(got, names) {
		t.Errorf("children: %q, want %q", got, names)
	}
	if got := c.children("/"); !slices.Equal(got, []string{"d"}) {
		t.Errorf("children of the root: %q", got)
	}
}

func testStat(t *testing.T, s *service) {
	c := s.open(long)
	before := time.Now()
	created := c.do(coord.Create("/a", nil))[0]
	if created.Czxid <= 0 || created.Czxid != created.Mzxid || created.Owner != 0 {
		t.Errorf("created: %+v", created)
	}
	// A minute: the service's clock may be another machine's.
	if d := created.Modified.Sub(before); d.Abs() > time.Minute {
		t.Errorf("modified %v off", d)
	}
	set := c.do(coord.Set("/a", []byte("x"), 0))[0]
	if set.Czxid != created.Czxid || set.Mzxid <= created.Mzxid || set.Version != 1 {
		t.Errorf("set: %+v after %+v", set, created)
	}
	c.do(coord.Create("/a/b", nil), coord.Create("/a/c", nil), coord.Create("/a/b/d", nil))
	_, now := c.get("/a")
	if now.NumChildren != 2 || now.Mzxid != set.Mzxid || now.Version != 1 {
		t.Errorf("a node got children: %+v, was %+v", now, set)
	}
	c.do(coord.Delete("/a/c", 0))
	if _, now := c.get("/a"); now.NumChildren != 1 {
		t.Errorf("%d children, want 1", now.NumChildren)
	}
	e := c.do(coord.CreateEphemeral("/e", nil))[0]
	if _, now := c.get("/e"); e.Owner == 0 || e.Owner != now.Owner || e.Owner != c.Session().ID {
		t.Errorf("an ephemeral node's owner: %d, read as %d, session %d", e.Owner, now.Owner, c.Session().ID)
	}
	_, a := c.get("/a")
	both := c.do(coord.Set("/a", nil, coord.AnyVersion), coord.Set("/e", nil, coord.AnyVersion))
	if both[0].Mzxid != both[1].Mzxid || both[0].Mzxid <= a.Mzxid {
		t.Errorf("one transaction has the numbers %d and %d", both[0].Mzxid, both[1].Mzxid)
	}
}

func testEnsurePath(t *testing.T, s *service) {
	var all sync.WaitGroup
	for range 4 {
		c := s.open(long)
		for range 4 {
			all.Go(func() {
				for i := range 5 {
					if err := coord.EnsurePath(context.Background(), c, fmt.Sprintf("/p/%d/x/y", i)); err != nil {
						t.Errorf("ensure: %v", err)
					}
				}
			})
		}
	}
	all.Wait()
	c := s.open(long)
	if got := c.children("/p"); len(got) != 5 || !c.exists("/p/4/x/y") {
		t.Errorf("made %q", got)
	}
	if err := coord.EnsurePath(context.Background(), c, "/"); err != nil {
		t.Errorf("ensure the root: %v", err)
	}
}

// testGoroutines has many goroutines use one connection at once.
func testGoroutines(t *testing.T, s *service) {
	c := s.open(long)
	c.do(coord.Create("/n", nil), coord.Create("/d", nil))
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			for i := range 25 {
				if _, err := c.Txn(context.Background(), coord.Create(fmt.Sprintf("/d/%d-%d", g, i), nil), coord.Set("/n", nil, coord.AnyVersion)); err != nil {
					t.Errorf("txn: %v", err)
				}
				if names, err := c.Children(context.Background(), "/d"); err != nil || len(names) <= i {
					t.Errorf("children: %d, %v", len(names), err)
				}
			}
		})
	}
	all.Wait()
	if _, stat := c.get("/n"); stat.Version != 200 {
		t.Errorf("200 sets made version %d", stat.Version)
	}
	if got := len(c.children("/d")); got != 200 {
		t.Errorf("%d nodes of 200", got)
	}
}

func testCanceled(t *testing.T, s *service) {
	c := s.open(long)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Txn(ctx, coord.Create("/a", nil)); !errors.Is(err, context.Canceled) {
		t.Errorf("txn: %v", err)
	}
	if _, _, err := c.Get(ctx, "/"); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if _, err := c.Children(ctx, "/"); !errors.Is(err, context.Canceled) {
		t.Errorf("children: %v", err)
	}
	if c.exists("/a") {
		t.Error("a canceled transaction was done")
	}
}

func testClosed(t *testing.T, s *service) {
	c, ctx := s.open(long), context.Background()
	w, err := c.WatchNode(ctx, "/a")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-w.C():
	case <-time.After(time.Minute):
		t.Error("a watch outlives its connection")
	}
	w.Stop()
	if _, err := c.Txn(ctx, coord.Create("/a", nil)); !errors.Is(err, coord.ErrClosed) {
		t.Errorf("txn: %v", err)
	}
	if _, _, err := c.Get(ctx, "/"); !errors.Is(err, coord.ErrClosed) {
		t.Errorf("get: %v", err)
	}
	if _, err := c.Children(ctx, "/"); !errors.Is(err, coord.ErrClosed) {
		t.Errorf("children: %v", err)
	}
	if _, err := c.WatchNode(ctx, "/"); !errors.Is(err, coord.ErrClosed) {
		t.Errorf("watch: %v", err)
	}
	c.Close() // again: no panic
}
