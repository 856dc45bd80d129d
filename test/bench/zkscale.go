package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/distci/distci/lib/control"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/ticket"
)

// The size of a large site.
const (
	scaleJobs    = 100_000
	scaleBuilds  = 5_000 // at the same time, each with a step that runs
	scaleHolders = 50    // worker processes that hold them
	scaleWaiting = 500   // worker processes that wait
	scaleHeap    = "176m"
)

// scalePending are the numbers of tickets that wait for a worker.
var scalePending = []int{100, 10_000, 50_000}

// zkScale measures a large site: the servers' memory, and what a ticket costs
// as the queue grows.
func zkScale(b *bench) error {
	return b.ensembles(scaleHeap, func(r *rig) error {
		ctx := context.Background()
		conns, err := r.dial(ctx, scaleHolders)
		if err != nil {
			return err
		}
		defer hangUp(conns)
		st, err := dir.Open(filepath.Join(r.dir, "store"))
		if err != nil {
			return err
		}
		defer st.Close()
		repos := make([]*repo.Repo, len(conns))
		if err := together(len(conns), 8, func(i int) (err error) {
			repos[i], err = repo.Open(ctx, conns[i], st, queue.Options{})
			return err
		}); err != nil {
			return err
		}
		if err := makeJobs(ctx, conns[:8]); err != nil {
			return err
		}
		begun, err := begin(ctx, repos)
		if err != nil {
			return err
		}
		r.row(fmt.Sprintf("builds triggered and begun, among %d jobs", scaleJobs), begun, "1/s", "", 0, "", nil)
		_, before, heapErr := r.heap()
		waiting, err := r.dial(ctx, scaleWaiting)
		if err != nil {
			return err
		}
		defer hangUp(waiting)
		c := &crowd{done: make(chan struct{}, 1)}
		if c.queues, c.seen, err = observedQueues(ctx, waiting); err != nil {
			return err
		}
		stop, err := c.start(ctx, "execute_shell_v1", "nodelabel_idle")
		if err != nil {
			return err
		}
		if _, after, err := r.heap(); err == nil && heapErr == nil {
			r.row("heap of all servers a waiting worker", (after-before)*1024/scaleWaiting, "KB", "", 0, "", nil)
		}
		idle, err := r.idleness()
		if err != nil {
			return errors.Join(err, stop())
		}
		r.row(fmt.Sprintf("servers' CPU while %d workers wait and %d hold tickets, of one core", scaleWaiting, scaleHolders), idle, "%", "", 0, "", nil)
		return errors.Join(r.pending(ctx, repos), r.memory(), stop())
	})
}

func scaleJob(i int) string { return fmt.Sprintf("job-of-a-usual-name-%06d", i) }

// makeJobs makes what a job that was built once has in the coordination.
func makeJobs(ctx context.Context, conns []coord.Conn) error {
	const batch = 500
	return together(scaleJobs/batch, len(conns), func(k int) error {
		ops := make([]coord.Op, batch)
		for i := range ops {
			ops[i] = coord.Create("/jobs/"+scaleJob(k*batch+i), []byte("1"))
		}
		_, err := conns[k%len(conns)].Txn(ctx, ops...)
		return err
	})
}

// begin begins builds and claims the first step of each, as workers do. It
// tells how many a second.
func begin(ctx context.Context, repos []*repo.Repo) (float64, error) {
	task := `{"type":"execute-shell","params":{"script":"make -j4 all && make check"}}`
	if err := together(scaleBuilds, 8, func(i int) error {
		id := scaleJob(i * (scaleJobs / scaleBuilds))
		return repos[0].PutJob(ctx, id, fmt.Appendf(nil, `{"job_id":%q,"tasks":[%s%s]}`, id, strings.Repeat(task+",", 4), task))
	}); err != nil {
		return 0, err
	}
	from := time.Now()
	err := together(scaleBuilds, 16, func(n int) error {
		i := n % len(repos)
		if _, err := repos[i].Trigger(ctx, scaleJob(n*(scaleJobs/scaleBuilds)), nil); err != nil {
			return err
		}
		return beginOne(ctx, repos[i], fmt.Sprintf("host/%d", i))
	})
	return scaleBuilds / time.Since(from).Seconds(), err
}

// beginOne takes a control ticket, acts on it, and goes on with the step that
// it posts, which is left running.
func beginOne(ctx context.Context, rp *repo.Repo, name string) error {
	for range 1000 {
		c, err := rp.Queue().Claim(ctx, []string{"build_control_v1"}, name, nil)
		if err != nil {
			return err
		}
		if c == nil {
			continue
		}
		t := c.Ticket.Clone()
		ctl, err := rp.Prepare(ctx, t)
		if err != nil {
			return err
		}
		if err := control.Act(ctx, t, time.Now()); err != nil {
			return err
		}
		t.Finish(nil)
		step, err := rp.CommitControl(ctx, c, ctl, t, []string{"execute_shell_v1"})
		if err == nil && step == nil {
			err = errors.New("the first step is not claimed")
		}
		return err
	}
	return errors.New("no ticket is to be had")
}

