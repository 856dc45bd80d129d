package repo

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// ErrChanged: the build's record has changed since a control ticket was
// prepared; it is to be prepared and run again.
var ErrChanged = fault.Errorf(fault.Temporary, "the build's record has changed")

// The fields of a control ticket: what distci-buildctl gets, and what it
// answers.
const (
	FieldJob     = "job"     // in: the job's configuration; absent if it is gone
	FieldBuild   = "build"   // in, out: the build's record
	FieldRetried = "retried" // in: the record of the build that this one retries, if there is one
	FieldPost    = "post"    // out: tickets to post
	FieldTrigger = "trigger" // out: a Downstream
)

// Downstream is the builds that a finished build triggers.
type Downstream struct {
	Jobs  []string     `json:"jobs"`
	Cause *build.Cause `json:"cause"`
}

// Control is a control ticket that was prepared.
type Control struct {
	rec   *record
	ended *build.Build
}

// Ended is the build that was finished by the commit of this ticket; nil if it
// was not.
func (c *Control) Ended() *build.Build { return c.ended }

// Prepare fills in what distci-buildctl needs to know. A nil Control with no
// error means that the build does not wait for this ticket.
func (r *Repo) Prepare(ctx context.Context, t *ticket.Ticket) (*Control, error) {
	rec, err := r.live(ctx, t.JobID, t.BuildNumber)
	if errors.Is(err, ErrNoBuild) || err == nil && !rec.Waits(t) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	config, err := r.Job(ctx, t.JobID)
	if err == nil {
		err = t.Set(FieldJob, json.RawMessage(config))
	}
	if err != nil && !errors.Is(err, ErrNoJob) {
		return nil, err
	}
	if err := r.setRetried(ctx, t, rec); err != nil {
		return nil, err
	}
	return &Control{rec: rec}, t.Set(FieldBuild, rec.State)
}

