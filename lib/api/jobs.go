package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

func (c *call) listJobs() error {
	q := c.r.URL.Query()
	after := q.Get("after")
	if after != "" && !repo.ValidJob(after) {
		return status(http.StatusBadRequest, "after: expected the id of a job")
	}
	limit, err := readLimit(q)
	if err != nil {
		return err
	}
	want := limit
	if limit > 0 {
		want++ // to see whether there is more
	}
	ids, err := c.jobs(after, want)
	if err != nil {
		return err
	}
	reply := map[string]any{"jobs": ids}
	if limit > 0 && len(ids) > limit {
		reply["jobs"], reply["next"] = ids[:limit], ids[limit-1]
	}
	return c.json(http.StatusOK, reply)
}

// readLimit reads how much a page may have; 0: the client has not said.
func readLimit(q url.Values) (int, error) {
	s := q.Get("limit")
	if s == "" {
		return 0, nil
	}
	limit, err := strconv.Atoi(s)
	if err != nil || limit < 1 || limit > 10000 {
		return 0, status(http.StatusBadRequest, "limit: expected a number from 1 to 10000")
	}
	return limit, nil
}

// jobReply is what is said of a job.
type jobReply struct {
	ID     string          `json:"job_id"`
	Config json.RawMessage `json:"config"`
}

func (c *call) getJob() error {
	config, err := c.repo.Job(c.r.Context(), c.job)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, jobReply{c.job, config})
}

func (c *call) putJob() error {
	config, err := c.document(maxDocument)
	if err != nil {
		return err
	}
	if err := c.reaches(config); err != nil {
		return err
	}
	if err := c.repo.PutJob(c.r.Context(), c.job, config); err != nil {
		return err
	}
	return c.json(http.StatusOK, jobReply{c.job, config})
}

func (c *call) deleteJob() error {
	if err := c.repo.DeleteJob(c.r.Context(), c.job); err != nil {
		return err
	}
	return c.none()
}

func (c *call) schema() error {
	b := job.Schema()
	c.w.Header().Set("Content-Type", "application/schema+json")
	c.w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	_, err := c.w.Write(b)
	return gone(err)
}

func (c *call) listTags() error {
	if _, err := c.repo.Job(c.r.Context(), c.job); err != nil {
		return err
	}
	tags, err := c.repo.Tags(c.r.Context(), c.job)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, map[string]any{"tags": tags})
}

// tagReply says which build a tag names; so does the body of a PUT.
type tagReply struct {
	Tag    string `json:"tag"`
	Number *int64 `json:"build_number"`
}

func (c *call) getTag() error {
	n, err := c.repo.Tag(c.r.Context(), c.job, c.tag)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, tagReply{c.tag, (*int64)(&n)})
}

func (c *call) putTag() error {
	b, err := c.document(maxDocument)
	if err != nil {
		return err
	}
	var body struct {
		Number *ticket.Number `json:"build_number"`
	}
	if err := json.Unmarshal(b, &body); err != nil || body.Number == nil {
		return status(http.StatusBadRequest, `expected {"build_number": N}`)
	}
	if err := c.repo.PutTag(c.r.Context(), c.job, c.tag, *body.Number); err != nil {
		return err
	}
	return c.json(http.StatusOK, tagReply{c.tag, (*int64)(body.Number)})
}

func (c *call) deleteTag() error {
	if err := c.repo.DeleteTag(c.r.Context(), c.job, c.tag); err != nil {
		return err
	}
	return c.none()
}

// githubWebhook begins a build for a push to a ref that the job checks out.
func (c *call) githubWebhook() error {
	c.r.Body = http.MaxBytesReader(c.w, c.r.Body, maxWebhook)
	if err := c.r.ParseMultipartForm(maxDocument); err != nil && err != http.ErrNotMultipart {
		return bodyError(err)
	}
	var payload struct {
		Ref string `json:"ref"`
	}
	if err := json.Unmarshal([]byte(c.r.Form.Get("payload")), &payload); err != nil || payload.Ref == "" {
		return status(http.StatusBadRequest, "expected a form with a field payload that is a JSON object with ref")
	}
	config, err := c.repo.Job(c.r.Context(), c.job)
	if err != nil {
		return err
	}
	j, err := job.Parse(config)
	if err != nil {
		return err
	}
	for _, step := range j.Steps {
		var params struct {
			Ref string `json:"ref"`
		}
		if step.Type != "git-checkout" || json.Unmarshal(step.Params, &params) != nil || params.Ref == "" {
			continue
		}
		if params.Ref == payload.Ref || "refs/heads/"+params.Ref == payload.Ref {
			return c.begin(repo.Start{Cause: &build.Cause{Kind: "webhook", By: payload.Ref}})
		}
	}
	return status(http.StatusBadRequest, fmt.Sprintf("the job checks out nothing from %.300q", payload.Ref))
}
