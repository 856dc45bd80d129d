package queue_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/sim"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/queue/history"
)

var schedulesFlag = flag.Int("schedules", 100_000, "how many schedules to simulate")

// schedules is how many to simulate.
func schedules() int {
	if testing.Short() {
		return min(*schedulesFlag, 5000)
	}
	return *schedulesFlag
}

// schedule is one run of the real queue by a few simulated processes.
type schedule struct {
	seed  uint64
	wrap  func(coord.Conn) coord.Conn
	trace func(line string)
}

// result is what was found, and what it cost.
type result struct {
	broken    []string
	schedules int
	requests  int
	steps     int
}

// faultsOf are the faults of a schedule: none, a few, many, or one kind alone.
func faultsOf(rnd *rand.Rand, clients int) sim.Faults {
	all := sim.Faults{Lose: 0.08, Stop: 0.03, Pause: 0.004, Cut: 0.008, Crash: 0.004, Crashes: clients - 1}
	switch rnd.IntN(8) {
	case 0:
		return sim.Faults{}
	case 1:
		return sim.Faults{Lose: 0.2}
	case 2:
		return sim.Faults{Stop: 0.25, Pause: 0.005}
	case 3:
		return sim.Faults{Lose: 0.05, Cut: 0.02}
	case 4:
		return sim.Faults{Lose: 0.02, Crash: 0.02, Crashes: clients - 1}
	case 5:
		return sim.Faults{Lose: 0.1, Stop: 0.1, Pause: 0.02, Cut: 0.02}
	}
	return all
}

// simulate runs one schedule to its end and judges it.
func simulate(t *testing.T, sc schedule) (res result) {
	synctest.Test(t, func(t *testing.T) {
		rnd := rand.New(rand.NewPCG(sc.seed, 1))
		clients := []int{2, 2, 3, 3, 4}[rnd.IntN(5)]
		w := sim.New(sim.Options{Seed: sc.seed, Timeout: 400 * time.Millisecond, Quiet: synctest.Wait,
			Faults: faultsOf(rnd, clients), Trace: sc.trace, Steps: 6000})
		for _, path := range []string{"/done", "/build", "/q", "/run", "/c", "/lease"} {
			if err := w.Txn(coord.Create(path, nil)); err != nil {
				t.Fatal(err)
			}
		}
		s := &simulation{wrap: sc.wrap, leases: rnd.IntN(4) == 0, running: clients, posting: clients}
		var workers []*simWorker
		var all sync.WaitGroup
		for i := range clients {
			name := string(rune('a' + i))
			x := &simWorker{simulation: s, number: i, name: name, client: w.Open(name), rnd: rand.New(rand.NewPCG(sc.seed, uint64(2+i)))}
			workers = append(workers, x)
			posts := rnd.IntN(2)
			if i == 0 {
				posts = 1 + rnd.IntN(2)
			}
			all.Go(func() { x.run(t.Context(), posts) })
		}
		fail := func(format string, args ...any) { res.broken = append(res.broken, fmt.Sprintf(format, args...)) }
		steps := 50 + rnd.IntN(300)
		drained := func() bool {
			steps--
			return steps%32 == 0 && s.none(&s.posting) && w.Settled() && len(left(w)) == 0
		}
		if err := w.Run(func() bool { return drained() || steps < 0 }); err != nil {
			t.Fatal(err) // fewer steps than are allowed
		}
		w.Calm()
		if err := w.Run(drained); err != nil {
			fail("never drained: %v: left: %q", err, left(w))
		}
		s.mu.Lock()
		s.ended = true
		s.mu.Unlock()
		if err := w.Run(func() bool { return s.none(&s.running) }); err != nil {
			panic(fmt.Sprintf("seed %d: the workers do not end: %v", sc.seed, err))
		}
		all.Wait()
		res.requests, res.steps = w.Cost()
		judge(w, workers, fail)
	})
	return res
}

// left lists what a drained queue has not got: claims, ready entries, tickets
// that were not committed or are not parked, and records of tickets that were
// posted but never committed.
func left(w *sim.World) (paths []string) {
	each := func(dir string, visit func(path string)) {
		names, _ := w.Children(dir)
		for _, name := range names {
			visit(dir + "/" + name)
		}
	}
	add := func(path string) { paths = append(paths, path) }
	for _, dir := range []string{"/run", "/c", "/lease"} {
		each(dir, add)
	}
	each("/done", func(path string) {
		if _, st, _ := w.Get(path); st.Version == 0 {
			add(path)
		}
	})
	each("/q", func(set string) {
		each(set+"/r", func(slice string) { each(slice, add) })
		each(set+"/t", func(slice string) {
			each(slice, func(path string) {
				if data, _, _ := w.Get(path); !strings.Contains(string(data), `"status":"complete"`) {
					add(path)
				}
			})
		})
	})
	return paths
}