// Commit ends a claim with the outcome that is in t: the build moves on, and
// if a worker with the capabilities of offer can do what comes next, the same
// transaction claims that, and it is returned. It is for all tickets except
// control tickets. Errors: queue.ErrLost.
func (r *Repo) Commit(ctx context.Context, c *queue.Claim, t *ticket.Ticket, offer []string) (*queue.Claim, error) {
	if IsStatus(t) {
		return nil, r.drop(ctx, c) // nobody waits for it
	}
	if t.JobID == "" || t.Step == "" {
		return nil, r.end(ctx, c, t)
	}
	rec := r.written(t.JobID, t.BuildNumber) // mostly by the commit of the step before
	for ; ; rec = nil {
		var err error
		if rec == nil || !rec.Waits(t) {
			rec, err = r.live(ctx, t.JobID, t.BuildNumber)
		}
		if errors.Is(err, ErrNoBuild) || err == nil && !rec.Waits(t) {
			return nil, r.drop(ctx, c)
		}
		if err != nil {
			return nil, err
		}
		done := t.Clone()
		if err := r.keepArtifacts(ctx, done); err != nil {
			return nil, err
		}
		_ = done.Set(FieldWorker, c.Worker) // a string
		post, err := rec.Advance(done, time.Now())
		if err != nil {
			return nil, err
		}
		op, err := rec.set()
		if err != nil && len(t.Extra)+len(t.Artifacts) > 0 {
			// What the step has added is too much for the record; without it, it fits.
			t = bare(t, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		next, err := r.queue.Commit(ctx, queue.Change{End: c, Told: done.Result, Post: post, Next: nextFor(post, offer), Ops: []coord.Op{op}})
		if err == nil {
			r.wrote(op, rec)
		}
		var refused *queue.OpError
		if !errors.As(err, &refused) {
			return next, err
		}
	}
}

// FieldWorker is the field of a step's ticket that tells, when it is complete,
// who has done it: the assignee is gone by then.
const FieldWorker = "worker"

// bare is a ticket without anything that a tool could have added, failed with
// err.
func bare(t *ticket.Ticket, err error) *ticket.Ticket {
	b := t.Clone()
	b.Extra, b.Artifacts = nil, nil
	b.Finish(err)
	return b
}

// end completes a ticket that belongs to no build. It stays, for whoever
// posted it to read and delete.
func (r *Repo) end(ctx context.Context, c *queue.Claim, t *ticket.Ticket) error {
	now := time.Now().UTC()
	t = t.Clone()
	t.Assignee, t.Ended = "", &now
	c.Ticket = t
	_, err := r.queue.Commit(ctx, queue.Change{End: c, Keep: true})
	return err
}

// drop ends a ticket that nobody waits for.
func (r *Repo) drop(ctx context.Context, c *queue.Claim) error {
	_, err := r.queue.Commit(ctx, queue.Change{End: c})
	return err
}

// nextFor picks the ticket that a worker goes on with; nil if there is none.
func nextFor(post []*ticket.Ticket, offer []string) *ticket.Ticket {
	i := slices.IndexFunc(post, func(t *ticket.Ticket) bool {
		return !slices.ContainsFunc(t.Capabilities, func(c string) bool { return !slices.Contains(offer, c) })
	})
	if i < 0 {
		return nil
	}
	return post[i]
}

// Drop ends a control ticket that no build waits for; see Prepare.
func (r *Repo) Drop(ctx context.Context, c *queue.Claim) error { return r.drop(ctx, c) }

// CommitControl ends a control ticket with distci-buildctl's answer in t.
// Errors: queue.ErrLost, ErrChanged.
func (r *Repo) CommitControl(ctx context.Context, c *queue.Claim, ctl *Control, t *ticket.Ticket, offer []string) (*queue.Claim, error) {
	rec := *ctl.rec
	before := rec.State
	var post []*ticket.Ticket
	var down Downstream
	err := answer(t, &rec.State, &post, &down)
	if err == nil && action(t) == build.ActionStart && rec.State.Retries() {
		err = r.takeOver(ctx, rec.Build)
		if err != nil && fault.Of(err) != fault.Unavailable {
			return nil, err
		}
	}
	if err != nil {
		b := build.Build{JobID: rec.JobID, Number: rec.Number, State: before}
		if action(t) == build.ActionStart {
			post = b.Fail(err.Error(), time.Now())
		} else {
			b.State.Error = err.Error()
			b.Finish(nil, time.Now())
			post = nil
		}
		rec.Build = &b
	}
	if rec.State.Status == build.Complete {
		err := r.finish(ctx, c, &rec, post, down)
		if err == nil {
			ctl.ended = rec.Build
		}
		return nil, err
	}
	op, err := rec.set()
	if err != nil {
		b := build.Build{JobID: rec.JobID, Number: rec.Number, State: before}
		post = b.Fail(err.Error(), time.Now())
		rec.Build = &b
		if op, err = rec.set(); err != nil {
			return nil, err
		}
	}
	next, err := r.queue.Commit(ctx, queue.Change{End: c, Post: post, Next: nextFor(post, offer), Ops: []coord.Op{op}})
	var refused *queue.OpError
	if errors.As(err, &refused) {
		return nil, ErrChanged
	}
	if err == nil {
		r.wrote(op, &rec)
	}
	return next, err
}

// answer reads what distci-buildctl has said.
func answer(t *ticket.Ticket, s *build.State, post *[]*ticket.Ticket, down *Downstream) error {
	if t.Result != ticket.Success {
		return fault.Errorf(fault.FromResult(t.Result, t.Fault), "%s", t.Error)
	}
	ok, err := t.Get(FieldBuild, s)
	if err == nil && !ok {
		err = fault.Errorf(fault.Internal, "the control tool has answered without %q", FieldBuild)
	}
	if err == nil {
		_, err = t.Get(FieldPost, post)
	}
	if err == nil {
		_, err = t.Get(FieldTrigger, down)
	}
	return err
}

// action reads what a control ticket is for.
func action(t *ticket.Ticket) string {
	var p struct {
		Action string `json:"action"`
	}
	_ = t.DecodeParams(&p) // we have written it
	return p.Action
}

// finish seals the logs whose writers have not done so, writes the final record
// to the store, then removes the live one, posts what is left to tell and
// triggers what is downstream, in one transaction. It may be repeated.
func (r *Repo) finish(ctx context.Context, c *queue.Claim, rec *record, tell []*ticket.Ticket, down Downstream) error {
	for key, t := range rec.State.Tasks {
		artifacts, err := r.manifest(ctx, rec.JobID, rec.Number, key, t)
		if err != nil {
			return err
		}
		addArtifacts(&rec.State, t, artifacts)
	}
	if err := r.sealLogs(ctx, rec.JobID, rec.Number); err != nil {
		return err
	}
	if err := r.putFinished(ctx, rec.JobID, rec.Number, &rec.State); err != nil {
		return err
	}
	for {
		ops := []coord.Op{coord.Delete(buildPath(rec.JobID, rec.Number), rec.version)}
		post := slices.Clone(tell)
		for _, id := range down.Jobs {
			if _, err := r.store.Stat(ctx, jobKey(id)); errors.Is(err, store.ErrNotFound) {
				continue // told by distci-buildctl's check of the job, not worth a red build
			} else if err != nil {
				return err
			}
			_, t, more, err := r.triggerOps(ctx, id, Start{Cause: down.Cause})
			if err != nil {
				return err
			}
			ops, post = append(ops, more...), append(post, t)
		}
		_, err := r.queue.Commit(ctx, queue.Change{End: c, Post: post, Ops: ops})
		var refused *queue.OpError
		if !errors.As(err, &refused) {
			return err
		}
		if refused.Index == 0 { // the record
			return ErrChanged
		}
	}
}
