package web

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestCacheAsksOnce: many who ask at the same time cost one look-up, and so do
// those who come while the answer is good.
func TestCacheAsksOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[string, int](10)
		var looks atomic.Int32
		look := func(context.Context) (int, time.Duration, error) {
			time.Sleep(time.Second)
			return int(looks.Add(1)), 5 * time.Second, nil
		}
		var g sync.WaitGroup
		for range 100 {
			g.Go(func() {
				if n, err := c.get(t.Context(), "k", look); n != 1 || err != nil {
					t.Error(n, err)
				}
			})
		}
		g.Wait()
		time.Sleep(4 * time.Second)
		if n, _ := c.get(t.Context(), "k", look); n != 1 {
			t.Errorf("answer %d", n)
		}
		time.Sleep(2 * time.Second)
		if n, _ := c.get(t.Context(), "k", look); n != 2 {
			t.Errorf("answer %d when the first is too old", n)
		}
	})
}

// TestCacheForgetsErrors: who asks again after a failure gets a new answer; one
// who goes does not take the answer of the others with him.
func TestCacheForgetsErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[string, int](10)
		broken := errors.New("broken")
		if _, err := c.get(t.Context(), "k", func(context.Context) (int, time.Duration, error) { return 0, time.Hour, broken }); err != broken {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		look := func(ctx context.Context) (int, time.Duration, error) {
			time.Sleep(time.Second)
			return 7, time.Hour, ctx.Err()
		}
		go func() { _, _ = c.get(ctx, "k", look) }()
		synctest.Wait()
		cancel()
		if n, err := c.get(t.Context(), "k", look); n != 7 || err != nil {
			t.Error(n, err)
		}
	})
}

// TestCacheStale: where an old answer will do nobody waits for another, which is
// looked up once; and one that is too old is not given.
func TestCacheStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[string, int](10)
		c.stale = time.Minute
		looks := 0
		look := func(context.Context) (int, time.Duration, error) {
			looks++
			if looks == 2 {
				return 0, 0, errors.New("broken")
			}
			time.Sleep(2 * time.Second)
			return looks, 5 * time.Second, nil
		}
		want := func(n int, most time.Duration) {
			t.Helper()
			from := time.Now()
			if got, err := c.get(t.Context(), "k", look); got != n || err != nil {
				t.Errorf("%d, %v, want %d", got, err, n)
			}
			if d := time.Since(from); d > most {
				t.Errorf("it took %v", d)
			}
		}
		want(1, time.Minute)
		time.Sleep(10 * time.Second)
		want(1, 0) // and fails to look
		synctest.Wait()
		want(1, 0)
		want(1, 0)
		time.Sleep(3 * time.Second)
		want(3, 0)
		time.Sleep(2 * time.Minute)
		want(4, time.Minute)
		if looks != 4 {
			t.Errorf("%d look-ups", looks)
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	c := newCache[int, int](100)
	for i := range 1000 {
		if _, err := c.get(t.Context(), i, func(context.Context) (int, time.Duration, error) { return i, time.Hour, nil }); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(c.entries); n > 100 {
		t.Errorf("%d entries", n)
	}
}
