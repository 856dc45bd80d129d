package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// Builds lists the numbers of a job's builds, in order.
func (r *Repo) Builds(ctx context.Context, id string) ([]ticket.Number, error) {
	ns := []ticket.Number{}
	names, err := r.conn.Children(ctx, buildsRoot)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if s, ok := strings.CutPrefix(name, id+":"); ok {
			if n, err := strconv.ParseInt(s, 10, 64); err == nil {
				ns = append(ns, ticket.Number(n))
			}
		}
	}
	for after := ""; ; {
		names, err := r.store.Folders(ctx, jobPrefix(id), after, 1000)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if n, err := strconv.ParseInt(name, 10, 64); err == nil {
				ns = append(ns, ticket.Number(n))
			}
			after = name
		}
		if len(names) < 1000 {
			break
		}
	}
	slices.Sort(ns)
	return slices.Compact(ns), nil
}

// LiveBuilds lists all builds that are not finished.
func (r *Repo) LiveBuilds(ctx context.Context) ([]build.Build, error) {
	names, err := r.conn.Children(ctx, buildsRoot)
	var bs []build.Build
	for _, name := range names {
		id, s, _ := strings.Cut(name, ":")
		n, err := strconv.ParseInt(s, 10, 64)
		if err == nil {
			bs = append(bs, build.Build{JobID: id, Number: ticket.Number(n)})
		}
	}
	return bs, err
}

// Build returns a build with its record as it is now: what runs is shown as
// running, and the artefacts are filled in. Errors: ErrNoBuild.
func (r *Repo) Build(ctx context.Context, id string, n ticket.Number) (*build.Build, error) {
	rec, err := r.live(ctx, id, n)
	if errors.Is(err, ErrNoBuild) {
		// It may have been finished between the two looks, but not the other way round.
		return r.finished(ctx, id, n)
	}
	if err != nil {
		return nil, err
	}
	for key, t := range rec.State.Tasks {
		switch {
		case t.Status == ticket.Complete:
			artifacts, err := r.manifest(ctx, id, n, key, t)
			if err != nil {
				return nil, err
			}
			addArtifacts(&rec.State, t, artifacts)
		case t.ID != "":
			if now, _, err := r.queue.Get(ctx, t.ID); err == nil {
				rec.State.Tasks[key] = now
			} else if !errors.Is(err, queue.ErrNotFound) {
				return nil, err
			}
		}
	}
	return rec.Build, nil
}

func (r *Repo) finished(ctx context.Context, id string, n ticket.Number) (*build.Build, error) {
	b, _, err := store.ReadAll(ctx, r.store, buildPrefix(id, n)+"state")
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNoBuild
	}
	if err != nil {
		return nil, err
	}
	bld := &build.Build{JobID: id, Number: n}
	if err := json.Unmarshal(b, &bld.State); err != nil {
		return nil, fault.Errorf(fault.Internal, "repo: record of %s #%d: %w", id, n, err)
	}
	return bld, nil
}

// addArtifacts shows what a step has published in its task and in the build.
func addArtifacts(s *build.State, t *ticket.Ticket, artifacts map[string]Artifact) {
	if len(artifacts) == 0 {
		return
	}
	t.Artifacts = map[string][]string{}
	for id, a := range artifacts {
		t.Artifacts[id] = a.Path
	}
	if s.Artifacts == nil {
		s.Artifacts = map[string][]string{}
	}
	maps.Copy(s.Artifacts, t.Artifacts)
}

// PutState replaces a build's record. It is for build controllers that speak
// REST: a record that they call complete is a finished build.
func (r *Repo) PutState(ctx context.Context, id string, n ticket.Number, s *build.State) error {
	for {
		rec, err := r.live(ctx, id, n)
		if errors.Is(err, ErrNoBuild) {
			if _, err := r.finished(ctx, id, n); err != nil {
				return err
			}
			return r.putFinished(ctx, id, n, s)
		}
		if err != nil {
			return err
		}
		rec.State = *s
		op, err := rec.set()
		if err != nil {
			return err
		}
		if s.Status == build.Complete {
			if err := r.putFinished(ctx, id, n, s); err != nil {
				return err
			}
			op = coord.Delete(op.Path, rec.version)
		}
		_, err = r.conn.Txn(ctx, op)
		if !errors.Is(err, coord.ErrBadVersion) && !errors.Is(err, coord.ErrNoNode) {
			return err
		}
	}
}

func (r *Repo) putFinished(ctx context.Context, id string, n ticket.Number, s *build.State) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = r.store.Put(ctx, buildPrefix(id, n)+"state", bytes.NewReader(b))
	return err
}

