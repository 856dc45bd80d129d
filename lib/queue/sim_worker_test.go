package queue_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/sim"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/ticket"
)

// simWorker is one simulated process. It does what distci-claim and
// distci-frontend do: it posts, claims, leases, commits, continues, keeps,
// gives back and requeues.
type simWorker struct {
	*simulation
	name    string
	client  *sim.Client
	rnd     *rand.Rand
	q       *queue.Queue
	number  int
	made    int // tickets
	commits int // tried

	// Guarded by simulation.mu.
	events  []queue.Event
	answers []answer
}

// answer is what a worker was told of a commit.
type answer struct {
	id    string
	entry string // that it was to leave in the ledger
	err   error
	held  bool // it held the ticket, for certain, when it was answered
}

// The ledger: the permanent record that is created with the post and set, at
// whatever version, by every commit. Its version counts the commits, its data
// name the last one. It does not hinder a second commit.
func ledger(id string) string { return "/done/" + id }

var simOffer = []string{"a", "b"}

func (s *simWorker) rest(most int) {
	time.Sleep(time.Duration(1+s.rnd.IntN(most)) * time.Millisecond)
}

// run works until the simulation is over, or its process crashes.
func (s *simWorker) run(ctx context.Context, posts int) {
	begun := sync.OnceFunc(func() { s.count(&s.posting, -1) })
	defer s.count(&s.running, -1)
	defer begun()
	var conn coord.Conn = s.client
	if s.wrap != nil {
		conn = s.wrap(conn)
	}
	for {
		q, err := queue.New(ctx, conn, queue.Options{Intn: s.rnd.IntN, Trace: s.trace})
		if err == nil {
			s.q = q
			break
		}
		s.rest(20)
	}
	for range posts {
		s.post(ctx)
	}
	begun()
	line := s.q.Waiter()
	for !s.over() {
		if s.turn(ctx) {
			continue
		}
		if s.rest(40); s.rnd.IntN(6) == 0 {
			_, _ = line.Wait(ctx, simOffer, nil, 100*time.Millisecond)
			line.Leave(ctx)
		}
	}
}

func (s *simWorker) trace(e queue.Event) {
	if s.client.Crashed() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

// newTicket makes a ticket of one of three sets of capabilities.
func (s *simWorker) newTicket() *ticket.Ticket {
	t := ticket.New("x", [][]string{nil, {"a"}, {"b"}}[s.rnd.IntN(3)]...)
	t.ID = fmt.Sprintf("00000000-0000-7000-8%03d-%012d", s.number, s.made)
	s.made++
	return t
}

// post posts a ticket with its ledger. It repeats until it knows.
func (s *simWorker) post(ctx context.Context) {
	t := s.newTicket()
	for {
		err := s.q.Post(ctx, t, coord.Create(ledger(t.ID), nil))
		if err == nil || errors.Is(err, coord.ErrNodeExists) {
			return
		}
		s.rest(20)
	}
}

// turn is one look for work, and tells whether there was any. Errors of the
// service are nothing: it looks again.
func (s *simWorker) turn(ctx context.Context) bool {
	if s.rnd.IntN(3) == 0 {
		_, _ = s.q.Requeue(ctx)
	}
	if n := s.rnd.IntN(8); n == 0 || n < 6 && s.leases {
		s.serve(ctx)
		return false
	}
	asking, cancel := s.hasty(ctx)
	c, _ := s.q.Claim(asking, simOffer, s.name, nil)
	cancel()
	found := c != nil
	for c != nil {
		switch s.rnd.IntN(12) {
		case 0, 1, 2, 3, 4, 5:
		case 6: // longer than a session
			s.rest(800)
		default:
			s.rest(60)
		}
		c = s.end(ctx, c)
	}
	return found
}

// hasty is a context of somebody who may not wait for an answer.
func (s *simWorker) hasty(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.rnd.IntN(4) > 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Duration(s.rnd.IntN(60))*time.Millisecond)
}

