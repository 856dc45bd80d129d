// Package gc collects what nobody needs any more in the store: builds that are
// beyond what is kept, what crashes have left, layers that nothing refers to.
//
// It runs beside builds, and may be killed at any time; the next run finishes
// the work. Only one runs at a time ([repo.Exclusive]), which is also why it
// need not think of an import, that brings in what nothing refers to yet.
//
// Why nothing that is live is removed:
//
//   - A build is removed if its record in the store says that it is complete and
//     the coordination does not have it, which it never will again. The record
//     goes first: a build is there or it is not, and what a crash leaves of one
//     has no record.
//   - What has no record is removed if the coordination does not have the build
//     either, asked before the store is asked again: a build's record is in the
//     store before it is out of the coordination. And everything of it must be
//     older than the grace, as the log of a worker may be that does not know yet.
//     All this presumes that the coordination is that of the store. One that
//     knows of fewer builds of a job than the store has is not, and is refused.
//   - A layer is removed if it was last written longer than the grace before
//     the run began, and nothing referred to it when it was looked for: first in
//     the tickets, then in the live records, then in those in the store, which is
//     the way that a reference takes. A reference that is too new to have been
//     seen is to a layer that was written for it, since whoever finds a layer
//     there already writes it once more; so its age tells, provided that a
//     reference follows within the grace. And if the layer is written between
//     the look at its age and its removal, the removal fails ([store.Remove]).
//   - If one record cannot be read, nobody knows what it refers to, and no layer
//     is removed.
//   - A collector that is not sure to be the only one any more stops.
//
// The clocks of the machines must agree to within a fraction of the grace.
package gc

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// Options of Run.
type Options struct {
	Keep   Keep          // where a job says nothing
	Grace  time.Duration // what is younger is nobody's garbage; required
	DryRun bool          // remove nothing
	// Adopt says that the coordination is a new one, so that a build that it does
	// not know of is not live anywhere.
	Adopt bool
	// Jobs is how many jobs are looked at at a time, and of each how many
	// records; default 4.
	Jobs int
	Now  func() time.Time // default: time.Now
	// Tell is called for each thing that is removed, or would be.
	Tell func(Item)
}

// The kinds of Item.
const (
	Build     = "build"     // a finished build with everything of it
	Artifacts = "artifacts" // the artefacts of a build that stays
	Workspace = "workspace" // a build's reference to its layers
	Orphan    = "orphan"    // what a crash has left
	Layer     = "layer"
	Store     = "store" // garbage of the store's own
)

// Item is a thing that is removed.
type Item struct {
	Kind   string        `json:"kind"`
	JobID  string        `json:"job_id,omitempty"`
	Number ticket.Number `json:"build_number,omitempty"`
	Key    string        `json:"key,omitempty"` // of the object, or what the keys of the objects begin with
	Count  int           `json:"objects"`
	Bytes  int64         `json:"bytes"`
	Reason string        `json:"reason"`
}

// Total is how many things of a kind were removed.
type Total struct {
	Items int   `json:"items"`
	Count int   `json:"objects"`
	Bytes int64 `json:"bytes"`
}

// Report is what a run has done, or would have.
type Report struct {
	DryRun bool             `json:"dry_run,omitempty"`
	Jobs   int              `json:"jobs"`   // that were looked at
	Builds int              `json:"builds"` // finished ones that stay
	Gone   map[string]Total `json:"gone"`   // by kind
	// Problems are what stood in the way of a part of the work. What is damaged
	// is never removed.
	Problems []string `json:"problems,omitempty"`
}

// collector is one run.
type collector struct {
	Options
	repo  *repo.Repo
	store store.Store
	lock  *repo.Exclusive // nil: a dry run
	start time.Time

	mu     sync.Mutex
	report Report
	marked marks
	blind  bool // a record could not be read
}

