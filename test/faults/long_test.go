package faults

import (
	"fmt"
	"os"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/queue/history"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/lab"
)

// longJob has one step, whose first run lasts until long after its claim has
// passed to another worker: one that does not stop it in time is still at it
// when the next one begins.
const longJob = "long"

// long posts builds of longJob until a worker has one, and returns a function
// that waits until all of them have ended.
func (s *site) long(worker string) (finished func()) {
	s.t.Helper()
	s.setJob(longJob, `exec 9>"`+s.dir+`/lock.long.$BUILD_NUMBER"
flock -n 9 || echo "long.$BUILD_NUMBER" >>"`+s.dir+`/overlaps"
mkdir "`+s.dir+`/first.$BUILD_NUMBER" 2>/dev/null || exit 0
sleep 8`)
	var posted []ticket.Number
	for !s.holds(worker) {
		n, err := s.fronts[0].Trigger(s.t.Context(), longJob)
		if err != nil {
			s.t.Fatal(err)
		}
		posted = append(posted, n)
		lab.Until(s.t, "the long step runs", func() bool {
			_, err := os.Stat(fmt.Sprintf("%s/first.%d", s.dir, n))
			return err == nil
		})
	}
	return func() {
		s.t.Helper()
		for _, n := range posted {
			var state *build.State
			lab.Until(s.t, "the long build is finished", func() (ok bool) {
				var err error
				state, err = s.fronts[0].Build(s.t.Context(), longJob, n)
				return err == nil && state.Status == build.Complete
			})
			if state.Result != ticket.Success {
				s.t.Errorf("long build %d: %q %s", n, state.Result, state.Error)
			}
		}
	}
}

// holds tells whether a worker has claimed a long step.
func (s *site) holds(worker string) bool {
	s.t.Helper()
	f, err := os.Open(s.path(worker + ".history"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	events, err := history.Read(f)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, e := range events {
		if e.Event == queue.EventClaim && e.Job == longJob && e.Step != "" {
			return true
		}
	}
	return false
}