// end ends a claim in one of the ways that there are, and returns the one that
// it continues with.
func (s *simWorker) end(ctx context.Context, c *queue.Claim) *queue.Claim {
	ch := queue.Change{End: c}
	switch s.rnd.IntN(8) {
	case 0:
		s.giveBack(ctx, c)
		return nil
	case 1:
		ch.Keep = true
		c.Ticket = c.Ticket.Clone()
		c.Ticket.Finish(nil)
	case 2, 3, 4:
		if s.made >= 2 {
			break
		}
		t := s.newTicket()
		ch.Post = []*ticket.Ticket{t}
		if s.rnd.IntN(3) > 0 {
			ch.Next = t
		}
	}
	next, err := s.commit(ctx, ch)
	if err != nil && !errors.Is(err, queue.ErrLost) {
		s.giveBack(ctx, c)
		return nil
	}
	return next
}

// commit commits as lib/repo does: with the record of the build, which others
// change as well, compared and set.
func (s *simWorker) commit(ctx context.Context, ch queue.Change) (*queue.Claim, error) {
	shared := s.rnd.IntN(2) == 0
	for {
		s.commits++
		entry := fmt.Sprintf("%s, its commit %d", s.name, s.commits)
		ch.Ops = []coord.Op{coord.Set(ledger(ch.End.Ticket.ID), []byte(entry), coord.AnyVersion)}
		for _, t := range ch.Post {
			ch.Ops = append(ch.Ops, coord.Create(ledger(t.ID), nil))
		}
		if shared {
			_, st, err := s.client.Get(ctx, "/build")
			if err != nil {
				s.rest(20)
				continue
			}
			ch.Ops = append(ch.Ops, coord.Set("/build", nil, st.Version))
		}
		waiting, cancel := s.hasty(ctx)
		next, err := s.q.Commit(waiting, ch)
		cancel()
		var refused *queue.OpError
		if errors.As(err, &refused) && errors.Is(err, coord.ErrBadVersion) {
			continue
		}
		s.told(answer{ch.End.Ticket.ID, entry, err, err != nil && s.holds(ch.End)})
		return next, err
	}
}

// holds tells whether a claim that goes with a session cannot have been lost.
func (s *simWorker) holds(c *queue.Claim) bool { return c.Worker == s.name && c.Held() }

func (s *simWorker) told(a answer) {
	if s.client.Crashed() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, a)
}

// giveBack releases the claim, for as long as it is worth it.
func (s *simWorker) giveBack(ctx context.Context, c *queue.Claim) {
	for {
		err := c.Release(ctx, fault.Errorf(fault.Temporary, "given back"), s.rnd.IntN(2) == 0)
		if err == nil || errors.Is(err, queue.ErrLost) || !c.Held() {
			return
		}
		s.rest(20)
	}
}

// serve does what a frontend does for a worker without a session: it leases a
// ticket, extends the lease, and ends it; each time from the ticket alone, as
// another frontend would.
func (s *simWorker) serve(ctx context.Context) {
	ids, err := s.q.List(ctx)
	if err != nil || len(ids) == 0 {
		return
	}
	id := ids[s.rnd.IntN(len(ids))]
	t, ref, err := s.q.Get(ctx, id)
	if err != nil {
		return
	}
	if !ref.Claimed() {
		if t.Status == ticket.Pending {
			_, _ = s.q.Lease(ctx, ref, t, "rest-"+s.name, time.Duration(50+s.rnd.IntN(400))*time.Millisecond)
		}
		return
	}
	c, err := s.q.Leased(ctx, ref, t)
	if err != nil || c.Left() <= 0 {
		return
	}
	switch s.rnd.IntN(4) {
	case 0:
		_ = c.Extend(ctx, time.Duration(100+s.rnd.IntN(200))*time.Millisecond)
	case 1:
		_ = c.Release(ctx, fault.Errorf(fault.Temporary, "given back"), false)
	default:
		_, _ = s.commit(ctx, queue.Change{End: c})
	}
}

// simulation is what the processes of one schedule share: only what the judge
// needs, nothing that decides what they do, but for its end.
type simulation struct {
	wrap   func(coord.Conn) coord.Conn // plants a fault; nil: none
	leases bool                        // most workers have no session

	mu      sync.Mutex
	posting int // workers that have not begun to work
	running int
	ended   bool
}

func (s *simulation) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *simulation) count(n *int, by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*n += by
}

func (s *simulation) none(n *int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *n == 0
}