// pending measures what a ticket costs while others wait for a worker that
// there is not.
func (r *rig) pending(ctx context.Context, repos []*repo.Repo) error {
	const clients, cycles = 16, 1000
	offer := []string{"execute_shell_v1", "nodelabel_rare"}
	post := func(i, n int) error {
		var ts []*ticket.Ticket
		for range n {
			t := noop(offer[0])
			t.Capabilities = offer
			ts = append(ts, t)
		}
		_, err := repos[i].Queue().Commit(ctx, queue.Change{Post: ts})
		return err
	}
	have := 0
	var first [2]float64
	for _, n := range scalePending {
		const batch = 50
		if err := together((n-have)/batch, 4, func(i int) error { return post(i%4, batch) }); err != nil {
			return err
		}
		have = n
		cycle := func(i int) error {
			q := repos[i%clients].Queue()
			if err := post(i%clients, 1); err != nil {
				return err
			}
			for range 1000 {
				c, err := q.Claim(ctx, offer, fmt.Sprintf("rare/%d", i%clients), nil)
				if err != nil {
					return err
				}
				if c != nil {
					_, err = q.Commit(ctx, queue.Change{End: c})
					return err
				}
			}
			return errors.New("no ticket is to be had")
		}
		if err := together(cycles/3, clients, cycle); err != nil { // to warm up
			return err
		}
		before, err := r.used()
		if err != nil {
			return err
		}
		from := time.Now()
		if err := together(cycles, clients, cycle); err != nil {
			return err
		}
		took := time.Since(from)
		after, err := r.used()
		if err != nil {
			return err
		}
		cpu, each := 1000*(after-before).Seconds()/cycles, 1000*took.Seconds()/cycles
		name, flat := strconv.Itoa(n)+" pending tickets: ", func(_, ratio float64) bool { return ratio <= 1.5 }
		if first[0] == 0 {
			first = [2]float64{cpu, each}
			r.row(name+"servers' CPU a ticket", cpu, "ms", "", 0, "", nil)
			r.row(fmt.Sprintf("%stime a ticket, %d at a time", name, clients), each, "ms", "", 0, "", nil)
			continue
		}
		r.row(name+"servers' CPU a ticket", cpu, "ms", "with 100", first[0], "<= 1.5 x", flat)
		r.row(fmt.Sprintf("%stime a ticket, %d at a time", name, clients), each, "ms", "with 100", first[1], "<= 1.5 x", flat)
	}
	return nil
}

// memory makes the rows for the largest of the servers.
func (r *rig) memory() error {
	name := fmt.Sprintf("%d jobs, %d builds, %d waiting workers, %d pending tickets: ", scaleJobs, scaleBuilds, scaleWaiting, scalePending[len(scalePending)-1])
	rss := 0.0
	for i := range r.nodes {
		rss = max(rss, float64(r.RSS(i+1))/(1<<20))
	}
	r.row(name+"resident memory of a server, -Xmx"+scaleHeap, rss, "MB", "", 0, "< 256 MB", func(v, _ float64) bool { return v < 256 })
	heap, _, err := r.heap()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: the servers' heaps are not measured:", err)
		return nil
	}
	r.row(name+"live heap of a server", heap, "MB", "", 0, "", nil)
	return nil
}

// idleness is the share of a core that all servers use while nothing happens.
func (r *rig) idleness() (float64, error) {
	before, err := r.used()
	if err != nil {
		return 0, err
	}
	time.Sleep(session)
	after, err := r.used()
	return 100 * (after - before).Seconds() / session.Seconds(), err
}

// heap is what the servers have on their heaps after a collection, in MB: the
// largest of them, and all together.
func (r *rig) heap() (most, sum float64, err error) {
	for i := range r.nodes {
		// It collects first, and counts only what is reachable.
		out, err := exec.Command("jcmd", strconv.Itoa(r.PID(i+1)), "GC.class_histogram").Output()
		if err != nil {
			return 0, 0, err
		}
		total := 0.0
		for line := range strings.Lines(string(out)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == "Total" {
				total, err = strconv.ParseFloat(f[2], 64)
			}
		}
		if total == 0 || err != nil {
			return 0, 0, fmt.Errorf("jcmd tells no total: %w", err)
		}
		total /= 1 << 20
		most, sum = max(most, total), sum+total
	}
	return most, sum, nil
}