// judge compares what the workers were told and what they wrote down with what
// happened.
func judge(w *sim.World, workers []*simWorker, fail func(format string, args ...any)) {
	entries := map[string]string{}
	ids, _ := w.Children("/done")
	for _, id := range ids {
		data, st, _ := w.Get(ledger(id))
		entries[id] = string(data)
		if st.Version > 1 {
			fail("ticket %s was committed %d times, at last as %q", id, st.Version, data)
		}
	}
	var events []queue.Event
	var killed []string
	for _, x := range workers {
		events = append(events, x.events...)
		if x.client.Crashed() {
			killed = append(killed, x.name)
		}
		for _, a := range x.answers {
			did := entries[a.id] == a.entry
			switch {
			case a.err == nil && !did:
				fail("ticket %s: told to have committed it as %q, and it was %q", a.id, a.entry, entries[a.id])
			case errors.Is(a.err, queue.ErrLost) && did:
				fail("ticket %s: told that the claim was lost, and committed it as %q", a.id, a.entry)
			case errors.Is(a.err, queue.ErrLost) && a.held:
				fail("ticket %s: %s was told that the claim was lost, and its session lives", a.id, a.entry)
			}
		}
	}
	if len(killed) > 0 { // a frontend may have ended the lease of any worker
		for _, x := range workers {
			killed = append(killed, "rest-"+x.name)
		}
	}
	for _, v := range history.Check(events, history.Options{Complete: true, Killed: killed}) {
		fail("%v", v)
	}
}

// explore simulates the schedules of the seeds from 1 to n, on all processors,
// until one of them is found broken. It returns that one's seed and what was
// found. On a machine so busy that the tests' time-out comes close, it leaves
// it at fewer, and says so.
func explore(t *testing.T, n int, wrap func(coord.Conn) coord.Conn) (seed uint64, found result, total result) {
	var next, done, requests, steps atomic.Int64
	var mu sync.Mutex
	const first = 1
	seed = first + uint64(n)
	begin := time.Now()
	limit, limited := t.Deadline()
	limit = limit.Add(-limit.Sub(begin) / 2)
	var all sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for {
				i := uint64(next.Add(1)-1) + first
				mu.Lock()
				enough := i >= seed
				mu.Unlock()
				if enough || limited && time.Now().After(limit) {
					return
				}
				done.Add(1)
				r := simulate(t, schedule{seed: i, wrap: wrap})
				requests.Add(int64(r.requests))
				steps.Add(int64(r.steps))
				mu.Lock()
				if len(r.broken) > 0 && i < seed {
					seed, found = i, r
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	total = result{schedules: int(done.Load()), requests: int(requests.Load()), steps: int(steps.Load())}
	if total.schedules < n && len(found.broken) == 0 {
		t.Logf("only %d schedules of %d: the rest of the time that the tests have is for others", total.schedules, n)
	}
	return seed, found, total
}

// TestReplay: a seed tells all of a schedule, so that what was found can be
// looked at.
func TestReplay(t *testing.T) {
	for seed := range uint64(30) {
		var traces [2][]string
		for i := range traces {
			simulate(t, schedule{seed: seed, trace: func(line string) { traces[i] = append(traces[i], line) }})
		}
		if !slices.Equal(traces[0], traces[1]) {
			t.Errorf("seed %d: two traces, of %d and %d lines", seed, len(traces[0]), len(traces[1]))
		}
	}
}

// TestSchedules explores the queue's protocol. With -seed it replays one
// schedule and prints its trace.
func TestSchedules(t *testing.T) {
	if seed := flag.Lookup("seed").Value.(flag.Getter).Get().(uint64); seed != 0 {
		r := simulate(t, schedule{seed: seed, trace: func(line string) { t.Log(line) }})
		if len(r.broken) > 0 {
			t.Errorf("seed %d:\n%s", seed, strings.Join(r.broken, "\n"))
		}
		return
	}
	begin := time.Now()
	seed, found, total := explore(t, schedules(), nil)
	if len(found.broken) > 0 {
		t.Fatalf("seed %d (replay: go test ./lib/queue -run TestSchedules -seed %d -v):\n%s", seed, seed, strings.Join(found.broken, "\n"))
	}
	n := max(total.schedules, 1)
	t.Logf("%d schedules, %d requests and %d steps each, %v each", n, total.requests/n, total.steps/n, time.Since(begin)/time.Duration(n))
}
