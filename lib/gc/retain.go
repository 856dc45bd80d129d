package gc

import (
	"context"
	"errors"
	"strings"

	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
)

// retain removes what is not kept of a job's builds, and marks the layers that
// the others refer to.
func (c *collector) retain(ctx context.Context, j *jobScan) error {
	builds := make([]candidate, len(j.builds))
	for i, f := range j.builds {
		builds[i] = f.candidate
	}
	for i, v := range j.keep.judge(builds, c.start) {
		f := j.builds[i]
		if j.gone && c.old(f.ended) {
			v = verdict{build: "its job was deleted"}
		}
		refers, err := c.carryOut(ctx, j.id, f, v)
		if err != nil {
			return err
		}
		if !refers {
			continue
		}
		c.mu.Lock()
		for _, l := range f.layers {
			c.marked[l] = struct{}{}
		}
		c.mu.Unlock()
	}
	return nil
}

// carryOut does what the verdict says, and tells whether the build refers to
// its layers afterwards.
func (c *collector) carryOut(ctx context.Context, id string, f found, v verdict) (refers bool, err error) {
	item := Item{JobID: id, Number: f.number, Key: repo.BuildPrefix(id, f.number)}
	if v.build != "" {
		item.Kind, item.Reason, item.Count, item.Bytes = Build, v.build, f.count, f.bytes
		done, err := c.removeBuild(ctx, f, item)
		if err != nil || done {
			return false, err
		}
	}
	c.mu.Lock()
	c.report.Builds++
	c.mu.Unlock()
	if v.artifacts != "" && f.artifacts {
		item.Kind, item.Reason = Artifacts, v.artifacts
		if err := c.removeArtifacts(ctx, item); err != nil {
			return false, err
		}
	}
	if v.workspace == "" || len(f.layers) == 0 {
		return true, nil
	}
	item.Kind, item.Reason, item.Count, item.Bytes = Workspace, v.workspace, 0, 0
	if !c.DryRun {
		if err := c.held(ctx); err != nil {
			return false, err
		}
		err := c.repo.DeleteWorkspace(ctx, id, f.number)
		if errors.Is(err, repo.ErrNoBuild) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	c.gone(item)
	return false, nil
}

// removeBuild removes a finished build, the record first, unless somebody is
// still about to finish it. It tells whether it has.
func (c *collector) removeBuild(ctx context.Context, f found, item Item) (bool, error) {
	live, err := c.repo.Live(ctx, item.JobID, f.number)
	if err != nil || live {
		return false, err
	}
	if !c.DryRun {
		if err := c.held(ctx); err != nil {
			return false, err
		}
		err := c.store.Delete(ctx, item.Key+repo.NameState)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
		if err := c.removeFolder(ctx, item.Key); err != nil {
			return false, err
		}
	}
	c.gone(item)
	return true, nil
}

// removeFolder removes all objects whose keys begin with prefix.
func (c *collector) removeFolder(ctx context.Context, prefix string) error {
	for {
		infos, err := c.store.List(ctx, prefix, "", 1000)
		if err != nil || len(infos) == 0 {
			return err
		}
		for _, i := range infos {
			if err := c.held(ctx); err != nil {
				return err
			}
			if err := c.store.Delete(ctx, i.Key); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
	}
}

// removeArtifacts removes the artefacts of a build that stays. Its record is
// changed first; what a crash leaves are artefacts that it does not tell of.
func (c *collector) removeArtifacts(ctx context.Context, item Item) error {
	objects, err := c.folder(ctx, item.Key+repo.DirArtifacts)
	if err != nil {
		return err
	}
	more, err := c.folder(ctx, item.Key+repo.DirManifests)
	if err != nil {
		return err
	}
	if !c.DryRun {
		if err := c.held(ctx); err != nil {
			return err
		}
		b, version, err := c.repo.Finished(ctx, item.JobID, item.Number)
		if err == nil {
			err = c.repo.ForgetArtifacts(ctx, b, version, c.start)
		}
		if errors.Is(err, repo.ErrNoBuild) || errors.Is(err, store.ErrConflict) {
			return nil // somebody changes it; the next run
		}
		if err != nil {
			return err
		}
	}
	return c.removeAll(ctx, append(objects, more...), item)
}

// folder lists all objects whose keys begin with prefix.
func (c *collector) folder(ctx context.Context, prefix string) (all []store.Info, err error) {
	for after := ""; ; {
		infos, err := c.store.List(ctx, prefix, after, 1000)
		if err != nil {
			return nil, err
		}
		all = append(all, infos...)
		if len(infos) < 1000 {
			return all, nil
		}
		after = strings.Clone(infos[len(infos)-1].Key)
	}
}
