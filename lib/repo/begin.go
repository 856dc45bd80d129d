package repo

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// Start is what a build is begun with.
type Start struct {
	Cause *build.Cause
	// Parameters are values in place of the defaults of the job's. If the cause
	// is of kind "webhook" those of the system may be among them, see
	// [job.SystemPrefix].
	Parameters map[string]string
	// Ref is what is checked out in place of the ref that the job has; "": that.
	Ref string
	// Key is an idempotency key: a repeat with the same key gives the same build
	// for at least a day, see keys.go. "": none.
	Key string

	what string // what else is asked for, so that a repeat of it can be told
}

// Trigger begins a build of a job as it is. Errors: ErrNoJob.
func (r *Repo) Trigger(ctx context.Context, id string, cause *build.Cause) (*build.Build, error) {
	b, _, err := r.Begin(ctx, id, Start{Cause: cause})
	return b, err
}

// Begin begins a build of a job; repeated tells that its key had begun one
// before, which is returned as it was then. Errors: ErrNoJob, ErrKeyReused, and
// such of kind Usage that tell what is wrong with the parameters, the ref or
// the key.
func (r *Repo) Begin(ctx context.Context, id string, s Start) (b *build.Build, repeated bool, err error) {
	if err := r.checkStart(ctx, id, s); err != nil {
		return nil, false, err
	}
	return r.begin(ctx, id, s)
}

// checkStart tells whether the job can be begun with s.
func (r *Repo) checkStart(ctx context.Context, id string, s Start) error {
	if len(s.Parameters) == 0 && s.Ref == "" { // the job need not be read
		_, err := r.store.Stat(ctx, jobKey(id))
		if errors.Is(err, store.ErrNotFound) {
			return ErrNoJob
		}
		return err
	}
	config, err := r.Job(ctx, id)
	if err != nil {
		return err
	}
	j, err := job.Parse(config)
	if err != nil {
		return err
	}
	if err := j.CheckParameters(s.Parameters, s.Cause != nil && s.Cause.Kind == "webhook"); err != nil {
		return err
	}
	if s.Ref != "" {
		return j.CheckRef(s.Ref)
	}
	return nil
}

// begin begins a build with what was checked.
func (r *Repo) begin(ctx context.Context, id string, s Start) (*build.Build, bool, error) {
	k, err := newKey(id, s)
	if err != nil {
		return nil, false, err
	}
	for {
		// The number is read before the key is looked for: a build that was begun
		// with it meanwhile has taken the number.
		b, t, ops, err := r.triggerOps(ctx, id, s)
		if err != nil {
			return nil, false, err
		}
		if k != nil {
			before, op, err := r.findKey(ctx, k, b)
			if before != nil || err != nil {
				return before, before != nil, err
			}
			ops = append(ops, op)
		}
		err = r.queue.Post(ctx, t, ops...)
		var refused *queue.OpError
		if !errors.As(err, &refused) {
			if err == nil && k != nil {
				r.forgetKeys(ctx)
			}
			return b, false, err
		}
		if errors.Is(refused.Err, coord.ErrNoNode) && k != nil && refused.Index == len(ops)-1 {
			if err := k.makeFolder(ctx, r.conn); err != nil {
				return nil, false, err
			}
		}
		// Somebody else has taken the number; or it was we, the answer got lost,
		// and the build may even have ended.
		mine, err := r.began(ctx, id, b)
		if err != nil {
			return nil, false, fmt.Errorf("%w; whether it began build %d: %w", coord.ErrUnknown, b.Number, err)
		}
		if mine {
			return b, false, nil
		}
	}
}

// began tells whether the build with b's number is b.
func (r *Repo) began(ctx context.Context, id string, b *build.Build) (bool, error) {
	there, err := r.record(ctx, id, b.Number)
	if errors.Is(err, ErrNoBuild) {
		return false, nil
	}
	return err == nil && there.State.Created != nil && there.State.Created.Equal(*b.State.Created), err
}

// record reads the record of a build as it stands, wherever it is. Errors:
// ErrNoBuild.
func (r *Repo) record(ctx context.Context, id string, n ticket.Number) (*build.Build, error) {
	rec, err := r.live(ctx, id, n)
	switch {
	case err == nil:
		return rec.Build, nil
	case errors.Is(err, ErrNoBuild):
		return r.finished(ctx, id, n)
	}
	return nil, err
}

// triggerOps makes the next build of a job, the ticket that starts it, and the
// operations that are to go along with the ticket's post.
func (r *Repo) triggerOps(ctx context.Context, id string, s Start) (*build.Build, *ticket.Ticket, []coord.Op, error) {
	last, version, err := r.lastBuild(ctx, id)
	if err != nil {
		return nil, nil, nil, err
	}
	b, t := build.New(id, last+1, s.Cause, time.Now())
	b.State.Parameters, b.State.Ref = s.Parameters, s.Ref
	data, err := encodeState(&b.State)
	return b, t, []coord.Op{numberOps(id, b.Number, version), coord.Create(buildPath(id, b.Number), data)}, err
}
