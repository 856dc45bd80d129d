package repo

import (
	"context"
	"errors"
	"time"

	"github.com/distci/distci/lib/ticket"
)

// Created tells when a build began: the part of its name that every process
// learns alike, and that no other build with its number has had. Errors:
// ErrNoBuild.
func (r *Repo) Created(ctx context.Context, id string, n ticket.Number) (time.Time, error) {
	// The record of a moment ago will do: this never changes.
	if rec := r.written(id, n); rec != nil && rec.State.Created != nil {
		return *rec.State.Created, nil
	}
	rec, err := r.live(ctx, id, n)
	if errors.Is(err, ErrNoBuild) {
		b, err := r.finished(ctx, id, n)
		if err != nil || b.State.Created == nil {
			return time.Time{}, err
		}
		return *b.State.Created, nil
	}
	if err != nil || rec.State.Created == nil {
		return time.Time{}, err
	}
	return *rec.State.Created, nil
}
