package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
)

// zkKill measures how long the ticket of a worker that was killed waits for the
// next one.
func zkKill(b *bench) error {
	return b.ensembles("256m", func(r *rig) error {
		const kills = 5
		ctx := context.Background()
		c, err := r.frontend()
		if err != nil {
			return err
		}
		// The first run of a step lasts; the one that repeats it does not.
		if err := r.job(c, "long", fmt.Sprintf("mkdir %s/first.$BUILD_NUMBER 2>/dev/null || exit 0; exec sleep 120", r.dir)); err != nil {
			return err
		}
		victims := map[string]*exec.Cmd{}
		for i := range kills {
			name := fmt.Sprintf("victim-%d", i)
			if victims[name], err = r.worker("--name", name); err != nil {
				return err
			}
			if _, err := c.Trigger(ctx, "long"); err != nil {
				return err
			}
			if err := eventually(func() bool {
				m, _ := filepath.Glob(r.dir + "/first.*")
				return len(m) > i
			}); err != nil {
				return fmt.Errorf("the step does not run: %w", err)
			}
		}
		for range 3 {
			if _, err := r.worker(); err != nil {
				return err
			}
		}
		time.Sleep(session / 2) // they are idle, and in the middle of their rounds
		states := make([]*build.State, kills)
		for n := range kills {
			if states[n], err = c.Build(ctx, "long", ticket.Number(n+1)); err != nil {
				return err
			}
		}
		died := make([]time.Time, kills)
		for n, s := range states {
			victim := victims[s.Tasks["0"].Assignee]
			if victim == nil {
				return fmt.Errorf("build %d: its step is run by %q", n+1, s.Tasks["0"].Assignee)
			}
			died[n] = time.Now()
			victim.Process.Kill()
			time.Sleep(session / 14) // at different moments of everybody's rounds
		}
		var waits []float64
		for n := range kills {
			s, err := finish(c, "long", ticket.Number(n+1))
			if err != nil {
				return err
			}
			waits = append(waits, s.Tasks["0"].Started.Sub(died[n]).Seconds())
		}
		slices.Sort(waits)
		r.row(fmt.Sprintf("kill -9 of a worker to the next claim, median of %d", kills), quantile(waits, 0.5), "s", "the session's time-out", session.Seconds(),
			"<= 1.5 x", func(_, ratio float64) bool { return ratio <= 1.5 })
		return nil
	})
}

func eventually(ok func() bool) error {
	for range 3000 {
		if ok() {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("not within a minute")
}
