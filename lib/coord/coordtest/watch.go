package coordtest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
)

func (c client) watch(path string) coord.Watch {
	c.t.Helper()
	w, err := c.WatchNode(context.Background(), path)
	if err != nil {
		c.t.Fatalf("watch %s: %v", path, err)
	}
	c.t.Cleanup(w.Stop)
	return w
}

func (c client) watchChildren(path string) coord.Watch {
	c.t.Helper()
	w, err := c.WatchChildren(context.Background(), path)
	if err != nil {
		c.t.Fatalf("watch children of %s: %v", path, err)
	}
	c.t.Cleanup(w.Stop)
	return w
}

// news waits for the watch to be closed.
func news(t *testing.T, what string, w coord.Watch) {
	t.Helper()
	select {
	case <-w.C():
	case <-time.After(time.Minute):
		t.Fatalf("no news of %s", what)
	}
}

// quiet asserts that the watch was not closed, once a later one was.
func quiet(t *testing.T, what string, w coord.Watch) {
	t.Helper()
	select {
	case <-w.C():
		t.Errorf("news of %s, of which there is none", what)
	default:
	}
}

// testWatchNode lets the own and another connection make each kind of change.
func testWatchNode(t *testing.T, s *service) {
	c := s.open(long)
	for name, by := range map[string]client{"own": c, "other": s.open(long)} {
		p := "/" + name
		w := c.watch(p)
		by.do(coord.Create(p, nil))
		news(t, name+" create", w)

		w = c.watch(p)
		by.do(coord.Set(p, []byte("x"), coord.AnyVersion))
		news(t, name+" set", w)

		w = c.watch(p)
		by.do(coord.Set(p, []byte("x"), coord.AnyVersion))
		news(t, name+" set to the same", w)

		w = c.watch(p)
		by.do(coord.Create(p+"/child", nil), coord.Delete(p+"/child", 0))
		by.do(coord.Create(p+"-sibling", nil))
		quiet(t, name+" child", w)
		by.do(coord.Delete(p, coord.AnyVersion))
		news(t, name+" delete", w)

		by.do(coord.Create(p, nil))
		w = c.watch(p)
		by.do(coord.Delete(p, coord.AnyVersion), coord.Create(p, nil))
		news(t, name+" delete and create at once", w)
	}
	// One of many watches, and many of one thing.
	a, b, other := c.watch("/own"), c.watch("/own"), c.watch("/other")
	c.do(coord.Set("/own", nil, coord.AnyVersion))
	news(t, "first of two", a)
	news(t, "second of two", b)
	quiet(t, "another node", other)
}

func testWatchChildren(t *testing.T, s *service) {
	c := s.open(long)
	if _, err := c.WatchChildren(context.Background(), "/none"); !errors.Is(err, coord.ErrNoNode) {
		t.Errorf("watch children of nothing: %v", err)
	}
	for name, by := range map[string]client{"own": c, "other": s.open(long)} {
		p := "/" + name
		c.do(coord.Create(p, nil))
		w := c.watchChildren(p)
		by.do(coord.Create(p+"/a", nil))
		news(t, name+" create", w)

		w = c.watchChildren(p)
		by.do(coord.Set(p+"/a", nil, coord.AnyVersion))
		by.do(coord.Create(p+"/a/below", nil))
		by.do(coord.Delete(p+"/a/below", 0))
		by.do(coord.Set(p, nil, coord.AnyVersion))
		quiet(t, name+" set, grandchild", w)
		by.do(coord.Delete(p+"/a", coord.AnyVersion))
		news(t, name+" delete", w)

		w = c.watchChildren(p)
		by.do(coord.CreateEphemeral(p+"/e", nil))
		news(t, name+" ephemeral", w)

		w = c.watchChildren("/")
		by.do(coord.Create(p+"-root", nil))
		news(t, name+" child of the root", w)
	}
}

// testWatchAbsent asserts that news of a node that comes and goes is not lost.
func testWatchAbsent(t *testing.T, s *service) {
	c, other := s.open(long), s.open(long)
	w := c.watch("/a/b/c")
	other.do(coord.Create("/a", nil), coord.Create("/a/b", nil), coord.Create("/a/b/c", nil))
	news(t, "create with parents", w)
	other.do(coord.Delete("/a/b/c", 0))
	w = c.watch("/a/b/c")
	other.do(coord.Create("/a/b/c", nil), coord.Delete("/a/b/c", 0))
	news(t, "create and delete at once", w)
}

func testWatchStop(t *testing.T, s *service) {
	c := s.open(long)
	c.do(coord.Create("/a", nil))
	for range 1000 {
		c.watch("/a").Stop()
	}
	stopped, w := c.watch("/a"), c.watch("/a")
	stopped.Stop()
	stopped.Stop()
	c.do(coord.Set("/a", nil, 0))
	news(t, "a set", w)
	w.Stop()
}

// testWatchExpiry has news of an ephemeral node whose owner dies.
func testWatchExpiry(t *testing.T, s *service) {
	c := s.open(long)
	p := s.hold(c)
	node, children := c.watch("/claim"), c.watchChildren("/")
	p.kill()
	news(t, "an expired node", node)
	news(t, "an expired child", children)
}

// testWatchProcess has news of what another process does.
func testWatchProcess(t *testing.T, s *service) {
	c := s.open(long)
	c.do(coord.Create("/n", nil))
	p := s.spawn("set", long)
	for i := range 50 {
		w := c.watch("/n")
		p.tell(strconv.Itoa(i))
		news(t, "another process's set", w)
		if data, _ := c.get("/n"); data != strconv.Itoa(i) {
			t.Fatalf("after the news the node holds %q, want %d", data, i)
		}
	}
}

// testWatchNoneMissed has readers that only ever wait for a watch which they
// began before they read: they must see the last value.
func testWatchNoneMissed(t *testing.T, s *service) {
	const last = 300
	writer := s.open(long)
	writer.do(coord.Create("/n", []byte("0")), coord.Create("/d", nil))
	var all sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	follow := func(c client, begin func() (coord.Watch, error), read func() (int, error)) {
		all.Go(func() {
			for {
				w, err := begin()
				if err != nil {
					t.Errorf("watch: %v", err)
					return
				}
				n, err := read()
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
				if n == last {
					w.Stop()
					return
				}
				select {
				case <-w.C():
				case <-ctx.Done():
					t.Errorf("a reader waits for news since %d, and there was some until %d", n, last)
					return
				}
			}
		})
	}
	for range 3 {
		c := s.open(long)
		follow(c, func() (coord.Watch, error) { return c.WatchNode(ctx, "/n") }, func() (int, error) {
			data, _, err := c.Get(ctx, "/n")
			n, _ := strconv.Atoi(string(data))
			return n, err
		})
		follow(c, func() (coord.Watch, error) { return c.WatchChildren(ctx, "/d") }, func() (int, error) {
			names, err := c.Children(ctx, "/d")
			return len(names), err
		})
	}
	for i := 1; i <= last; i++ {
		writer.do(coord.Set("/n", []byte(strconv.Itoa(i)), coord.AnyVersion), coord.Create(fmt.Sprintf("/d/%d", i), nil))
	}
	all.Wait()
}
