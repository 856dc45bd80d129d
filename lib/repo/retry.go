package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// A retry is whole by itself: the logs and the artefacts of the steps that it
// takes over are copied to it, so that the build before it may be removed. This
// is done by the worker that starts it, which may do it twice. Their layers are
// shared, as those of steps are.

// ErrNotFinished is of kind Usage.
var ErrNotFinished = fault.Errorf(fault.Usage, "the build is not finished; cancel it first, or wait")

// Again is how a build is retried.
type Again struct {
	From string // the key of the first step that is run again; "": the first that did not succeed
	By   string // who wants it
	Key  string // as a Start's
}

// Retry begins a build that takes over what a finished one has done and goes on
// from one of its steps; repeated is as Begin's. Errors: ErrNoJob, ErrNoBuild,
// ErrNotFinished, ErrKeyReused, and such of kind Usage.
func (r *Repo) Retry(ctx context.Context, id string, n ticket.Number, a Again) (_ *build.Build, repeated bool, err error) {
	if _, err := r.store.Stat(ctx, jobKey(id)); errors.Is(err, store.ErrNotFound) {
		return nil, false, ErrNoJob
	} else if err != nil {
		return nil, false, err
	}
	old, err := r.record(ctx, id, n)
	if err != nil {
		return nil, false, err
	}
	if old.State.Status != build.Complete {
		return nil, false, ErrNotFinished
	}
	from, err := old.State.RetryFrom(a.From)
	if err != nil {
		return nil, false, err
	}
	cause := &build.Cause{Kind: build.KindRetry, By: a.By, JobID: id, Number: n, From: from}
	if c := old.State.Cause; c != nil {
		cause.Depth, cause.Event = c.Depth, c.Event
	}
	return r.begin(ctx, id, Start{
		Cause: cause, Parameters: old.State.Parameters, Ref: old.State.Ref, Key: a.Key, what: fmt.Sprintf("retry %d from %s", n, from),
	})
}

// setRetried gives the control ticket that starts a retry the record of the
// build before, if that is still there.
func (r *Repo) setRetried(ctx context.Context, t *ticket.Ticket, rec *record) error {
	if action(t) != build.ActionStart || !rec.State.Retries() {
		return nil
	}
	old, err := r.finished(ctx, rec.JobID, rec.State.Cause.Number)
	if errors.Is(err, ErrNoBuild) {
		return nil // distci-buildctl tells
	}
	if err != nil {
		return err
	}
	old.State.Artifacts = nil
	for _, t := range old.State.Tasks {
		t.Artifacts = nil // what was published is in the manifests
	}
	return t.Set(FieldRetried, old.State)
}

// takeOver copies what belongs to the steps that a retry has taken over. Errors
// of kind Unavailable tell that something of them is gone.
func (r *Repo) takeOver(ctx context.Context, b *build.Build) error {
	n := b.State.Cause.Number
	steps := map[string]bool{}
	layers := map[string]bool{}
	for key, t := range b.State.Tasks {
		if t.Status != ticket.Complete {
			continue
		}
		steps[stepKey(key)] = true
		for _, l := range t.Workspace {
			layers[l] = true
		}
		if err := r.copyArtifacts(ctx, b, n, key, t); err != nil {
			return err
		}
	}
	logs, err := r.listLogs(ctx, b.JobID, n)
	if err != nil {
		return err
	}
	var names []string
	for _, l := range logs {
		if step, _, ok := splitLogName(l.name); ok && steps[step] {
			names = append(names, DirLogs+l.name)
			if l.index > 0 {
				names = append(names, DirLogs+l.name+indexSuffix)
			}
		}
	}
	if err := r.copyObjects(ctx, b, n, names); err != nil {
		return err
	}
	for l := range layers {
		if err := r.refreshLayer(ctx, l); err != nil {
			return err
		}
	}
	// A build's record is removed before anything else of it: what we have found
	// was all that there was.
	if _, err := r.finished(ctx, b.JobID, n); errors.Is(err, ErrNoBuild) {
		return fault.Errorf(fault.Unavailable, "build %d, which is to be retried, does not exist any more", n)
	} else if err != nil {
		return err
	}
	return nil
}

// copyArtifacts copies what a step of build n has published, the list of it
// last.
func (r *Repo) copyArtifacts(ctx context.Context, b *build.Build, n ticket.Number, step string, t *ticket.Ticket) error {
	m, err := r.manifest(ctx, b.JobID, n, step, t)
	if err != nil || len(m) == 0 {
		return err
	}
	var names []string
	for id := range m {
		names = append(names, DirArtifacts+id, DirArtifacts+id+".json")
	}
	if err := r.copyObjects(ctx, b, n, names); err != nil {
		return err
	}
	return r.copyObjects(ctx, b, n, []string{ManifestName(step)})
}

// copyObjects copies objects of build n to b. One that was deleted meanwhile is
// none of b's either.
func (r *Repo) copyObjects(ctx context.Context, b *build.Build, n ticket.Number, names []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, name := range names {
		g.Go(func() error {
			rd, info, err := r.store.Get(ctx, buildPrefix(b.JobID, n)+name, 0, -1)
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			defer rd.Close()
			to := buildPrefix(b.JobID, b.Number) + name
			if done, err := r.store.Stat(ctx, to); err == nil && done.Size == info.Size {
				return nil // by a worker before us: what a build has published never changes
			}
			// To the end as it is now, of what nobody writes any more.
			_, err = r.store.Put(ctx, to, io.LimitReader(rd, info.Size))
			return err
		})
	}
	return g.Wait()
}

// freshLayer is how old a layer may be that a new reference is made to: the
// collector, which may not see the reference, leaves alone what is younger than
// an hour.
const freshLayer = 30 * time.Minute

// refreshLayer makes a layer young, as whoever saves one does that finds it
// there already.
func (r *Repo) refreshLayer(ctx context.Context, digest string) error {
	key := LayersPrefix + strings.ReplaceAll(digest, ":", "/")
	for {
		info, err := r.store.Stat(ctx, key)
		if errors.Is(err, store.ErrNotFound) || err == nil && info.Size == 0 {
			return fault.Errorf(fault.Unavailable, "a part of the workspace, layer %s, is not in the store any more", digest)
		}
		if err != nil || time.Since(info.Modified) < freshLayer {
			return err
		}
		rd, _, err := r.store.Get(ctx, key, 0, -1)
		if err != nil {
			return err
		}
		_, err = r.store.Swap(ctx, key, info.Version, rd)
		rd.Close()
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}
