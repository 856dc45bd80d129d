package queue

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/lab"
)

// TestLine: of many idle workers a few wake for a ticket; all tickets of a
// flood are taken; one that dies in front is followed by the next.
func TestLine(t *testing.T) {
	const workers, flood = 40, 30
	f := file(t)
	ctx, stop := context.WithCancel(t.Context())
	var woken, taken, idle atomic.Int32
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	for range workers {
		q, _ := open(t, f, 10*time.Second)
		all.Go(func() {
			w := q.Waiter()
			defer w.Leave(context.Background())
			for ctx.Err() == nil {
				idle.Add(1)
				news, err := w.Wait(ctx, offer, nil, time.Hour)
				idle.Add(-1)
				if err != nil {
					t.Error(err)
				}
				if !news {
					continue
				}
				woken.Add(1)
				c, err := q.Claim(ctx, offer, "w", nil)
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				if c == nil {
					continue
				}
				w.Leave(ctx)
				if _, err := q.Commit(ctx, Change{End: c}); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				taken.Add(1)
			}
		})
	}
	poster, conn := open(t, f, 10*time.Second)
	lab.Until(t, "all to wait", func() bool {
		names, err := conn.Children(t.Context(), lineOf(offer))
		return err == nil && len(names) == workers && idle.Load() == workers
	})
	before := woken.Load()
	if err := poster.Post(t.Context(), shell()); err != nil {
		t.Fatal(err)
	}
	lab.Until(t, "the ticket to be taken", func() bool { return taken.Load() == 1 })
	lab.Until(t, "all to wait again", func() bool { return idle.Load() == workers })
	// In front are a few, who may see the post, its claim, and new folders.
	if n := woken.Load() - before; n > 8*front {
		t.Errorf("%d of %d workers woke for one ticket", n, workers)
	}
	for range flood {
		if err := poster.Post(t.Context(), shell()); err != nil {
			t.Fatal(err)
		}
	}
	lab.Until(t, "the flood to be taken", func() bool { return taken.Load() == 1+flood })
}

// TestLineDeath: those in front die, and those behind get the ticket that they
// were the only ones to see.
func TestLineDeath(t *testing.T) {
	f := file(t)
	var dead []coord.Conn
	for range front {
		q, conn := open(t, f, 10*time.Second)
		if err := q.Waiter().join(t.Context(), lineOf(offer)); err != nil {
			t.Fatal(err)
		}
		dead = append(dead, conn)
	}
	poster, conn := open(t, f, 10*time.Second)
	if err := poster.Post(t.Context(), shell()); err != nil {
		t.Fatal(err)
	}
	news := make(chan bool)
	const behind = 3
	for range behind {
		q, _ := open(t, f, 10*time.Second)
		go func() {
			ok, err := q.Waiter().Wait(t.Context(), offer, nil, time.Hour)
			news <- ok && err == nil
		}()
	}
	lab.Until(t, "all to wait", func() bool {
		names, err := conn.Children(t.Context(), lineOf(offer))
		return err == nil && len(names) == front+behind
	})
	for _, c := range dead {
		c.Close()
	}
	for range behind { // all of them are in front now
		if !<-news {
			t.Error("a worker was not told of the ticket")
		}
	}
}

// TestPriority: the higher priority first, then the older, across the sets that
// a worker serves.
func TestPriority(t *testing.T) {
	q, conn := open(t, file(t), 10*time.Second)
	post := func(priority int, caps ...string) string {
		tk := shell(caps...)
		tk.Priority = priority
		if err := q.Post(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
		return tk.ID
	}
	gpu := "nodelabel_gpu"
	low, first, second := post(-7), post(0, gpu), post(0)
	high, highest := post(3, gpu), post(40)
	equal := post(40, gpu)
	for i, want := range []string{highest, equal, high, first, second, low} {
		c := claim(t, q, append([]string{gpu}, offer...))
		if c == nil || c.Ticket.ID != want {
			t.Fatalf("ticket %d is %+v, want %s", i, c, want)
		}
		if err := c.Release(t.Context(), errors.New("given back"), true); err != nil { // it goes back to its place
			t.Fatal(err)
		}
		c = claim(t, q, append([]string{gpu}, offer...))
		if c == nil || c.Ticket.ID != want {
			t.Fatalf("ticket %d given back: %+v, want %s", i, c, want)
		}
		if _, err := q.Commit(t.Context(), Change{End: c}); err != nil {
			t.Fatal(err)
		}
	}
	empty(t, conn)
	bad := ticket.New("execute-shell", "x")
	bad.Priority = 101
	if b, err := json.Marshal(bad); err != nil {
		t.Fatal(err)
	} else if _, err := ticket.Parse(b); err == nil {
		t.Error("priority 101 was read")
	}
}

// TestRequeueInTurn: of many that look for dead workers' tickets all the time,
// one does it in an interval.
func TestRequeueInTurn(t *testing.T) {
	f := file(t)
	const n = 5
	var qs []*Queue
	for range n {
		q, _ := open(t, f, 10*time.Second)
		qs = append(qs, q)
	}
	_, conn := open(t, f, 10*time.Second)
	version := func() int32 {
		_, st, err := conn.Get(t.Context(), sweepNode)
		if err != nil {
			t.Fatal(err)
		}
		return st.Version
	}
	const interval = 50 * time.Millisecond
	start, begun := version(), time.Now()
	for version() < start+4 {
		for _, q := range qs {
			if _, err := q.RequeueInTurn(t.Context(), interval); err != nil {
				t.Fatal(err)
			}
		}
	}
	if d := time.Since(begun); d < 4*interval {
		t.Errorf("4 sweeps in %v, in intervals of %v", d, interval)
	}
}

// between is a connection whose Session still tells of the one before, or of
// none, as often as it says.
type between struct {
	coord.Conn
	ids []int64
}

func (b *between) Session() coord.Session {
	s := b.Conn.Session()
	if len(b.ids) > 0 {
		s.ID, b.ids = b.ids[0], b.ids[1:]
	}
	return s
}

// TestLineBetweenSessions: a place goes with the session in which it was made,
// not with the one that was there when it was asked for; without one there is
// none. A place that nobody leaves would keep others from the front.
func TestLineBetweenSessions(t *testing.T) {
	_, conn := open(t, file(t), 10*time.Second)
	b := &between{Conn: conn}
	q, err := New(t.Context(), b, Options{})
	if err != nil {
		t.Fatal(err)
	}
	places := func() int {
		names, err := conn.Children(t.Context(), lineOf(offer))
		if err != nil && !errors.Is(err, coord.ErrNoNode) {
			t.Fatal(err)
		}
		return len(names)
	}
	w := q.Waiter()
	b.ids = []int64{0}
	if err := w.join(t.Context(), lineOf(offer)); !errors.Is(err, coord.ErrExpired) || places() != 0 {
		t.Errorf("without a session: %v, %d places", err, places())
	}
	b.ids = []int64{conn.Session().ID - 1}
	if err := w.join(t.Context(), lineOf(offer)); err != nil || places() != 1 {
		t.Errorf("as a session ends: %v, %d places", err, places())
	}
	w.Leave(t.Context())
	if n := places(); n != 0 {
		t.Errorf("%d places are left", n)
	}
}