// Run collects once. After an error the report tells what was done before it.
func Run(ctx context.Context, r *repo.Repo, o Options) (_ Report, err error) {
	if o.Grace <= 0 {
		return Report{}, fault.Errorf(fault.Config, "gc: no grace")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Jobs == 0 {
		o.Jobs = 4
	}
	c := &collector{Options: o, repo: r, store: r.Store(), start: o.Now(), marked: marks{}}
	c.report = Report{DryRun: o.DryRun, Gone: map[string]Total{}}
	if !o.DryRun {
		if c.lock, err = r.Exclusive(ctx, "gc"); err != nil {
			return c.report, fmt.Errorf("gc: %w", err)
		}
		defer c.lock.Release(context.WithoutCancel(ctx))
	}
	if err := c.run(ctx); err != nil {
		return c.report, fmt.Errorf("gc: %w", err)
	}
	return c.report, nil
}

func (c *collector) run(ctx context.Context) error {
	if err := c.repo.LiveLayers(ctx, c.mark); err != nil {
		return err
	}
	if !c.Adopt {
		if err := c.ours(ctx); err != nil {
			return err
		}
	}
	group, jobs := errgroup.WithContext(ctx)
	group.SetLimit(c.Jobs)
	err := c.repo.StoredJobs(jobs, func(id string) error {
		group.Go(func() error { return c.job(jobs, id) })
		return jobs.Err()
	})
	if e := group.Wait(); e != nil {
		return e
	}
	if err != nil {
		return err
	}
	if err := c.layers(ctx); err != nil {
		return err
	}
	return c.sweep(ctx)
}

// ours asserts that the coordination is the one that the store's builds were
// begun in, before anything is taken for garbage because the coordination does
// not know of it. To have a number a build must have been counted there.
func (c *collector) ours(ctx context.Context) error {
	return c.repo.StoredJobs(ctx, func(id string) error {
		highest, err := c.repo.HighestStored(ctx, id)
		if err != nil {
			return err
		}
		last, err := c.repo.LastNumber(ctx, id)
		if err == nil && last < highest {
			err = fault.Errorf(fault.Config, "the store has build %d of job %s, the coordination has counted to %d: it is not the one of this store, or it is a new one; if no builds of this store run under another, say --adopt", highest, id, last)
		}
		return err
	})
}

// job looks at everything that the store has of a job's builds.
func (c *collector) job(ctx context.Context, id string) error {
	j, err := c.scan(ctx, id)
	if err != nil {
		return fmt.Errorf("job %s: %w", id, err)
	}
	c.mu.Lock()
	c.report.Jobs++
	c.mu.Unlock()
	return c.retain(ctx, j)
}

// sweep has the store remove what it has of garbage of its own.
func (c *collector) sweep(ctx context.Context) error {
	s, ok := c.store.(store.Sweeper)
	if !ok {
		return nil
	}
	if err := c.held(ctx); err != nil {
		return err
	}
	swept, err := s.Sweep(ctx, c.Grace, c.DryRun)
	if swept.Objects > 0 {
		c.gone(Item{Kind: Store, Count: swept.Objects, Bytes: swept.Bytes, Reason: "left by writers that were killed"})
	}
	return err
}

// held tells whether this run may remove something.
func (c *collector) held(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.lock == nil {
		return nil
	}
	return c.lock.Held()
}

// gone notes what was removed.
func (c *collector) gone(i Item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.report.Gone[i.Kind]
	t.Items, t.Count, t.Bytes = t.Items+1, t.Count+i.Count, t.Bytes+i.Bytes
	c.report.Gone[i.Kind] = t
	if c.Tell != nil {
		c.Tell(i)
	}
}

func (c *collector) problem(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Problems = append(c.report.Problems, fmt.Sprintf(format, args...))
}

// old tells whether something was last written longer than the grace before
// the run began.
func (c *collector) old(t time.Time) bool { return c.start.Sub(t) > c.Grace }
