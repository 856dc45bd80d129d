// Package sim is a coordination service in memory, for simulation: a seed
// decides in which order the requests of its clients are carried out, when
// their answers arrive, which are lost, and when sessions expire and clients
// crash. The code above it is the real one.
//
// It runs in a bubble of [testing/synctest], so that time is simulated too and
// all goroutines are at rest whenever the scheduler decides something:
//
//	synctest.Test(t, func(t *testing.T) {
//		w := sim.New(sim.Options{Seed: seed, Quiet: synctest.Wait, Faults: …})
//		… go work(w.Open("a")) …
//		err := w.Run(func() bool { return all have ended })
//	})
//
// The same seed gives the same schedule if each client's code is deterministic
// by itself: its random choices have a source of their own, and its goroutines
// do not race for which of them calls first.
//
// What it may do is what ZooKeeper may do. The requests of one session are
// carried out, and answered, in the order in which they were sent; those of
// different sessions in any order. A session is over only when the service has
// not heard of its client for the time-out, and is replaced by another one
// when the client is heard of again. A lost answer is coord.ErrUnknown; the
// transaction was carried out, or is carried out later while its session
// lives and before the session's next request, or never.
package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

// Faults are the chances of what can go wrong, from 0 to 1.
type Faults struct {
	Lose  float64 // for each request: its answer is lost
	Stop  float64 // for each transaction: its process is stopped just before it is sent
	Pause float64 // for each step: a process is stopped
	Cut   float64 // for each step: a client is cut off
	Crash float64 // for each step: a process crashes
	// Crashes bounds how many processes crash.
	Crashes int
}

// Options of New.
type Options struct {
	Seed    uint64
	Timeout time.Duration // of sessions; default 1 s
	// Quiet returns when all goroutines of the clients wait for an answer or
	// for the time: synctest.Wait. Without it only Serve can be used.
	Quiet  func()
	Faults Faults
	// Trace is told, line by line, what happens.
	Trace func(line string)
	// Steps bounds Run; default 20,000.
	Steps int
}

// World is the service and its scheduler.
type World struct {
	o    Options
	wake chan struct{}

	mu       sync.Mutex
	rnd      *rand.Rand
	tree     *tree
	clients  []*Client
	dying    []*session // of crashed clients
	lastID   int64
	crashes  int
	calm     bool
	began    time.Time
	steps    int
	requests int
	enabled  []action // reused
}

// New makes an empty service.
func New(o Options) *World {
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	if o.Steps == 0 {
		o.Steps = 20_000
	}
	return &World{o: o, wake: make(chan struct{}, 1), rnd: rand.New(rand.NewPCG(o.Seed, 0)), tree: newTree(), began: time.Now()}
}

// Open makes a client with a session of its own.
func (w *World) Open(name string) *Client {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := &Client{w: w, name: name}
	c.session = w.newSession()
	w.clients = append(w.clients, c)
	return c
}

func (w *World) newSession() *session {
	w.lastID++
	return &session{id: w.lastID}
}

// poke wakes the scheduler.
func (w *World) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *World) trace(format string, args ...any) {
	if w.o.Trace != nil {
		w.o.Trace(fmt.Sprintf("%9.3f ", time.Since(w.began).Seconds()) + fmt.Sprintf(format, args...))
	}
}

// Calm ends all faults: those who are cut off or stopped come back, and
// nothing goes wrong any more. A session whose time is up is over.
func (w *World) Calm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calm = true
	w.trace("calm")
	w.pass(time.Now())
	for _, c := range w.clients {
		if c.away == cut || c.away == paused {
			w.comeBack(c)
		}
	}
	w.poke()
}

// Cost tells how many requests were carried out, in how many steps.
func (w *World) Cost() (requests, steps int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.requests, w.steps
}

// Get reads a node at once, without a client.
func (w *World) Get(path string) ([]byte, coord.Stat, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tree.get(path)
}

// Children lists a node's children at once, without a client.
func (w *World) Children(path string) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	names, err := w.tree.list(path)
	slices.Sort(names)
	return names, err
}

// Txn does all operations or none at once, without a client.
func (w *World) Txn(ops ...coord.Op) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.tree.txn(0, ops)
	w.notify()
	return err
}

