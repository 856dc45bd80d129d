package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/ticket"
)

// What is here sees to the jobs that a call has to do with, where they are not
// in its path: in lists, in tickets, and in what a job reaches.

// jobs lists at most limit (0: all) jobs that come after one, of those that the
// call sees.
func (c *call) jobs(after string, limit int) ([]string, error) {
	ctx := c.r.Context()
	if !c.who.Limited() {
		return c.repo.Jobs(ctx, after, limit)
	}
	const page = 1000
	seen := []string{}
	for {
		ids, err := c.repo.Jobs(ctx, after, page)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			if after = id; c.sees(id) {
				seen = append(seen, id)
			}
			if limit > 0 && len(seen) == limit {
				return seen, nil
			}
		}
		if len(ids) < page {
			return seen, nil
		}
	}
}

// tickets returns those of the tickets that the call sees.
func (c *call) tickets(ids []string) ([]string, error) {
	if !c.who.Limited() {
		return ids, nil
	}
	seen := []string{}
	for _, id := range ids {
		t, _, err := c.repo.Queue().Get(c.r.Context(), id)
		if errors.Is(err, queue.ErrNotFound) {
			continue // done meanwhile
		}
		if err != nil {
			return nil, err
		}
		if c.sees(t.JobID) {
			seen = append(seen, id)
		}
	}
	return seen, nil
}

// seesTicket returns an error unless the call sees the ticket of its path. To
// which job a ticket belongs does not change.
func (c *call) seesTicket() error {
	if !c.who.Limited() {
		return nil
	}
	t, _, err := c.repo.Queue().Get(c.r.Context(), c.task)
	if err == nil && !c.sees(t.JobID) {
		err = queue.ErrNotFound
	}
	return err
}

// mayPost returns an error unless the call may have to do with a ticket as it
// is to be.
func (c *call) mayPost(t *ticket.Ticket) error {
	if c.sees(t.JobID) {
		return nil
	}
	if t.JobID == "" {
		return fault.Errorf(fault.Denied, "%s may post tickets of certain jobs only, and this one is of none", c.who.Name)
	}
	return c.who.May(access.Worker, t.JobID)
}

// hideRuns takes out of ms what members run that the call does not see.
func (c *call) hideRuns(ms []member.Member) {
	if !c.who.Limited() {
		return
	}
	for i := range ms {
		ms[i].Runs = slices.DeleteFunc(slices.Clone(ms[i].Runs), func(r member.Run) bool { return !c.sees(r.JobID) })
	}
}

// reaches returns an error if a job, as it is to be configured, would reach
// jobs that the call does not see: begin their builds, or copy from them.
func (c *call) reaches(config []byte) error {
	if !c.who.Limited() {
		return nil
	}
	j, err := job.Parse(config)
	if err != nil {
		return err
	}
	others := slices.Clone(j.Downstream)
	for _, s := range j.Steps {
		var params struct {
			Job string `json:"job"`
		}
		if s.Type == ticket.CopyArtifacts && json.Unmarshal(s.Params, &params) == nil && params.Job != "" {
			others = append(others, params.Job)
		}
	}
	for _, other := range others {
		if !c.sees(other) {
			return fmt.Errorf("the job has to do with %.300q: %w", other, c.who.May(access.Admin, other))
		}
	}
	return nil
}
