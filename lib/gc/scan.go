package gc

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// found is a finished build, as much of it as is remembered until all of the
// job's builds are known.
type found struct {
	candidate
	artifacts bool      // the record tells of some
	layers    [][8]byte // that it refers to
	bytes     int64
	count     int
}

// jobScan is what was found of a job.
type jobScan struct {
	id   string
	keep Keep
	gone bool // the job was deleted

	mu     sync.Mutex
	builds []found
}

// scan reads the records of a job's builds, and removes the remains of those
// that have none.
func (c *collector) scan(ctx context.Context, id string) (*jobScan, error) {
	j := &jobScan{id: id, keep: c.Keep}
	config, err := c.repo.Job(ctx, id)
	switch {
	case errors.Is(err, repo.ErrNoJob):
		j.gone = true
	case err != nil:
		return nil, err
	default:
		if parsed, err := job.Parse(config); err == nil {
			j.keep = c.Keep.with(parsed.Retention)
		} else {
			j.keep = Keep{}
			c.problem("job %s: all of its builds are kept, as its configuration cannot be read: %v", id, err)
		}
	}
	tags, err := c.repo.TaggedBuilds(ctx, id)
	if err != nil {
		return nil, err
	}
	group, reading := errgroup.WithContext(ctx)
	group.SetLimit(c.Jobs)
	err = c.repo.StoredBuilds(reading, id, func(s repo.Stored) error {
		group.Go(func() error { return c.look(reading, j, s, tags) })
		return reading.Err()
	})
	if e := group.Wait(); e != nil {
		return nil, e
	}
	slices.SortFunc(j.builds, func(a, b found) int { return int(a.number - b.number) })
	return j, err
}

// look reads the record of one build.
func (c *collector) look(ctx context.Context, j *jobScan, s repo.Stored, tags map[ticket.Number]string) error {
	if _, ok := s.Object(repo.NameState); !ok {
		return c.orphans(ctx, s)
	}
	b, _, err := c.repo.Finished(ctx, s.JobID, s.Number)
	if errors.Is(err, repo.ErrNoBuild) {
		return nil // somebody has just deleted it
	}
	if fault.Of(err) == fault.Internal {
		c.cannotRead(err)
		return nil
	}
	if err != nil {
		return err
	}
	layers, err := c.repo.WorkspaceLayers(ctx, b)
	if fault.Of(err) == fault.Internal {
		c.cannotRead(err)
		return nil
	}
	if err != nil {
		return err
	}
	if b.State.Status != build.Complete {
		c.cannotRead(fault.Errorf(fault.Internal, "record of %s #%d: its status is %q", s.JobID, s.Number, b.State.Status))
		return nil
	}
	f := found{candidate: candidate{number: s.Number, success: b.State.Result == ticket.Success}}
	_, f.tagged = tags[s.Number]
	f.ended = endOf(b, s)
	for _, digest := range layers {
		if d, ok := short(digest); ok && !slices.Contains(f.layers, d) {
			f.layers = append(f.layers, d)
		}
	}
	f.count, f.bytes = size(s.Objects)
	if f.artifacts, err = c.lost(ctx, b, s); err != nil {
		return err
	}
	j.mu.Lock()
	j.builds = append(j.builds, f)
	j.mu.Unlock()
	return nil
}

// cannotRead notes that a record may refer to anything.
func (c *collector) cannotRead(err error) {
	c.problem("%v", err)
	c.mu.Lock()
	c.blind = true
	c.mu.Unlock()
}

// endOf is when a build has ended; what a REST controller has written may not
// say it.
func endOf(b *build.Build, s repo.Stored) time.Time {
	if b.State.Ended != nil {
		return *b.State.Ended
	}
	o, _ := s.Object(repo.NameState)
	return o.Modified
}

func size(objects []store.Info) (count int, bytes int64) {
	for _, o := range objects {
		bytes += o.Size
	}
	return len(objects), bytes
}

// orphans removes what there is of a build that has no record: it was not
// brought to its end in the coordination that has it, or its removal was not
// finished.
func (c *collector) orphans(ctx context.Context, s repo.Stored) error {
	if slices.ContainsFunc(s.Objects, func(o store.Info) bool { return !c.old(o.Modified) }) {
		return nil
	}
	if gone, err := c.repo.Gone(ctx, s.JobID, s.Number); err != nil || !gone {
		return err
	}
	return c.removeAll(ctx, s.Objects, Item{Kind: Orphan, JobID: s.JobID, Number: s.Number, Key: s.Prefix, Reason: "there is no such build"})
}

// removeAll removes objects that nobody writes any more.
func (c *collector) removeAll(ctx context.Context, objects []store.Info, i Item) error {
	if len(objects) == 0 {
		return nil
	}
	for _, o := range objects {
		if c.DryRun {
			break
		}
		if err := c.held(ctx); err != nil {
			return err
		}
		if err := c.store.Delete(ctx, o.Key); err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	i.Count, i.Bytes = size(objects)
	c.gone(i)
	return nil
}

// lost removes artefacts that the build's record does not tell of, which an
// attempt has stored that was lost later. It tells whether the record tells of
// others.
func (c *collector) lost(ctx context.Context, b *build.Build, s repo.Stored) (bool, error) {
	told := repo.Published(b)
	garbage := slices.DeleteFunc(slices.Clone(s.Objects), func(o store.Info) bool {
		name := o.Key[len(s.Prefix):]
		return !strings.HasPrefix(name, repo.DirArtifacts) && !strings.HasPrefix(name, repo.DirManifests) || told[name] || !c.old(o.Modified)
	})
	if len(garbage) == 0 {
		return len(told) > 0, nil
	}
	// What the record does not tell by itself, the lists may that it tells of.
	listed, err := c.repo.Listed(ctx, b)
	if fault.Of(err) == fault.Internal {
		c.problem("%v", err)
		return true, nil
	}
	if err != nil {
		return false, err
	}
	garbage = slices.DeleteFunc(garbage, func(o store.Info) bool { return listed[o.Key[len(s.Prefix):]] })
	return len(told) > 0, c.removeAll(ctx, garbage, Item{Kind: Orphan, JobID: b.JobID, Number: b.Number, Key: s.Prefix + repo.DirArtifacts,
		Reason: "artefacts that the build's record does not tell of"})
}
