package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distci/distci/lib/queue"
)

// How tickets come while workers wait for them.
const (
	waitTickets = 200
	waitEvery   = 50 * time.Millisecond
)

// crowd is workers that wait, each with a session of its own. What they take
// they commit at once.
type crowd struct {
	queues []*queue.Queue
	seen   []*observed

	mu     sync.Mutex
	posted map[string]time.Time
	late   []float64 // from the post to the claim, in ms
	done   chan struct{}

	woken, empty atomic.Int64 // returns of Wait with news; looks after that with nothing in them
}

// zkWait measures how long a ticket waits for a worker that waits for tickets.
func zkWait(b *bench) error {
	return b.ensembles("256m", func(r *rig) error {
		var few float64
		for _, workers := range []int{10, 100, 500} {
			p50, err := r.wait(workers, few)
			if err != nil {
				return err
			}
			if few == 0 {
				few = p50
			}
		}
		return nil
	})
}

// wait makes the rows for so many workers. The time with few workers is what
// they are compared with; if that is 0, it is a watch's.
func (r *rig) wait(workers int, few float64) (p50 float64, err error) {
	ctx := context.Background()
	conns, err := r.dial(ctx, workers+1)
	if err != nil {
		return 0, err
	}
	defer hangUp(conns)
	queues, seen, err := observedQueues(ctx, conns)
	if err != nil {
		return 0, err
	}
	c := &crowd{queues: queues[1:], seen: seen[1:], posted: map[string]time.Time{}, done: make(chan struct{}, waitTickets)}
	stop, err := c.start(ctx, "execute_shell_v1")
	if err != nil {
		return 0, err
	}
	const warm = 20
	if err := c.feed(ctx, queues[0], warm); err != nil {
		return 0, errors.Join(err, stop())
	}
	c.late = nil
	c.woken.Store(0)
	c.empty.Store(0)
	asked(seen)
	before, err := r.used()
	if err != nil {
		return 0, errors.Join(err, stop())
	}
	err = c.feed(ctx, queues[0], waitTickets)
	after, e := r.used()
	requests, lost := asked(seen)
	if err := errors.Join(err, e, stop()); err != nil {
		return 0, err
	}
	peer, against := few, "with 10"
	if few == 0 {
		if peer, err = r.watchTrip(); err != nil {
			return 0, err
		}
		against = "a watch, then one transaction"
	}
	p50 = quantile(c.late, 0.5)
	name := fmt.Sprintf("%d waiting workers, 20 tickets a second: ", workers)
	r.row(name+"post to claim, p50", p50, "ms", against+", p50", peer, "", nil)
	r.row(name+"post to claim, p99", quantile(c.late, 0.99), "ms", against+", p50", peer, "", nil)
	r.row(name+"workers woken a ticket", float64(c.woken.Load())/waitTickets, "", "", 0, "", nil)
	r.row(name+"looks that found nothing, a claim", float64(c.empty.Load())/waitTickets, "", "", 0, "", nil)
	r.row(name+"refused attempts a claim", float64(lost)/waitTickets, "", "", 0, "", nil)
	r.row(name+"requests a ticket", float64(requests)/waitTickets, "", "transactions", 3, "", nil)
	r.row(name+"servers' CPU a ticket", 1000*(after-before).Seconds()/waitTickets, "ms", "", 0, "", nil)
	return p50, nil
}

