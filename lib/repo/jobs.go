package repo

import (
	"bytes"
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// jobsPage is how many jobs are listed at a time: a store that has to sort them
// does as much for a small page as for all.
const jobsPage = 10_000

// Jobs lists at most limit (0: all) job ids that are greater than after.
func (r *Repo) Jobs(ctx context.Context, after string, limit int) ([]string, error) {
	ids := []string{}
	key := ""
	if after != "" {
		key = jobKey(after)
	}
	for limit == 0 || len(ids) < limit {
		page := jobsPage
		if limit > 0 {
			page = min(page, limit-len(ids))
		}
		infos, err := r.store.List(ctx, "jobs/", key, page)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			ids = append(ids, strings.ReplaceAll(strings.TrimPrefix(i.Key, "jobs/"), "/", ""))
			key = i.Key
		}
		if len(infos) < page {
			break
		}
	}
	return ids, nil
}

// Job returns a job's configuration as it was put. Errors: ErrNoJob.
func (r *Repo) Job(ctx context.Context, id string) ([]byte, error) {
	b, _, err := store.ReadAll(ctx, r.store, jobKey(id))
	if errors.Is(err, store.ErrNotFound) {
		return nil, ErrNoJob
	}
	return b, err
}

// PutJob creates or replaces a job. The configuration is checked; the error is
// then of kind Config and names the place.
func (r *Repo) PutJob(ctx context.Context, id string, config []byte) error {
	j, err := job.Parse(config)
	if err != nil {
		return err
	}
	if j.ID != id {
		return fault.Errorf(fault.Config, "job: $.job_id: expected %q, found %q", id, j.ID)
	}
	_, err = r.store.Put(ctx, jobKey(id), bytes.NewReader(config))
	return err
}

// DeleteJob removes a job with all its builds; those that run are canceled.
// Errors: ErrNoJob.
func (r *Repo) DeleteJob(ctx context.Context, id string) error {
	if err := r.store.Delete(ctx, jobKey(id)); errors.Is(err, store.ErrNotFound) {
		return ErrNoJob
	} else if err != nil {
		return err
	}
	ns, err := r.Builds(ctx, id)
	if err != nil {
		return err
	}
	for _, n := range ns {
		if err := r.DeleteBuild(ctx, id, n); err != nil && !errors.Is(err, ErrNoBuild) {
			return err
		}
	}
	if err := r.deleteAll(ctx, "tags/"+pad(id)+"/"); err != nil {
		return err
	}
	_, err = r.conn.Txn(ctx, coord.Delete(jobPath(id), coord.AnyVersion))
	if errors.Is(err, coord.ErrNoNode) {
		return nil
	}
	return err
}

// lastBuild reads the number of the job's last build and the version of the
// node that holds it; -1 if there is no node yet, where the store tells the
// number.
func (r *Repo) lastBuild(ctx context.Context, id string) (ticket.Number, int32, error) {
	data, st, err := r.conn.Get(ctx, jobPath(id))
	if errors.Is(err, coord.ErrNoNode) {
		ns, err := r.Builds(ctx, id)
		if err != nil || len(ns) == 0 {
			return 0, -1, err
		}
		return ns[len(ns)-1], -1, nil
	}
	if err != nil {
		return 0, 0, err
	}
	n, err := strconv.ParseInt(string(data), 10, 64)
	if err != nil {
		return 0, 0, fault.Errorf(fault.Internal, "repo: %s: %q is not a number", jobPath(id), data)
	}
	return ticket.Number(n), st.Version, nil
}

// numberOps are the operations that make n the job's last build number.
func numberOps(id string, n ticket.Number, version int32) coord.Op {
	if version < 0 {
		return coord.Create(jobPath(id), []byte(n.String()))
	}
	return coord.Set(jobPath(id), []byte(n.String()), version)
}

func tagKey(id, tag string) string { return "tags/" + pad(id) + "/" + tag }

// Tags lists a job's tags.
func (r *Repo) Tags(ctx context.Context, id string) ([]string, error) {
	prefix := "tags/" + pad(id) + "/"
	tags := []string{}
	for after := ""; ; {
		infos, err := r.store.List(ctx, prefix, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			tags = append(tags, strings.TrimPrefix(i.Key, prefix))
			after = i.Key
		}
		if len(infos) < 1000 {
			return tags, nil
		}
	}
}

// Tag returns the number of the build that a tag names. Errors: ErrNoTag.
func (r *Repo) Tag(ctx context.Context, id, tag string) (ticket.Number, error) {
	b, _, err := store.ReadAll(ctx, r.store, tagKey(id, tag))
	if errors.Is(err, store.ErrNotFound) {
		return 0, ErrNoTag
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(b), 10, 64)
	return ticket.Number(n), err
}

// PutTag makes a tag name a build, which must exist.
func (r *Repo) PutTag(ctx context.Context, id, tag string, n ticket.Number) error {
	if _, err := r.Build(ctx, id, n); err != nil {
		return err
	}
	_, err := r.store.Put(ctx, tagKey(id, tag), strings.NewReader(n.String()))
	return err
}

// DeleteTag removes a tag. Errors: ErrNoTag.
func (r *Repo) DeleteTag(ctx context.Context, id, tag string) error {
	err := r.store.Delete(ctx, tagKey(id, tag))
	if errors.Is(err, store.ErrNotFound) {
		return ErrNoTag
	}
	return err
}
