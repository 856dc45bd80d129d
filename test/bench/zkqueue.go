package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/ticket"
)

// How the queue and its floor are loaded: so many sessions, so many requests at
// a time in each, so many tickets in a round.
const (
	loadConns = 8
	loadEach  = 8
	loadSize  = 1000
)

// phases are the three transactions in the life of a ticket.
var phases = []string{"posts", "claims", "commits"}

// load is what one round has shown.
type load struct {
	rates [3]float64 // of each phase, a second
	cpu   float64    // of all nodes, ms a ticket

	requests, lost int // through the queue, and attempts to claim that were refused
}

// zkQueue measures what the queue makes of the ensemble's transactions.
func zkQueue(b *bench) error {
	return b.ensembles("256m", func(r *rig) error {
		ctx := context.Background()
		conns, err := r.dial(ctx, loadConns)
		if err != nil {
			return err
		}
		defer hangUp(conns)
		queues, seen, err := observedQueues(ctx, conns)
		if err != nil {
			return err
		}
		raw, end, err := r.raw(loadConns)
		if err != nil {
			return err
		}
		defer end()
		const rounds = 4
		var ours, floor [4][]float64
		var lost, requests []float64
		for round := range rounds {
			o, err := r.queueRound(ctx, queues, seen)
			if err != nil {
				return err
			}
			f, err := r.rawRound(raw, round)
			if err != nil {
				return err
			}
			if round == 0 { // the servers' code is compiled meanwhile
				continue
			}
			for i := range phases {
				ours[i], floor[i] = append(ours[i], o.rates[i]), append(floor[i], f.rates[i])
			}
			ours[3], floor[3] = append(ours[3], o.cpu), append(floor[3], f.cpu)
			requests, lost = append(requests, float64(o.requests)/loadSize), append(lost, float64(o.lost)/loadSize)
		}
		for i, phase := range phases {
			r.row(fmt.Sprintf("%s, %d sessions, %d at a time", phase, loadConns, loadConns*loadEach), quantile(ours[i], 0.5), "1/s",
				"the same transactions and nothing else", quantile(floor[i], 0.5), "", nil)
		}
		r.row("servers' CPU a ticket: post, claim, commit", quantile(ours[3], 0.5), "ms", "the same three transactions", quantile(floor[3], 0.5), "", nil)
		r.row(fmt.Sprintf("requests a ticket: post, claim, commit, %d at a time", loadConns*loadEach), quantile(requests, 0.5), "", "transactions", 3, "", nil)
		r.row(fmt.Sprintf("refused attempts a claim, %d at a time", loadConns*loadEach), quantile(lost, 0.5), "", "", 0, "", nil)
		return nil
	})
}

// observedQueues are the queue as several processes have it.
func observedQueues(ctx context.Context, conns []coord.Conn) ([]*queue.Queue, []*observed, error) {
	queues, seen := make([]*queue.Queue, len(conns)), make([]*observed, len(conns))
	return queues, seen, together(len(conns), 32, func(i int) (err error) {
		seen[i] = &observed{Conn: conns[i]}
		queues[i], err = queue.New(ctx, seen[i], queue.Options{})
		return err
	})
}

// noop is a ticket like most, about 300 bytes.
func noop(capability string) *ticket.Ticket {
	t := ticket.New("execute-shell", capability)
	t.JobID, t.BuildNumber, t.Step = "some-job-of-a-usual-name", 1234, "3"
	t.Params = json.RawMessage(`{"script":"make -j4 all && make check"}`)
	return t
}

// phase runs one phase and tells its rate.
func phase(do func(i int) error) (float64, error) {
	begin := time.Now()
	var next atomic.Int64
	err := together(loadConns*loadEach, loadConns*loadEach, func(client int) error {
		for next.Add(1) <= loadSize {
			if err := do(client); err != nil {
				return err
			}
		}
		return nil
	})
	return loadSize / time.Since(begin).Seconds(), err
}