// start lets the workers wait, as lib/worker does it, until stop.
func (c *crowd) start(ctx context.Context, offer ...string) (stop func() error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	failed := make(chan error, len(c.queues))
	for i := range c.queues {
		go func() { failed <- c.worker(ctx, i, offer) }()
	}
	stop = func() error {
		cancel()
		var errs []error
		for range c.queues {
			errs = append(errs, <-failed)
		}
		return errors.Join(errs...)
	}
	// They have come when all stand in line.
	for range 600 {
		n, err := c.inLine(ctx)
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		if n >= len(c.queues) {
			return stop, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil, errors.Join(errors.New("the workers do not wait"), stop())
}

// inLine counts the workers that wait.
func (c *crowd) inLine(ctx context.Context) (sum int, err error) {
	conn := c.seen[0].Conn
	lines, err := conn.Children(ctx, "/line")
	if err != nil {
		return 0, err
	}
	for _, l := range lines {
		places, err := conn.Children(ctx, "/line/"+l)
		if err != nil {
			return 0, err
		}
		sum += len(places)
	}
	return sum, nil
}

// worker is one of them.
func (c *crowd) worker(ctx context.Context, i int, offer []string) error {
	const sweeps = session / 4
	q := c.queues[i]
	w := q.Waiter()
	swept, looked, news := time.Now().Add(-rand.N(sweeps)), time.Time{}, false
	for ctx.Err() == nil {
		if time.Since(swept) >= sweeps {
			swept = time.Now()
			if _, err := q.RequeueInTurn(ctx, sweeps); err != nil && ctx.Err() == nil {
				return err
			}
		}
		if time.Since(looked) >= session {
			claim, err := q.Claim(ctx, offer, fmt.Sprintf("host/%d", i), nil)
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				return err
			case claim != nil:
				c.claimed(claim)
				w.Leave(ctx)
				if _, err := q.Commit(ctx, queue.Change{End: claim}); err != nil && ctx.Err() == nil {
					return err
				}
				c.done <- struct{}{}
				looked, news = time.Time{}, false
				continue
			case news:
				c.empty.Add(1)
			}
			looked = time.Now().Add(rand.N(session / 2))
		}
		var err error
		news, err = w.Wait(ctx, offer, nil, max(sweeps-time.Since(swept), time.Millisecond))
		if err != nil && ctx.Err() == nil {
			return err
		}
		if news {
			c.woken.Add(1)
			looked = time.Time{}
		}
	}
	return nil
}

func (c *crowd) claimed(claim *queue.Claim) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.late = append(c.late, ms(c.posted[claim.Ticket.ID], now))
}

// feed posts n tickets, one after the other, and waits until they are done.
func (c *crowd) feed(ctx context.Context, q *queue.Queue, n int) error {
	ticker := time.NewTicker(waitEvery)
	defer ticker.Stop()
	for range n {
		t := noop("execute_shell_v1")
		c.mu.Lock()
		c.posted[t.ID] = time.Now()
		c.mu.Unlock()
		if err := q.Post(ctx, t); err != nil {
			return err
		}
		<-ticker.C
	}
	for range n {
		select {
		case <-c.done:
		case <-time.After(time.Minute):
			return errors.New("a ticket is not taken")
		}
	}
	return nil
}

// watchTrip is the least that it can take until a ticket is claimed: one
// client creates a node, another one that watches for it hears of it and
// carries out one transaction. It is the median, in ms.
func (r *rig) watchTrip() (float64, error) {
	conns, end, err := r.raw(2)
	if err != nil {
		return 0, err
	}
	defer end()
	var late []float64
	for i := range 60 {
		id := fmt.Sprintf("watch-%030d", i)
		_, _, news, err := conns[1].ChildrenW(rawFolder + "/r")
		if err != nil {
			return 0, err
		}
		begin := time.Now()
		posted := make(chan error, 1)
		go func() {
			_, err := conns[0].Multi(rawPost(id, make([]byte, 300))...)
			posted <- err
		}()
		<-news
		if _, err := conns[1].Multi(rawClaim(id, make([]byte, 350))...); err != nil {
			return 0, err
		}
		late = append(late, ms(begin, time.Now()))
		if err := <-posted; err != nil {
			return 0, err
		}
		if _, err := conns[0].Multi(rawCommit(id)...); err != nil {
			return 0, err
		}
		time.Sleep(waitEvery / 2)
	}
	return quantile(late, 0.5), nil
}
