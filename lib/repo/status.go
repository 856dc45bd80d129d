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
//
// Of several builds of a commit, such as a retry, the last one is told: its
// status is in the place of the others', whose tickets are dropped, and which
// must not come after it.

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
	if err := r.inTurn(ctx, b, t.ID == begun); err != nil {
		return err
	}
	report.Fill(t)
	return nil
}

// maxNewer bounds how many builds after one are looked at for its commit.
const maxNewer = 20

// inTurn tells whether what a build has to tell is in order with what others of
// its commit have to. Errors: ErrObsolete, ErrTooEarly.
func (r *Repo) inTurn(ctx context.Context, b *build.Build, begins bool) error {
	last, _, err := r.lastBuild(ctx, b.JobID)
	if err != nil {
		return err
	}
	for n := b.Number + 1; n <= min(last, b.Number+maxNewer); n++ {
		newer, err := r.record(ctx, b.JobID, n)
		if errors.Is(err, ErrNoBuild) {
			continue
		}
		if err != nil {
			return err
		}
		if newer.SameCommit(b) {
			return ErrObsolete
		}
	}
	if !begins || !b.State.Retries() {
		return nil
	}
	// Of the one that is retried a status may be on its way just now.
	old, err := r.record(ctx, b.JobID, b.State.Cause.Number)
	if errors.Is(err, ErrNoBuild) {
		return nil
	}
	if err != nil {
		return err
	}
	begun, ended := old.StatusTickets()
	for _, id := range []string{begun, ended} {
		if _, _, err := r.queue.Get(ctx, id); err == nil {
			return ErrTooEarly
		} else if !errors.Is(err, queue.ErrNotFound) {
			return err
		}
	}
	return nil
}
