package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

func workspaceKey(job string, n ticket.Number) string { return buildPrefix(job, n) + "workspace" }

// Workspace returns the layers of a build's workspace: of the step that runs,
// else what was put by PutWorkspace, else of the last step that was run.
// Errors: ErrNoBuild, also if there is no workspace.
func (r *Repo) Workspace(ctx context.Context, job string, n ticket.Number) ([]string, error) {
	b, err := r.Build(ctx, job, n)
	if err != nil {
		return nil, err
	}
	for _, key := range b.State.Keys() {
		if t := b.State.Tasks[key]; t.Status == ticket.Running {
			return t.Workspace, nil
		}
	}
	text, _, err := store.ReadAll(ctx, r.store, workspaceKey(job, n))
	if err == nil {
		var layers []string
		return layers, json.Unmarshal(text, &layers)
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	var layers []string
	found := false
	for _, key := range b.State.Keys() {
		if t := b.State.Tasks[key]; t.Attempt > 0 {
			layers, found = t.Workspace, true
		}
	}
	if !found {
		return nil, ErrNoBuild
	}
	return layers, nil
}

// PutWorkspace makes these layers the build's workspace. A worker that speaks
// REST does so between the begin and the end of its step, which then hands
// them on.
func (r *Repo) PutWorkspace(ctx context.Context, job string, n ticket.Number, layers []string) error {
	b, err := r.Build(ctx, job, n)
	if err != nil {
		return err
	}
	for _, key := range b.State.Keys() {
		t := b.State.Tasks[key]
		if t.Status != ticket.Running {
			continue
		}
		now, ref, err := r.queue.Get(ctx, t.ID)
		if err != nil {
			return err
		}
		c, err := r.queue.Leased(ctx, ref, now)
		if errors.Is(err, queue.ErrLost) {
			continue
		}
		if err != nil {
			return err
		}
		c.Ticket.Workspace = layers
		return c.Extend(ctx, c.Left())
	}
	text, err := json.Marshal(layers)
	if err != nil {
		return err
	}
	_, err = r.store.Put(ctx, workspaceKey(job, n), bytes.NewReader(text))
	return err
}

// DeleteWorkspace forgets what was put by PutWorkspace. Errors: ErrNoBuild.
func (r *Repo) DeleteWorkspace(ctx context.Context, job string, n ticket.Number) error {
	if err := r.exists(ctx, job, n); err != nil {
		return err
	}
	err := r.store.Delete(ctx, workspaceKey(job, n))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}
