// Package control is distci-buildctl as a tool: a pure filter that turns a job
// into the tickets of a build, and finishes builds.
package control

import (
	"context"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// Params are the parameters of a control ticket.
type Params struct {
	Action string `json:"action"`
}

// Act answers a control ticket: it reads the job and the build's record from
// the ticket, and leaves the new record, the tickets to post and the jobs to
// trigger in it. The time is the only thing that it takes from elsewhere.
func Act(_ context.Context, t *ticket.Ticket, now time.Time) error {
	var p Params
	if err := t.DecodeParams(&p); err != nil {
		return err
	}
	j, err := jobOf(t)
	if err != nil {
		return err
	}
	b := &build.Build{JobID: t.JobID, Number: t.BuildNumber}
	if ok, err := t.Get(repo.FieldBuild, &b.State); err != nil || !ok {
		return missing(repo.FieldBuild, err)
	}
	post := []*ticket.Ticket{}
	down := repo.Downstream{}
	switch p.Action {
	case build.ActionStart:
		steps, err := start(t, b, j, now)
		if err != nil {
			return err
		}
		post = append(post, steps...)
	case build.ActionFinish:
		down.Jobs, down.Cause = b.Finish(j, now)
	default:
		return fault.Errorf(fault.BadTicket, "ticket: params: action: expected %q or %q, found %q", build.ActionStart, build.ActionFinish, p.Action)
	}
	if status := b.StatusTicket(j); status != nil {
		post = append(post, status)
	}
	delete(t.Extra, repo.FieldJob)
	delete(t.Extra, repo.FieldRetried)
	if err := t.Set(repo.FieldBuild, b.State); err != nil {
		return err
	}
	if err := t.Set(repo.FieldPost, post); err != nil {
		return err
	}
	return t.Set(repo.FieldTrigger, down)
}

// start begins the steps of a build: those of the job, or of the build that this
// one retries.
func start(t *ticket.Ticket, b *build.Build, j *job.Job, now time.Time) ([]*ticket.Ticket, error) {
	if j == nil {
		return nil, fault.Errorf(fault.Unavailable, "job %s does not exist any more", t.JobID)
	}
	if !b.State.Retries() {
		return b.Start(j, now), nil
	}
	var old build.State
	ok, err := t.Get(repo.FieldRetried, &old)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fault.Errorf(fault.Unavailable, "build %d, which is to be retried, does not exist any more", b.State.Cause.Number)
	}
	return b.Restart(&old, now)
}

// jobOf reads the job out of a control ticket; nil if it has none.
func jobOf(t *ticket.Ticket) (*job.Job, error) {
	raw, ok := t.Extra[repo.FieldJob]
	if !ok {
		return nil, nil
	}
	return job.Parse(raw)
}

func missing(field string, err error) error {
	if err != nil {
		return err
	}
	return fault.Errorf(fault.BadTicket, "ticket: field %q is missing", field)
}
