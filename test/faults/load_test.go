package faults

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/lab"
)

// job is what the load builds. A step holds a lock while it runs, so two
// workers on the same step would be noticed; and it notes that it ran.
const job = "load"

func step(dir, key, seconds string) string {
	return `exec 9>"` + dir + `/lock.$BUILD_NUMBER.` + key + `"
flock -n 9 || echo "$BUILD_NUMBER.` + key + `" >>"` + dir + `/overlaps"
echo "$BUILD_NUMBER.` + key + `" >>"` + dir + `/ran"
sleep ` + seconds
}

// load posts builds through every frontend, at a steady pace.
type load struct {
	s    *site
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu     sync.Mutex
	posted []ticket.Number // whose post was acknowledged
	at     []time.Time     // and when
	failed map[string]int  // what was said instead, how often
}

// pace is the time between a frontend's posts: the workers keep up with it, on
// a slow machine too.
const pace = 500 * time.Millisecond

func (s *site) load() *load {
	s.t.Helper()
	s.setJob(job, step(s.dir, "0", "0.1"), step(s.dir, "1", "0.2"), step(s.dir, "2", "0.1"))
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{s: s, stop: cancel, failed: map[string]int{}}
	for _, f := range s.fronts {
		l.wg.Go(func() { l.post(ctx, f) })
	}
	s.t.Cleanup(l.end)
	return l
}

// without removes from an error what is different each time.
var without = regexp.MustCompile(` \(request [^)]*\)`)

func (l *load) post(ctx context.Context, f front) {
	every := time.NewTicker(pace)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
		}
		// Not with ctx: what has begun is brought to its end.
		n, err := f.Trigger(context.Background(), job)
		l.mu.Lock()
		if err == nil {
			l.posted, l.at = append(l.posted, n), append(l.at, time.Now())
		} else {
			l.failed[f.name+": "+without.ReplaceAllString(err.Error(), "")]++
			if status := client.Status(err); status != http.StatusServiceUnavailable && status != http.StatusGatewayTimeout {
				l.s.t.Errorf("a post through %s: %v", f.name, err)
			}
		}
		l.mu.Unlock()
	}
}

// end stops posting. It may be repeated.
func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// more waits until n more builds were posted.
func (l *load) more(n int) {
	l.s.t.Helper()
	count := func() int {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.posted)
	}
	want := count() + n
	lab.Until(l.s.t, "more builds are posted", func() bool { return count() >= want })
}

// progress waits until n more builds have been posted and finished.
func (l *load) progress(n int) {
	l.s.t.Helper()
	l.more(n)
	l.mu.Lock()
	last := slices.Max(l.posted)
	l.mu.Unlock()
	l.s.finished(last)
}

// pause is the longest time without an acknowledged post.
func (l *load) pause() (d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.SortFunc(l.at, time.Time.Compare)
	for i := 1; i < len(l.at); i++ {
		d = max(d, l.at[i].Sub(l.at[i-1]))
	}
	return d
}

// finished waits for a build's end, as any frontend sees it.
func (s *site) finished(n ticket.Number) (state *build.State) {
	s.t.Helper()
	last := errors.New("never asked")
	done := false
	defer func() {
		if !done {
			s.t.Logf("build %d: %v", n, last)
		}
	}()
	lab.Until(s.t, "a build is finished", func() bool {
		return s.anyFront(s.t, func(c *client.Client) (err error) {
			ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
			defer cancel()
			state, err = c.Build(ctx, job, n)
			last = err
			return err
		}) && state.Status == build.Complete
	})
	done = true
	return state
}

// anyFront asks one frontend after the other, until one has an answer.
func (s *site) anyFront(t *testing.T, ask func(c *client.Client) error) bool {
	t.Helper()
	for _, f := range s.fronts {
		if ask(f.Client) == nil {
			return true
		}
	}
	return false
}