// Settled tells that nothing is to be expected any more of what clients have
// given up or left behind when they crashed: no late transaction, no session.
func (w *World) Settled() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	told := func(r *request) bool { return r.told }
	return len(w.dying) == 0 && !slices.ContainsFunc(w.clients, func(c *Client) bool {
		return slices.ContainsFunc(c.session.pipeline, told) || slices.ContainsFunc(c.inbox, told)
	})
}

// Serve carries out all requests in the order of their calls, in real time and
// without faults, until ctx ends. It is for tests outside of a bubble.
func (w *World) Serve(ctx context.Context) {
	for {
		w.mu.Lock()
		w.calm = true
		w.submit()
		for _, c := range w.clients {
			for len(c.session.pipeline) > 0 {
				w.execute(c.session)
			}
		}
		for _, c := range w.clients {
			for len(c.answers) > 0 {
				w.deliver(c)
			}
		}
		w.mu.Unlock()
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
	}
}

// Run schedules until done says that it is enough. The error is that of a
// world that does not come to its end.
func (w *World) Run(done func() bool) error {
	for last := w.steps + w.o.Steps; ; {
		w.o.Quiet()
		if done() {
			return nil
		}
		if w.steps++; w.steps > last {
			return fault.Errorf(fault.Internal, "sim: no end after %d steps, %v", w.o.Steps, time.Since(w.began))
		}
		w.mu.Lock()
		wait, deaf := w.step()
		w.mu.Unlock()
		switch {
		case deaf:
			time.Sleep(wait)
		case wait > 0:
			timer := time.NewTimer(wait)
			select {
			case <-w.wake:
			case <-timer.C:
			}
			timer.Stop()
		}
	}
}

// step does one thing, and tells how long to wait before the next: until there
// is a request, or deaf to all requests.
func (w *World) step() (wait time.Duration, deaf bool) {
	now := time.Now()
	next := w.pass(now)
	w.submit()
	if !w.calm {
		w.strike(now)
	}
	w.choices()
	if len(w.enabled) == 0 {
		if next.IsZero() {
			return time.Hour, false // everybody rests
		}
		return next.Sub(now), false
	}
	switch {
	case w.expiring() && w.rnd.IntN(16) == 0: // everything is too slow for whoever is away
		return next.Sub(now), true
	case w.rnd.IntN(8) == 0: // the clients' own time passes
		return time.Duration(1+w.rnd.IntN(20)) * time.Millisecond, true
	}
	a := w.enabled[w.rnd.IntN(len(w.enabled))]
	if a.session != nil {
		w.execute(a.session)
	} else {
		w.deliver(a.client)
	}
	return 0, false
}

// expiring tells whether there is a session that is silent and not yet over.
func (w *World) expiring() bool {
	return len(w.dying) > 0 || slices.ContainsFunc(w.clients, func(c *Client) bool {
		return !c.session.over && !c.session.silent.IsZero()
	})
}

// action is the execution of a session's next request, or the delivery of a
// client's next answer.
type action struct {
	session *session
	client  *Client
}

func (w *World) choices() {
	w.enabled = w.enabled[:0]
	for _, c := range w.clients {
		if len(c.session.pipeline) > 0 {
			w.enabled = append(w.enabled, action{session: c.session})
		}
		if len(c.answers) > 0 && c.away == present {
			w.enabled = append(w.enabled, action{client: c})
		}
	}
	for _, s := range w.dying {
		if len(s.pipeline) > 0 {
			w.enabled = append(w.enabled, action{session: s})
		}
	}
}

// pass lets happen what is due by now, and tells when something will be next.
func (w *World) pass(now time.Time) (next time.Time) {
	until := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	due := func(s *session) {
		switch {
		case s.silent.IsZero() || s.over:
		case now.Before(s.end):
			until(s.end)
		default:
			w.trace("session %d expires", s.id)
			w.end(s)
		}
	}
	for _, c := range w.clients {
		if c.away == crashed {
			continue
		}
		due(c.session)
		switch {
		case c.away == present:
		case now.Before(c.back):
			until(c.back)
		default:
			w.comeBack(c)
		}
	}
	w.dying = slices.DeleteFunc(w.dying, func(s *session) bool { due(s); return s.over })
	return next
}

// end ends a session: its ephemeral nodes go, and what it has asked for is
// not carried out any more.
func (w *World) end(s *session) {
	if !s.over {
		s.over = true
		w.tree.expire(s.id)
		w.notify()
	}
}
