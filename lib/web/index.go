package web

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// index is what lists of jobs and builds are made from. The record of a build
// is a few kilobytes and there are many; of each a few words are kept, and a
// request reads those that it shows and nobody has read lately.
type index struct {
	repo    *repo.Repo
	jobs    *cache[struct{}, []string]
	numbers *cache[string, ticket.Number]
	builds  *cache[buildID, *summary]
	lasts   *cache[struct{}, map[string]*summary]
	running *cache[struct{}, map[string]int]
}

type buildID struct {
	job    string
	number ticket.Number
}

// summary is a build in a list.
type summary struct {
	Number  ticket.Number
	State   string // what people call it: a result, or the status while there is none
	Created time.Time
	Ended   time.Time // zero: not yet
	Cause   string
	Ref     string
}

// How long what was looked up is good. A finished build does not change; but it
// may be removed.
const (
	jobsLife     = 5 * time.Second
	numberLife   = time.Second
	liveLife     = time.Second
	finishedLife = 10 * time.Minute
	lastsLife    = 30 * time.Second
	trendLength  = 10
	parallel     = 16 // look-ups at a time, of one request
)

func newIndex(r *repo.Repo) *index {
	x := &index{
		repo: r, jobs: newCache[struct{}, []string](1), numbers: newCache[string, ticket.Number](20_000),
		builds: newCache[buildID, *summary](100_000), lasts: newCache[struct{}, map[string]*summary](1),
		running: newCache[struct{}, map[string]int](1),
	}
	// To list ten thousand jobs takes a moment, and nobody has to wait for it
	// who would see the same as before.
	x.jobs.stale, x.lasts.stale = time.Minute, time.Minute
	return x
}

// all lists the ids of all jobs. Nobody changes the list.
func (x *index) all(ctx context.Context) ([]string, error) {
	return x.jobs.get(ctx, struct{}{}, func(ctx context.Context) ([]string, time.Duration, error) {
		ids, err := x.repo.Jobs(ctx, "", 0)
		return ids, jobsLife, err
	})
}

// live counts the builds of each job that are not finished.
func (x *index) live(ctx context.Context) (map[string]int, error) {
	return x.running.get(ctx, struct{}{}, func(ctx context.Context) (map[string]int, time.Duration, error) {
		builds, err := x.repo.LiveBuilds(ctx)
		counts := map[string]int{}
		for _, b := range builds {
			counts[b.JobID]++
		}
		return counts, liveLife, err
	})
}

// last is the number of a job's last build; 0: it has none.
func (x *index) last(ctx context.Context, job string) (ticket.Number, error) {
	return x.numbers.get(ctx, job, func(ctx context.Context) (ticket.Number, time.Duration, error) {
		n, err := x.repo.LastNumber(ctx, job)
		if err == nil && n == 0 { // it may come from another cluster
			n, err = x.repo.HighestStored(ctx, job)
		}
		return n, numberLife, err
	})
}

// build looks at a build; nil: there is none with that number.
func (x *index) build(ctx context.Context, job string, n ticket.Number) (*summary, error) {
	return x.builds.get(ctx, buildID{job, n}, func(ctx context.Context) (*summary, time.Duration, error) {
		b, _, err := x.repo.Finished(ctx, job, n)
		if errors.Is(err, repo.ErrNoBuild) {
			b, err = x.repo.Build(ctx, job, n)
		}
		if errors.Is(err, repo.ErrNoBuild) {
			return nil, jobsLife, nil
		}
		if err != nil {
			return nil, 0, err
		}
		s, life := summarize(b), liveLife
		if b.State.Status == build.Complete {
			life = finishedLife
		}
		return s, life, nil
	})
}

func summarize(b *build.Build) *summary {
	s := &summary{Number: b.Number, State: stateOf(b.State.Status, b.State.Result), Cause: causeOf(&b.State), Ref: b.State.Ref}
	if b.State.Created != nil {
		s.Created = *b.State.Created
	}
	if b.State.Ended != nil {
		s.Ended = *b.State.Ended
	}
	return s
}

// most is how many numbers are tried for a page of builds before the store is
// asked for a list: builds may have been removed between those that are left.
const most = 200

// page returns at most n builds of a job with numbers below before (0: all),
// the highest first. What retention has left out is not there.
func (x *index) page(ctx context.Context, job string, before ticket.Number, n int) ([]*summary, error) {
	last, err := x.last(ctx, job)
	if err != nil {
		return nil, err
	}
	at := last
	if before > 0 {
		at = min(last, before-1)
	}
	var found []*summary
	for tried := 0; len(found) < n && at > 0; {
		if tried >= most && len(found) < tried/8 {
			return x.sparse(ctx, job, at, n, found)
		}
		var numbers []ticket.Number
		for ; at > 0 && len(numbers) < n-len(found); at-- {
			numbers = append(numbers, at)
		}
		tried += len(numbers)
		some, err := x.several(ctx, job, numbers)
		if err != nil {
			return nil, err
		}
		found = append(found, some...)
	}
	return found, nil
}

// sparse is the rest of a page, from number at on downwards, of a job of which
// few builds are left.
func (x *index) sparse(ctx context.Context, job string, at ticket.Number, n int, found []*summary) ([]*summary, error) {
	numbers, err := x.repo.Builds(ctx, job)
	if err != nil {
		return nil, err
	}
	slices.Reverse(numbers)
	numbers = slices.DeleteFunc(numbers, func(k ticket.Number) bool { return k > at })
	some, err := x.several(ctx, job, numbers[:min(len(numbers), n-len(found))])
	return append(found, some...), err
}

// several looks at builds of a job; those that are not there are left out.
func (x *index) several(ctx context.Context, job string, numbers []ticket.Number) ([]*summary, error) {
	found := make([]*summary, len(numbers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, n := range numbers {
		g.Go(func() (err error) {
			found[i], err = x.build(ctx, job, n)
			return err
		})
	}
	err := g.Wait()
	return slices.DeleteFunc(found, func(s *summary) bool { return s == nil }), err
}

// trend is the last builds of a job, the highest number first.
func (x *index) trend(ctx context.Context, job string) ([]*summary, error) {
	last, err := x.last(ctx, job)
	if err != nil {
		return nil, err
	}
	var numbers []ticket.Number
	for n := last; n > 0 && n > last-trendLength; n-- {
		numbers = append(numbers, n)
	}
	return x.several(ctx, job, numbers)
}

// results is the last build of every job that has one. It costs two look-ups
// a job, so all who ask within half a minute get the same.
func (x *index) results(ctx context.Context) (map[string]*summary, error) {
	return x.lasts.get(ctx, struct{}{}, func(ctx context.Context) (map[string]*summary, time.Duration, error) {
		ids, err := x.all(ctx)
		if err != nil {
			return nil, 0, err
		}
		found := make([]*summary, len(ids))
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(parallel)
		for i, job := range ids {
			g.Go(func() error {
				n, err := x.last(ctx, job)
				if err == nil && n > 0 {
					found[i], err = x.build(ctx, job, n)
				}
				return err
			})
		}
		err = g.Wait()
		byJob := map[string]*summary{}
		for i, s := range found {
			if s != nil {
				byJob[ids[i]] = s
			}
		}
		return byJob, lastsLife, err
	})
}
