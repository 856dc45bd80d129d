package repo

import (
	"context"
	"errors"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/ticket"
)

// A ticket of type commit-status tells a forge what becomes of a build. Its
// worker does not take from the ticket what is to be told, and with which
// secret, but from the job and the build's record: anybody who may post tickets
// may post one that names a build.
//
// A build has one for its beginning and one for its end. They are told in that
// order: that of the end waits as long as that of the beginning is there, and
// that of the beginning is dropped if nobody has told it when the build is
// complete.

// ErrObsolete: there is nothing to tell by this ticket, not now and not later.
var ErrObsolete = fault.Errorf(fault.Interrupted, "the status is obsolete")

// ErrTooEarly: what comes before is still being told.
var ErrTooEarly = fault.Errorf(fault.Temporary, "an earlier status of the build is still being told")

// IsStatus tells whether a ticket tells of a build, as PrepareStatus wants it.
func IsStatus(t *ticket.Ticket) bool {
	return t.Type == ticket.CommitStatus && t.JobID != "" && t.Step == ""
}

// PrepareStatus fills in what is to be told. Errors: ErrObsolete, ErrTooEarly.
func (r *Repo) PrepareStatus(ctx context.Context, t *ticket.Ticket) error {
	b, err := r.record(ctx, t.JobID, t.BuildNumber)
	if errors.Is(err, ErrNoBuild) {
		return ErrObsolete
	}
	if err != nil {
		return err
	}
	config, err := r.Job(ctx, t.JobID)
	if errors.Is(err, ErrNoJob) {
		return ErrObsolete
	}
	if err != nil {
		return err
	}
	j, err := job.Parse(config)
	if err != nil {
		return err
	}
	report := b.Report(j)
	begun, ended := b.StatusTickets()
	switch complete := b.State.Status == build.Complete; {
	case report == nil, t.ID == begun && complete, t.ID == ended && !complete, t.ID != begun && t.ID != ended:
		return ErrObsolete
	case t.ID == ended:
		if _, _, err := r.queue.Get(ctx, begun); err == nil {
			return ErrTooEarly
		} else if !errors.Is(err, queue.ErrNotFound) {
			return err
		}
	}
	report.Fill(t)
	return nil
}
