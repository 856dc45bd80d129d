package api

import (
	"net/http"

	"github.com/distci/distci/lib/member"
)

// listMembers tells who is there and what each runs.
func (c *call) listMembers() error {
	ms, err := c.repo.Members(c.r.Context())
	if err != nil {
		return err
	}
	c.hideRuns(ms)
	if ms == nil {
		ms = []member.Member{} // in JSON a list, too
	}
	return c.json(http.StatusOK, map[string]any{"members": ms})
}

// showQueue tells how much there is to do, for each set of capabilities.
func (c *call) showQueue() error {
	// What a dead worker held waits again, and nobody else may be there to see.
	if err := c.requeue(); err != nil {
		return err
	}
	loads, err := c.repo.Queue().Loads(c.r.Context())
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, map[string]any{"queue": loads})
}
