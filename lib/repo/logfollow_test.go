package repo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/store/sim"
)

// alive is an attempt that is at work.
func alive(context.Context) (bool, error) { return true, nil }

// followers follow a log of r's store, n of them.
func followers(ctx context.Context, r *Repo, n int, key string, offset int64, live func(context.Context) (bool, error)) (outs []*bytes.Buffer, wait func() []error) {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		out := &bytes.Buffer{}
		outs = append(outs, out)
		t := r.tails.open(ctx, key, func(ctx context.Context, t *tail) { r.follow(ctx, t, key, live) })
		wg.Go(func() {
			defer r.tails.release(key, t)
			_, errs[i] = r.copyTail(ctx, out, key, t, offset)
		})
	}
	return outs, func() []error {
		wg.Wait()
		return errs
	}
}

// TestThousandFollowers: they cost the store as much as one.
func TestThousandFollowers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, pieces = 1000, 50
		st := newSim()
		m := &meter{Store: st}
		stats := 0
		st.Hook = func(op, _ string, do func() error) error {
			if op == "stat" {
				stats++
			}
			return do()
		}
		r := &Repo{store: m}
		key := logKey("j", 1, "0", 1)
		outs, wait := followers(t.Context(), r, n, key, 0, alive)
		synctest.Wait() // what was there before they came each reads by itself
		l := (&Repo{store: st}).NewLog(t.Context(), "j", 1, "0", 1)
		var want strings.Builder
		for i := range pieces {
			fmt.Fprintf(io.MultiWriter(l, &want), "piece %d\n", i)
			time.Sleep(time.Second)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		for i, err := range wait() {
			if err != nil || outs[i].String() != want.String() {
				t.Fatalf("follower %d: %q, %v", i, outs[i].String(), err)
			}
		}
		// Ten looks a second, of two reads each.
		if gets := m.gets.Load(); gets > 3*10*pieces || stats > 10 {
			t.Errorf("%d reads and %d stats for %d pieces", gets, stats, pieces)
		}
		if len(r.tails.byKey) > 0 {
			t.Error("something still follows")
		}
	})
}

// TestFollowersEnd: with the seal; when the attempt is over without one; when
// the log is deleted; when they want to. Late ones and those that begin in the
// middle have what they came for; the store is slow.
func TestFollowersEnd(t *testing.T) {
	for _, how := range []string{"sealed", "dead", "deleted", "left"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := sim.New(time.Now).Open()
				st.Hook = func(_, _ string, do func() error) error {
					time.Sleep(700 * time.Millisecond)
					return do()
				}
				r := &Repo{store: st}
				key := logKey("j", 1, "0", 1)
				var mu sync.Mutex
				over := false
				live := func(context.Context) (bool, error) {
					mu.Lock()
					defer mu.Unlock()
					return !over, nil
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				early, first := followers(ctx, r, 3, key, 0, live)
				l := r.NewLog(t.Context(), "j", 1, "0", 1)
				text := strings.Repeat("a line\n", 100_000)
				for p := text; p != ""; p = p[10_000:] {
					if _, err := io.WriteString(l, p[:10_000]); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute)
				late, second := followers(ctx, r, 3, key, 650_001, live)
				time.Sleep(time.Minute)
				switch how {
				case "sealed":
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
				case "dead":
					mu.Lock()
					over = true
					mu.Unlock()
				case "deleted":
					if err := st.Delete(ctx, key); err != nil {
						t.Fatal(err)
					}
				case "left":
					cancel()
				}
				for _, err := range append(first(), second()...) {
					if (err != nil) != (how == "left") {
						t.Error(err)
					}
				}
				for i := range early {
					if early[i].String() != text || late[i].String() != text[650_001:] {
						t.Errorf("%d of %d and %d of %d bytes", early[i].Len(), len(text), late[i].Len(), len(text)-650_001)
					}
				}
				if len(r.tails.byKey) > 0 {
					t.Error("something still follows")
				}
				_ = l.Close()
			})
		})
	}
}

// TestFollowIsTold follows a log in a store that tells of changes.
func TestFollowIsTold(t *testing.T) {
	st, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	key := logKey("j", 1, "0", 1)
	r := &Repo{store: st}
	l := (&Repo{store: st}).NewLog(t.Context(), "j", 1, "0", 1)
	io.WriteString(l, "first\n")
	rd, w := io.Pipe()
	tl := r.tails.open(t.Context(), key, func(ctx context.Context, t *tail) { r.follow(ctx, t, key, alive) })
	done := make(chan error, 1)
	go func() {
		defer r.tails.release(key, tl)
		_, err := r.copyTail(t.Context(), w, key, tl, 0)
		w.Close()
		done <- err
	}()
	b := make([]byte, 100)
	for _, want := range []string{"first\n", "second\n", "third\n"} {
		if n, err := io.ReadFull(rd, b[:len(want)]); string(b[:n]) != want || err != nil {
			t.Fatalf("%q, %v", b[:n], err)
		}
		if want == "first\n" {
			io.WriteString(l, "second\n")
		} else if want == "second\n" {
			io.WriteString(l, "third\n")
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := rd.Read(b); err != io.EOF {
		t.Errorf("%q, %v", b[:n], err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
