package api

import (
	"encoding/json"
	"net/http"

	"github.com/distci/distci/lib/build"
)

func (c *call) listBuilds() error {
	ns, err := c.repo.Builds(c.r.Context(), c.job)
	if err == nil && len(ns) == 0 {
		_, err = c.repo.Job(c.r.Context(), c.job)
	}
	if err != nil {
		return err
	}
	numbers := make([]int64, len(ns))
	for i, n := range ns {
		numbers[i] = int64(n)
	}
	reply := map[string]any{"builds": numbers}
	if len(numbers) > 0 {
		reply["last_build_number"] = numbers[len(numbers)-1]
	}
	return c.json(http.StatusOK, reply)
}

// trigger begins a build. The original's clients send no body or anything;
// what we cannot do yet is refused rather than ignored.
func (c *call) trigger() error {
	b, err := c.document(maxDocument)
	if err != nil {
		return err
	}
	var how struct {
		Ref        string            `json:"ref"`
		Parameters map[string]string `json:"parameters"`
	}
	_ = json.Unmarshal(b, &how)
	if how.Ref != "" || len(how.Parameters) > 0 || c.r.Header.Get("Idempotency-Key") != "" {
		return status(http.StatusNotImplemented, "a build cannot be given a ref, parameters or an idempotency key here")
	}
	return c.begin(&build.Cause{Kind: "request"})
}

func (c *call) begin(cause *build.Cause) error {
	b, err := c.repo.Trigger(c.r.Context(), c.job, cause)
	if err != nil {
		return err
	}
	// As the original said it; the rest of the record is there to be got.
	return c.buildReply(http.StatusCreated, int64(b.Number), &build.State{Status: b.State.Status})
}

// buildReply tells of a build. The number is a number, or a string as the
// client wrote it where it has said it.
func (c *call) buildReply(code int, number any, s *build.State) error {
	return c.json(code, struct {
		ID     string       `json:"job_id"`
		Number any          `json:"build_number"`
		State  *build.State `json:"state"`
	}{c.job, number, s})
}

func (c *call) getBuild() error {
	b, err := c.repo.Build(c.r.Context(), c.job, c.build)
	if err != nil {
		return err
	}
	return c.buildReply(http.StatusOK, c.number, &b.State)
}

func (c *call) putState() error {
	body, err := c.document(maxDocument)
	if err != nil {
		return err
	}
	var s build.State
	if err := json.Unmarshal(body, &s); err != nil {
		return status(http.StatusBadRequest, "the state: "+err.Error())
	}
	for key, t := range s.Tasks {
		if t == nil || !isStep(key) {
			return status(http.StatusBadRequest, "the state: tasks: expected an object of tickets, with the steps' keys")
		}
	}
	if err := c.repo.PutState(c.r.Context(), c.job, c.build, &s); err != nil {
		return err
	}
	return c.buildReply(http.StatusOK, int64(c.build), &s)
}

func (c *call) deleteBuild() error {
	if err := c.repo.DeleteBuild(c.r.Context(), c.job, c.build); err != nil {
		return err
	}
	return c.none()
}

func (c *call) cancel() error {
	if err := c.repo.Cancel(c.r.Context(), c.job, c.build, "a request"); err != nil {
		return err
	}
	b, err := c.repo.Build(c.r.Context(), c.job, c.build)
	if err != nil {
		return err
	}
	return c.buildReply(http.StatusAccepted, int64(c.build), &b.State)
}
