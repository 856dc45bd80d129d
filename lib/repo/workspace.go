package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// ErrNoWorkspace: the build has not begun, or its workspace was deleted.
var ErrNoWorkspace = fault.Errorf(fault.Unavailable, "no such workspace")

// workspaceKey is where the workspace is that was put while no step was
// leased: the JSON list of its layers, or null once it is deleted. It stands
// for the workspaces of the steps.
func workspaceKey(job string, n ticket.Number) string { return buildPrefix(job, n) + "workspace" }

// Workspace returns the layers of a build's workspace as it is now, the lowest
// first: what was put, or else what the step that a REST worker has leased
// begins with, or else what the step that ended last has left. Errors:
// ErrNoBuild, ErrNoWorkspace.
func (r *Repo) Workspace(ctx context.Context, job string, n ticket.Number) ([]string, error) {
	b, err := r.Build(ctx, job, n)
	if err != nil {
		return nil, err
	}
	data, _, err := store.ReadAll(ctx, r.store, workspaceKey(job, n))
	if err == nil {
		var layers []string
		if err := json.Unmarshal(data, &layers); err != nil {
			return nil, fault.Errorf(fault.Internal, "repo: workspace of %s #%d: %w", job, n, err)
		}
		if layers == nil {
			return nil, ErrNoWorkspace
		}
		return layers, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	if b.State.Status == build.Preparing {
		return nil, ErrNoWorkspace
	}
	leased, err := r.leased(ctx, b)
	if err != nil {
		return nil, err
	}
	if len(leased) > 0 {
		return leased[0].Ticket.Workspace, nil
	}
	var last *ticket.Ticket
	for _, key := range b.State.Keys() {
		t := b.State.Tasks[key]
		// What was skipped has no end and no workspace.
		if t.Status == ticket.Complete && t.Ended != nil && (last == nil || !t.Ended.Before(*last.Ended)) {
			last = t
		}
	}
	if last == nil {
		return nil, nil
	}
	return last.Workspace, nil
}

// PutWorkspace replaces a build's workspace. If a REST worker has leased one of
// its steps, the layers are what that step leaves behind. Errors: ErrNoBuild,
// and one that wraps queue.ErrLost if several steps are leased.
func (r *Repo) PutWorkspace(ctx context.Context, job string, n ticket.Number, layers []string) error {
	for range 5 {
		b, err := r.Build(ctx, job, n)
		if err != nil {
			return err
		}
		leased, err := r.leased(ctx, b)
		switch {
		case err != nil:
			return err
		case len(leased) > 1:
			return fmt.Errorf("%d steps of the build are leased, and nothing tells whose workspace this is: %w", len(leased), queue.ErrLost)
		case len(leased) == 0:
			return r.storeWorkspace(ctx, job, n, layers)
		}
		c := leased[0]
		c.Ticket.Workspace = layers
		d, err := leaseTime(c.Ticket)
		if err != nil {
			return err
		}
		if err := c.Extend(ctx, d); errors.Is(err, queue.ErrLost) {
			continue // a sign of life came in between, or it is over
		} else if err != nil {
			return err
		}
		err = r.store.Delete(ctx, workspaceKey(job, n))
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	}
	return fmt.Errorf("the step's ticket keeps changing: %w", queue.ErrLost)
}

// DeleteWorkspace makes a build have no workspace, for those who ask over
// REST; its steps keep theirs. Errors: ErrNoBuild.
func (r *Repo) DeleteWorkspace(ctx context.Context, job string, n ticket.Number) error {
	if err := r.exists(ctx, job, n); err != nil {
		return err
	}
	return r.storeWorkspace(ctx, job, n, nil)
}

func (r *Repo) storeWorkspace(ctx context.Context, job string, n ticket.Number, layers []string) error {
	data, err := json.Marshal(layers)
	if err != nil {
		return err
	}
	_, err = r.store.Put(ctx, workspaceKey(job, n), bytes.NewReader(data))
	return err
}

// leased returns the claims of REST workers on a build's steps, in the order of
// the steps.
func (r *Repo) leased(ctx context.Context, b *build.Build) ([]*queue.Claim, error) {
	var claims []*queue.Claim
	for _, key := range b.State.Keys() {
		shown := b.State.Tasks[key]
		if shown.Status != ticket.Running || shown.ID == "" {
			continue
		}
		t, ref, err := r.queue.Get(ctx, shown.ID)
		if errors.Is(err, queue.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		c, err := r.queue.Leased(ctx, ref, t)
		if errors.Is(err, queue.ErrLost) || err == nil && c.Left() <= 0 {
			continue
		}
		if err != nil {
			return nil, err
		}
		claims = append(claims, c)
	}
	return claims, nil
}

// The time that a lease lasts if the ticket does not say, and its bounds.
const (
	defaultLease = 60 * time.Second
	minLease     = time.Second
	maxLease     = time.Hour
)

// FieldLease is a ticket's field: how many seconds a REST worker may be silent.
const FieldLease = "lease"

// leaseTime reads how long a ticket's lease is to last.
func leaseTime(t *ticket.Ticket) (time.Duration, error) {
	var seconds float64
	ok, err := t.Get(FieldLease, &seconds)
	if err != nil {
		return 0, fault.Errorf(fault.BadTicket, "ticket: field %q: expected a number of seconds", FieldLease)
	}
	if !ok {
		return defaultLease, nil
	}
	seconds = min(max(seconds, minLease.Seconds()), maxLease.Seconds())
	return time.Duration(seconds * float64(time.Second)), nil
}
