package queue

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

var seedFlag = flag.Uint64("seed", 0, "replay the random schedule of this seed")

// open connects to the coordination in a file.
func open(t testing.TB, file string, session time.Duration) (*Queue, coord.Conn) {
	t.Helper()
	conn, err := local.Open(t.Context(), file, local.Options{SessionTimeout: session})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	q, err := New(t.Context(), conn, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return q, conn
}

func file(t testing.TB) string { return filepath.Join(t.TempDir(), "coord.db") }

func shell(caps ...string) *ticket.Ticket {
	return ticket.New("execute-shell", append([]string{"execute_shell_v1"}, caps...)...)
}

var offer = []string{"execute_shell_v1", "nodelabel_gpu"}

func claim(t *testing.T, q *Queue, offer []string) *Claim {
	t.Helper()
	c, err := q.Claim(t.Context(), offer, "w", nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// empty asserts that nothing is left of any ticket.
func empty(t *testing.T, conn coord.Conn) {
	t.Helper()
	for _, dir := range []string{runRoot, claimRoot, leaseRoot} {
		if names, err := conn.Children(t.Context(), dir); err != nil || len(names) > 0 {
			t.Errorf("%s holds %v, %v", dir, names, err)
		}
	}
	sets, err := conn.Children(t.Context(), queueRoot)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range sets {
		for _, kind := range []string{"/t", "/r"} {
			slices, _ := conn.Children(t.Context(), queueRoot+"/"+set+kind)
			for _, s := range slices {
				if names, _ := conn.Children(t.Context(), queueRoot+"/"+set+kind+"/"+s); len(names) > 0 {
					t.Errorf("%s%s/%s holds %v", set, kind, s, names)
				}
			}
		}
	}
}

func TestPostClaimCommit(t *testing.T) {
	q, conn := open(t, file(t), 10*time.Second)
	var ids []string
	for range 3 {
		tk := shell()
		ids = append(ids, tk.ID)
		if err := q.Post(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
		if err := q.Post(t.Context(), tk); err != nil {
			t.Errorf("a repeated post: %v", err)
		}
	}
	if got, err := q.List(t.Context()); err != nil || !slices.Equal(got, ids) {
		t.Errorf("listed %v, %v; want %v", got, err, ids)
	}
	for i := range 3 {
		c := claim(t, q, offer)
		if c == nil || c.Ticket.ID != ids[i] || c.Ticket.Status != ticket.Running || c.Ticket.Assignee != "w" || c.Ticket.Attempt != 1 {
			t.Fatalf("claimed %+v, want %s", c, ids[i])
		}
		if _, err := q.Commit(t.Context(), Change{End: c}); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Commit(t.Context(), Change{End: c}); !errors.Is(err, ErrLost) {
			t.Errorf("a second commit: %v", err)
		}
	}
	if c := claim(t, q, offer); c != nil {
		t.Errorf("claimed %+v of nothing", c)
	}
	empty(t, conn)
}

func TestCapabilities(t *testing.T) {
	q, _ := open(t, file(t), 10*time.Second)
	gpu, other, any := shell("nodelabel_gpu"), shell("nodelabel_tpu"), ticket.New("x")
	for _, tk := range []*ticket.Ticket{gpu, other, any} {
		if err := q.Post(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
	}
	if c := claim(t, q, []string{"nodelabel_gpu"}); c == nil || c.Ticket.ID != any.ID {
		t.Errorf("claimed %+v, want the one that asks for nothing", c)
	}
	if c := claim(t, q, []string{"execute_shell_v1"}); c != nil {
		t.Errorf("claimed %+v without the label", c)
	}
	if c := claim(t, q, offer); c == nil || c.Ticket.ID != gpu.ID {
		t.Errorf("claimed %+v, want %s", c, gpu.ID)
	}
	bad := shell("a/b")
	if err := q.Post(t.Context(), bad); fault.Of(err) != fault.BadTicket {
		t.Errorf("capability a/b: %v", err)
	}
	large := shell()
	large.Error = string(make([]byte, coord.MaxData))
	if err := q.Post(t.Context(), large); fault.Of(err) != fault.BadTicket {
		t.Errorf("a ticket that is too large: %v", err)
	}
}

// TestContinue: one transaction ends a ticket, posts the next and claims it.
func TestContinue(t *testing.T) {
	q, conn := open(t, file(t), 10*time.Second)
	if err := q.Post(t.Context(), shell()); err != nil {
		t.Fatal(err)
	}
	c := claim(t, q, offer)
	for range 3 {
		next, side := shell(), shell("nodelabel_tpu")
		n, err := q.Commit(t.Context(), Change{End: c, Post: []*ticket.Ticket{side, next}, Next: next})
		if err != nil {
			t.Fatal(err)
		}
		if n.Ticket.ID != next.ID || n.Token <= c.Token || n.Ticket.Attempt != 1 || !n.Held() {
			t.Fatalf("%+v", n)
		}
		got, ref, err := q.Get(t.Context(), next.ID)
		if err != nil || got.Status != ticket.Running || !ref.claimed {
			t.Fatalf("%+v, %+v, %v", got, ref, err)
		}
		c = n
	}
	if _, err := q.Commit(t.Context(), Change{End: c}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if c = claim(t, q, append(offer, "nodelabel_tpu")); c == nil {
			t.Fatal("a posted ticket is not there")
		}
		if _, err := q.Commit(t.Context(), Change{End: c}); err != nil {
			t.Fatal(err)
		}
	}
	empty(t, conn)
}

// TestOps: what goes along with a change is refused or done as a whole.
func TestOps(t *testing.T) {
	q, conn := open(t, file(t), 10*time.Second)
	tk := shell()
	var refused *OpError
	err := q.Post(t.Context(), tk, coord.Create("/x", nil), coord.Set("/x", nil, 7))
	if !errors.As(err, &refused) || refused.Index != 1 || !errors.Is(err, coord.ErrBadVersion) {
		t.Errorf("%v", err)
	}
	if _, _, err := q.Get(t.Context(), tk.ID); !errors.Is(err, ErrNotFound) {
		t.Errorf("posted all the same: %v", err)
	}
	if err := q.Post(t.Context(), tk, coord.Create("/x", nil)); err != nil {
		t.Error(err)
	}
	if _, _, err := conn.Get(t.Context(), "/x"); err != nil {
		t.Error(err)
	}
}

// TestDeadWorker: the ticket of a worker whose session has ended is made ready
// again by whoever is idle, and the dead worker can commit nothing.
func TestDeadWorker(t *testing.T) {
	f := file(t)
	dead, deadConn := open(t, f, 10*time.Second)
	q, conn := open(t, f, 10*time.Second)
	tk := shell()
	if err := dead.Post(t.Context(), tk); err != nil {
		t.Fatal(err)
	}
	old := claim(t, dead, offer)
	if ids, err := q.Requeue(t.Context()); err != nil || len(ids) > 0 {
		t.Fatalf("requeued %v of a living worker, %v", ids, err)
	}
	deadConn.Close()
	if ids, err := q.Requeue(t.Context()); err != nil || !slices.Equal(ids, []string{tk.ID}) {
		t.Fatalf("requeued %v, %v", ids, err)
	}
	// The dead one's claim, in the hands of somebody who still believes in it:
	// only the coordination stands between it and a second result.
	zombie := *old
	zombie.q, zombie.session = q, conn.Session().ID
	for _, when := range []string{"before", "after"} {
		if _, err := q.Commit(t.Context(), Change{End: &zombie}); !errors.Is(err, ErrLost) {
			t.Errorf("%s the next claim, the zombie commits: %v", when, err)
		}
		if err := zombie.Release(t.Context(), errors.New("x"), false); !errors.Is(err, ErrLost) {
			t.Errorf("%s the next claim, the zombie releases: %v", when, err)
		}
		if when == "before" {
			c := claim(t, q, offer)
			if c == nil || c.Ticket.Attempt != 2 || c.Token <= old.Token {
				t.Fatalf("%+v", c)
			}
			if p, ok := PreviousOf(c.Ticket); !ok || p.Worker != "w" || p.Fault != fault.Lost {
				t.Errorf("previous attempt: %+v", p)
			}
			defer func() {
				if _, err := q.Commit(t.Context(), Change{End: c}); err != nil {
					t.Errorf("the new holder: %v", err)
				}
				empty(t, conn)
			}()
		}
	}
}

func TestRelease(t *testing.T) {
	q, _ := open(t, file(t), 10*time.Second)
	if err := q.Post(t.Context(), shell()); err != nil {
		t.Fatal(err)
	}
	c := claim(t, q, offer)
	if err := c.Release(t.Context(), fault.Errorf(fault.Temporary, "no network"), true); err != nil {
		t.Fatal(err)
	}
	if s, err := q.Claim(t.Context(), offer, "w", func(id string) bool { return id == c.Ticket.ID }); s != nil || err != nil {
		t.Errorf("claimed what was to be skipped: %+v, %v", s, err)
	}
	c = claim(t, q, offer)
	p, ok := PreviousOf(c.Ticket)
	if c.Ticket.Attempt != 2 || c.Ticket.Spared != 1 || !ok || p.Error != "no network" || p.Fault != fault.Temporary {
		t.Errorf("%+v, %+v", c.Ticket, p)
	}
}

func TestLease(t *testing.T) {
	q, conn := open(t, file(t), 10*time.Second)
	parked := &ticket.Ticket{ID: ticket.NewID()}
	if err := q.Post(t.Context(), parked); err != nil {
		t.Fatal(err)
	}
	if c := claim(t, q, offer); c != nil {
		t.Fatalf("claimed a parked ticket: %+v", c)
	}
	get := func() (*ticket.Ticket, Ref) {
		t.Helper()
		tk, ref, err := q.Get(t.Context(), parked.ID)
		if err != nil {
			t.Fatal(err)
		}
		return tk, ref
	}
	tk, ref := get()
	tk.Status, tk.Capabilities = ticket.Pending, []string{"execute_shell_v1"}
	if err := q.Replace(t.Context(), ref, tk); err != nil {
		t.Fatal(err)
	}
	if err := q.Replace(t.Context(), ref, tk); !errors.Is(err, ErrLost) {
		t.Errorf("replacing what has changed: %v", err)
	}
	tk, ref = get()
	if _, err := q.Lease(t.Context(), ref, tk, "rest", time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Lease(t.Context(), ref, tk, "rest2", time.Minute); !errors.Is(err, ErrLost) {
		t.Errorf("a second lease: %v", err)
	}
	for ids, err := q.Requeue(t.Context()); len(ids) == 0; ids, err = q.Requeue(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
	}
	tk, ref = get()
	if tk.Status != ticket.Pending || tk.Assignee != "" || ref.claimed {
		t.Fatalf("after the lease ran out: %+v", tk)
	}
	if _, err := q.Lease(t.Context(), ref, tk, "rest", time.Minute); err != nil {
		t.Fatal(err)
	}
	tk, ref = get()
	c, err := q.Leased(t.Context(), ref, tk)
	if err != nil || c.Worker != "rest" || c.Ticket.Attempt != 2 {
		t.Fatalf("%+v, %v", c, err)
	}
	late := *c
	c.Ticket.Error = "half way"
	if err := c.Extend(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := late.Extend(t.Context(), time.Minute); !errors.Is(err, ErrLost) {
		t.Errorf("an old lease is extended: %v", err)
	}
	c.Ticket.Status, c.Ticket.Result = ticket.Complete, ticket.Success
	if _, err := q.Commit(t.Context(), Change{End: c, Keep: true}); err != nil {
		t.Fatal(err)
	}
	tk, ref = get()
	if tk.Status != ticket.Complete || tk.Error != "half way" {
		t.Errorf("%+v", tk)
	}
	if err := q.Delete(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	empty(t, conn)
}

// TestWait: a waiting worker is woken by a ticket for it.
func TestWait(t *testing.T) {
	f := file(t)
	q, conn := open(t, f, 10*time.Second)
	poster, _ := open(t, f, 10*time.Second)
	for range 2 { // without, then with the folders of the set
		w := q.Waiter()
		done := make(chan error)
		go func() {
			_, err := w.Wait(t.Context(), offer, nil, time.Hour)
			done <- err
		}()
		if err := poster.Post(t.Context(), shell()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		for c := claim(t, q, offer); ; c = claim(t, q, offer) { // the wake-up may come before the ticket
			if c != nil {
				if _, err := q.Commit(t.Context(), Change{End: c}); err != nil {
					t.Fatal(err)
				}
				break
			}
			if news, err := w.Wait(t.Context(), offer, nil, time.Hour); err != nil || !news {
				t.Fatal(news, err)
			}
		}
		w.Leave(t.Context())
		w.Leave(t.Context())
	}
	if names, err := conn.Children(t.Context(), lineOf(offer)); err != nil || len(names) > 0 {
		t.Errorf("in the line: %q, %v", names, err)
	}
	if news, err := q.Waiter().Wait(t.Context(), offer, nil, time.Millisecond); err != nil || news {
		t.Errorf("nothing in a millisecond: %v, %v", news, err)
	}
}

// TestSlices: a queue longer than a slice is in several, comes out in order,
// and leaves none of them behind but the last.
func TestSlices(t *testing.T) {
	q, conn := open(t, file(t), 10*time.Second)
	const n = 3*sliceSize + 10
	for range n {
		if err := q.Post(t.Context(), shell()); err != nil {
			t.Fatal(err)
		}
	}
	root := queueRoot + "/execute_shell_v1"
	if names, _ := conn.Children(t.Context(), root+"/r"); len(names) < 3 {
		t.Errorf("slices %v", names)
	}
	last := ""
	for i := range n {
		c := claim(t, q, offer)
		if c == nil || c.Ticket.ID < last {
			t.Fatalf("ticket %d: %+v after %s", i, c, last)
		}
		last = c.Ticket.ID
		if _, err := q.Commit(t.Context(), Change{End: c}); err != nil {
			t.Fatal(err)
		}
	}
	claim(t, q, offer)
	if err := q.tidy(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"/t", "/r"} {
		if names, _ := conn.Children(t.Context(), root+kind); len(names) > 1 {
			t.Errorf("%s has %v left", kind, names)
		}
	}
}

// TestRace: many workers, every ticket is taken by exactly one.
func TestRace(t *testing.T) {
	f := file(t)
	q, conn := open(t, f, 10*time.Second)
	const n, workers = 200, 8
	for range n {
		if err := q.Post(t.Context(), shell()); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	done := map[string]int{}
	var wg sync.WaitGroup
	for i := range workers {
		w, _ := open(t, f, 10*time.Second)
		wg.Go(func() {
			for {
				c, err := w.Claim(t.Context(), offer, fmt.Sprint(i), nil)
				if err != nil {
					t.Error(err)
					return
				}
				if c == nil {
					if ids, _ := w.List(t.Context()); len(ids) == 0 {
						return
					}
					continue
				}
				if _, err := w.Commit(t.Context(), Change{End: c}); err != nil {
					t.Error(err)
				}
				mu.Lock()
				done[c.Ticket.ID]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for id, k := range done {
		if k != 1 {
			t.Errorf("%s was done %d times", id, k)
		}
	}
	if len(done) != n {
		t.Errorf("%d tickets of %d were done", len(done), n)
	}
	empty(t, conn)
}

// TestRandomSchedules lets workers claim, commit, go on, release, die and come
// back as zombies in random order, and asserts after each schedule that every
// ticket was committed exactly once and nothing is left.
func TestRandomSchedules(t *testing.T) {
	first, n := uint64(1), uint64(60)
	if *seedFlag != 0 {
		first, n = *seedFlag, 1
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { randomSchedule(t, seed) })
	}
}

type actor struct {
	q    *Queue
	conn coord.Conn
	held *Claim
}

func randomSchedule(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	f := file(t)
	boss, conn := open(t, f, time.Minute)
	actors := make([]*actor, 3)
	for i := range actors {
		actors[i] = &actor{}
		actors[i].q, actors[i].conn = open(t, f, time.Minute)
	}
	posted, committed := 0, map[string]int{}
	var zombies []*Claim
	for range 60 {
		a := actors[rng.IntN(len(actors))]
		switch k := rng.IntN(10); {
		case k < 3:
			if err := boss.Post(t.Context(), shell()); err != nil {
				t.Fatal(err)
			}
			posted++
		case k < 5 && a.held == nil:
			c, err := a.q.Claim(t.Context(), offer, "w", nil)
			if err != nil {
				t.Fatal(err)
			}
			a.held = c
		case k < 7 && a.held != nil:
			ch := Change{End: a.held}
			if rng.IntN(2) == 0 {
				ch.Next = shell()
				ch.Post = []*ticket.Ticket{ch.Next}
				posted++
			}
			next, err := a.q.Commit(t.Context(), ch)
			if err != nil {
				t.Fatal(err)
			}
			committed[a.held.Ticket.ID]++
			a.held = next
		case k == 7 && a.held != nil:
			if err := a.held.Release(t.Context(), errors.New("released"), false); err != nil {
				t.Fatal(err)
			}
			a.held = nil
		case k == 8: // dies; its claim lives on in a zombie
			if a.held != nil {
				zombies = append(zombies, a.held)
			}
			a.conn.Close()
			a.q, a.conn = open(t, f, time.Minute)
			a.held = nil
		case k == 9 && len(zombies) > 0:
			z := *zombies[rng.IntN(len(zombies))]
			z.q, z.session = boss, conn.Session().ID
			if _, err := boss.Commit(t.Context(), Change{End: &z}); !errors.Is(err, ErrLost) {
				t.Fatalf("a zombie has committed %s: %v", z.Ticket.ID, err)
			}
		}
		if rng.IntN(8) == 0 {
			if _, err := boss.Requeue(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, a := range actors {
		if a.held != nil {
			if _, err := a.q.Commit(t.Context(), Change{End: a.held}); err != nil {
				t.Fatal(err)
			}
			committed[a.held.Ticket.ID]++
		}
	}
	if _, err := boss.Requeue(t.Context()); err != nil {
		t.Fatal(err)
	}
	for c := claim(t, boss, offer); c != nil; c = claim(t, boss, offer) {
		if _, err := boss.Commit(t.Context(), Change{End: c}); err != nil {
			t.Fatal(err)
		}
		committed[c.Ticket.ID]++
	}
	for id, n := range committed {
		if n != 1 {
			t.Errorf("%s was committed %d times", id, n)
		}
	}
	if len(committed) != posted {
		t.Errorf("%d of %d tickets were committed", len(committed), posted)
	}
	empty(t, conn)
	if t.Failed() {
		t.Logf("replay with -seed %d", seed)
	}
}
