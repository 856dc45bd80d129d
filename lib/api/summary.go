package api

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// summary is what monitors want to know of a job.
type summary struct {
	last    ticket.Number // its last build; 0: none
	running bool          // that is not finished
	build   ticket.Number // the last finished one; 0: none
	result  string        // its
	ended   time.Time
}

// summaries are those of all jobs, looked at together and not often: a monitor
// asks every few seconds, and there may be thousands of jobs. Of a job that has
// no new build its last number alone is read.
type summaries struct {
	mu    sync.Mutex
	at    time.Time
	ids   []string
	byJob map[string]summary
}

const (
	summariesKept = 10 * time.Second
	summaryDepth  = 20 // builds that are looked at for one that is finished
)

// all returns the ids of the jobs, in order, and their summaries.
func (s *summaries) all(ctx context.Context, r *repo.Repo) ([]string, map[string]summary, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.at) < summariesKept {
		return s.ids, s.byJob, nil
	}
	ids, err := r.Jobs(ctx, "", 0)
	if err != nil {
		return nil, nil, err
	}
	found := make([]summary, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, id := range ids {
		g.Go(func() (err error) {
			found[i], err = summarize(ctx, r, id, s.byJob[id])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	byJob := make(map[string]summary, len(ids))
	for i, id := range ids {
		byJob[id] = found[i]
	}
	s.at, s.ids, s.byJob = time.Now(), ids, byJob
	return ids, byJob, nil
}

// summarize looks at a job; before is what was found the last time.
func summarize(ctx context.Context, r *repo.Repo, job string, before summary) (summary, error) {
	last, err := r.LastNumber(ctx, job)
	if err != nil || last == before.last && !before.running {
		return before, err
	}
	s := summary{last: last, build: before.build, result: before.result, ended: before.ended}
	for n := last; n > max(before.build, last-summaryDepth, 0); n-- {
		b, _, err := r.Finished(ctx, job, n)
		if errors.Is(err, repo.ErrNoBuild) {
			if n == last {
				s.running, err = r.Live(ctx, job, n)
			} else {
				err = nil
			}
		}
		if err != nil {
			return s, err
		}
		if b != nil && b.State.Status == build.Complete {
			s.build, s.result = n, b.State.Result
			if b.State.Ended != nil {
				s.ended = *b.State.Ended
			}
			break
		}
	}
	return s, nil
}