// Cancel ends a build: what waits is not run, what runs is stopped by its
// workers. It does nothing to a finished build. Errors: ErrNoBuild.
func (r *Repo) Cancel(ctx context.Context, id string, n ticket.Number, by string) error {
	var tasks map[string]*ticket.Ticket
	for {
		rec, err := r.live(ctx, id, n)
		if errors.Is(err, ErrNoBuild) {
			_, err = r.finished(ctx, id, n)
			return err
		}
		if err != nil {
			return err
		}
		post := rec.Cancel(by, time.Now())
		tasks = rec.State.Tasks
		op, err := rec.set()
		if err != nil {
			return err
		}
		if _, err = r.queue.Commit(ctx, queue.Change{Post: post, Ops: []coord.Op{op}}); err == nil {
			break
		}
		var refused *queue.OpError
		if !errors.As(err, &refused) {
			return err
		}
	}
	for _, t := range tasks {
		if t.ID == "" || t.Status == ticket.Complete {
			continue
		}
		if err := r.cancelWaiting(ctx, t.ID, by); err != nil {
			return err
		}
	}
	return nil
}

// cancelWaiting ends a ticket that nobody has claimed. One that somebody has
// claimed is that worker's to end.
func (r *Repo) cancelWaiting(ctx context.Context, id, by string) error {
	_, ref, err := r.queue.Get(ctx, id)
	if errors.Is(err, queue.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := r.queue.Take(ctx, ref, "canceled by "+by)
	if errors.Is(err, queue.ErrLost) {
		return nil
	}
	if err != nil {
		return err
	}
	t := c.Ticket
	t.Status, t.Result, t.Error = ticket.Complete, ticket.Canceled, "canceled by "+by
	_, err = r.Commit(ctx, c, t, nil)
	if errors.Is(err, queue.ErrLost) {
		return nil
	}
	return err
}

// Canceled tells who canceled a build; "" if nobody did. A build that is gone
// was canceled by its deletion.
func (r *Repo) Canceled(ctx context.Context, id string, n ticket.Number) (string, error) {
	rec, err := r.live(ctx, id, n)
	if errors.Is(err, ErrNoBuild) {
		return "the deletion of the build", nil
	}
	if err != nil {
		return "", err
	}
	return rec.State.Canceled, nil
}

// WatchBuild returns a watch on a live build's record.
func (r *Repo) WatchBuild(ctx context.Context, id string, n ticket.Number) (coord.Watch, error) {
	return r.conn.WatchNode(ctx, buildPath(id, n))
}

// DeleteBuild removes a build and everything of it; if it runs it is canceled
// first. Errors: ErrNoBuild.
func (r *Repo) DeleteBuild(ctx context.Context, id string, n ticket.Number) error {
	if err := r.Cancel(ctx, id, n, "the deletion of the build"); err != nil {
		return err
	}
	if err := r.deleteLive(ctx, id, n); err != nil {
		return err
	}
	return r.deleteAll(ctx, buildPrefix(id, n))
}

// deleteLive removes what is left of a build in the coordination. The tickets
// go before the record: whoever still works on one loses it, and can never take
// the record of a later build with this number for this one's.
func (r *Repo) deleteLive(ctx context.Context, id string, n ticket.Number) error {
	for {
		rec, err := r.live(ctx, id, n)
		if errors.Is(err, ErrNoBuild) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, t := range rec.unfinished() {
			if err := r.deleteTicket(ctx, t); err != nil {
				return err
			}
		}
		_, err = r.conn.Txn(ctx, coord.Delete(buildPath(id, n), rec.version))
		if err == nil || !errors.Is(err, coord.ErrBadVersion) && !errors.Is(err, coord.ErrNoNode) {
			return err
		}
	}
}

// unfinished lists the tickets that the build waits for.
func (rec *record) unfinished() []string {
	var ids []string
	if rec.State.Control != "" {
		ids = append(ids, rec.State.Control)
	}
	for _, t := range rec.State.Tasks {
		if t.ID != "" && t.Status != ticket.Complete {
			ids = append(ids, t.ID)
		}
	}
	return ids
}

// deleteTicket removes a ticket, whoever holds it, if it is there.
func (r *Repo) deleteTicket(ctx context.Context, id string) error {
	for {
		_, ref, err := r.queue.Get(ctx, id)
		if errors.Is(err, queue.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.queue.Delete(ctx, ref); !errors.Is(err, queue.ErrLost) {
			return err
		}
	}
}
