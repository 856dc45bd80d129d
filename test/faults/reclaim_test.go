package faults

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/queue/history"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/lab"
	zktest "github.com/distci/distci/test/zk"
)

// TestReclaim measures, by the processes' own history, how long the ticket of
// a worker that was killed waits for the next one: at most one and a half
// session time-outs, in the median of several kills. Nothing here is a matter
// of the machine's speed: the time is spent waiting for the session's end.
func TestReclaim(t *testing.T) {
	const kills = 7
	e := zktest.Start(t, zktest.Options{Nodes: 3, TickTime: tick})
	s := newSite(t, e, nil, "reclaim")
	s.frontend("f1")
	// The first run of a step lasts; the one that repeats it does not.
	s.setJob(job, `mkdir `+s.dir+`/first.$BUILD_NUMBER 2>/dev/null || exit 0
exec sleep 600`)
	var victims []string
	for i := range kills {
		name := fmt.Sprintf("victim%d", i+1)
		victims = append(victims, name)
		s.worker(name)
	}
	for n := ticket.Number(1); n <= kills; n++ {
		if _, err := s.fronts[0].Trigger(t.Context(), job); err != nil {
			t.Fatal(err)
		}
		lab.Until(t, "the step runs", func() bool {
			_, err := os.Stat(fmt.Sprintf("%s/first.%d", s.dir, n))
			return err == nil
		})
	}
	// Idle workers, in whose hands it is.
	for i := range 3 {
		name := fmt.Sprintf("rescuer%d", i+1)
		s.worker(name)
		lab.Until(t, name+" is there", func() bool {
			return s.anyFront(t, func(c *client.Client) error {
				members, err := c.Members(t.Context())
				for _, m := range members {
					if m.Name == name {
						return nil
					}
				}
				return fmt.Errorf("%s is not there: %w", name, err)
			})
		})
	}
	died := map[string]time.Time{}
	for _, name := range victims {
		died[name] = time.Now()
		s.workers[name].Kill()
		s.killed = append(s.killed, name)
		// At different moments of the workers' and the servers' rounds.
		time.Sleep(170 * time.Millisecond)
	}
	for n := ticket.Number(1); n <= kills; n++ {
		if state := s.finished(n); state.Result != ticket.Success || state.Tasks["0"].Attempt != 2 {
			t.Errorf("build %d: %q, attempt %d", n, state.Result, state.Tasks["0"].Attempt)
		}
	}
	s.checkTree()
	s.shutdown()
	events := s.history()
	for _, v := range history.Check(events, history.Options{Complete: true, Killed: s.killed}) {
		t.Error(v)
	}
	waits := s.reclaims(events, died)
	if len(waits) != kills {
		t.Fatalf("%d tickets of %d were claimed again", len(waits), kills)
	}
	t.Logf("from a worker's death to the next claim, with a session of %v: %v", session, waits)
	if median := waits[kills/2]; median > session*3/2 {
		t.Errorf("the median is %v, more than one and a half sessions", median)
	}
}

// reclaims tells for each ticket that a dead worker held how long it took from
// the death to the next claim, in order.
func (s *site) reclaims(events []queue.Event, died map[string]time.Time) (waits []time.Duration) {
	held := map[string]string{} // whose the step's ticket was
	for _, e := range events {
		if _, ok := died[e.Worker]; ok && e.Event == queue.EventClaim && e.Attempt == 1 && e.Step != "" {
			held[e.Ticket] = e.Worker
		}
	}
	for _, e := range events {
		if worker := held[e.Ticket]; worker != "" && e.Event == queue.EventClaim && e.Outcome == queue.Done && e.Worker != worker {
			waits = append(waits, e.End.Sub(died[worker]).Round(time.Millisecond))
		}
	}
	slices.Sort(waits)
	return waits
}