// measured runs the three phases.
func (r *rig) measured(do [3]func(client int) error) (l load, err error) {
	before, err := r.used()
	if err != nil {
		return l, err
	}
	for i := range do {
		if l.rates[i], err = phase(do[i]); err != nil {
			return l, fmt.Errorf("%s: %w", phases[i], err)
		}
	}
	after, err := r.used()
	l.cpu = 1000 * (after - before).Seconds() / loadSize
	return l, err
}

// queueRound is a round through the queue.
func (r *rig) queueRound(ctx context.Context, queues []*queue.Queue, seen []*observed) (load, error) {
	offer := []string{"execute_shell_v1"}
	claims := make(chan *queue.Claim, loadSize)
	asked(seen)
	l, err := r.measured([3]func(client int) error{
		func(client int) error {
			return queues[client%loadConns].Post(ctx, noop(offer[0]))
		},
		func(client int) error {
			for range 1000 {
				c, err := queues[client%loadConns].Claim(ctx, offer, fmt.Sprintf("host/%d", client), nil)
				if err != nil {
					return err
				}
				if c != nil {
					claims <- c
					return nil
				}
			}
			return errors.New("no ticket is to be had")
		},
		func(client int) error {
			// By whoever holds it: the claim knows its session.
			_, err := queues[client%loadConns].Commit(ctx, queue.Change{End: <-claims})
			return err
		},
	})
	l.requests, l.lost = asked(seen)
	return l, err
}

// rawRound is a round of the same transactions as the queue makes, of nodes of
// the same sizes, that nothing is looked up or chosen for.
func (r *rig) rawRound(conns []*zk.Conn, round int) (load, error) {
	data, err := json.Marshal(noop("execute_shell_v1"))
	if err != nil {
		return load{}, err
	}
	t := noop("execute_shell_v1")
	now := time.Now()
	t.Status, t.Assignee, t.Started, t.Attempt = ticket.Running, "host/12", &now, 1
	running, err := json.Marshal(t)
	if err != nil {
		return load{}, err
	}
	var next [3]atomic.Int64
	do := func(phase int, ops func(id string) []any) func(int) error {
		return func(client int) error {
			// The names are as long as a ticket's id.
			id := fmt.Sprintf("%030d-%05d", round, next[phase].Add(1))
			_, err := conns[client%loadConns].Multi(ops(id)...)
			return err
		}
	}
	return r.measured([3]func(int) error{
		do(0, func(id string) []any { return rawPost(id, data) }),
		do(1, func(id string) []any { return rawClaim(id, running) }),
		do(2, func(id string) []any { return rawCommit(id) }),
	})
}

var world = zk.WorldACL(zk.PermAll)

func rawNode(kind, id string) string { return rawFolder + "/" + kind + "/" + id }

func rawCreate(path string, data []byte, flags int32) any {
	return &zk.CreateRequest{Path: path, Data: data, Acl: world, Flags: flags}
}

func rawDelete(path string) any { return &zk.DeleteRequest{Path: path, Version: -1} }

func rawPost(id string, data []byte) []any {
	return []any{rawCreate(rawNode("t", id), data, 0), rawCreate(rawNode("r", id), nil, 0)}
}

func rawClaim(id string, data []byte) []any {
	return []any{rawDelete(rawNode("r", id)), rawCreate(rawNode("run", id), []byte("execute_shell_v1/0000000000"), 0),
		rawCreate(rawNode("c", id), []byte(`{"worker":"host/12","nonce":"`+strings.Repeat("0", 36)+`"}`), zk.FlagEphemeral),
		&zk.SetDataRequest{Path: rawNode("t", id), Data: data, Version: -1}}
}

func rawCommit(id string) []any {
	return []any{rawDelete(rawNode("t", id)), rawDelete(rawNode("run", id)), rawDelete(rawNode("c", id))}
}
