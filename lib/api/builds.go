package api

import (
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

func (c *call) listBuilds() error {
	if q := c.r.URL.Query(); q.Has("limit") || q.Has("before") {
		return c.pageOfBuilds(q)
	}
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

// pageOfBuilds lists the last builds before a number, in order as ever; next is
// the number for the page before that.
func (c *call) pageOfBuilds(q url.Values) error {
	limit, err := readLimit(q)
	if err != nil {
		return err
	}
	if limit == 0 {
		limit = 100
	}
	before := int64(math.MaxInt64)
	if q.Has("before") && (!number(q.Get("before"), &before) || before == 0) {
		return status(http.StatusBadRequest, "before: expected a build's number")
	}
	ns, err := c.repo.BuildsBefore(c.r.Context(), c.job, ticket.Number(before), limit+1)
	if err == nil && len(ns) == 0 {
		_, err = c.repo.Job(c.r.Context(), c.job)
	}
	if err != nil {
		return err
	}
	more := len(ns) > limit
	numbers := []int64{}
	for _, n := range ns[max(0, len(ns)-limit):] {
		numbers = append(numbers, int64(n))
	}
	reply := map[string]any{"builds": numbers}
	if more {
		reply["next"] = numbers[0]
	}
	if !q.Has("before") && len(numbers) > 0 {
		reply["last_build_number"] = numbers[len(numbers)-1]
	}
	return c.json(http.StatusOK, reply)
}

// trigger begins a build. The original's clients send no body, or anything; one
// that is not a JSON object counts as none, unless it says that it is JSON.
func (c *call) trigger() error {
	body, err := c.document(maxDocument)
	if err != nil {
		return err
	}
	s, err := readStart(body, c.r.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	s.Cause, s.Key = &build.Cause{Kind: "request", By: c.by()}, c.r.Header.Get(headerKey)
	return c.begin(s)
}

// headerKey is the header with an idempotency key: a repeat of a request with
// the same one has the effect of one, and its reply.
const headerKey = "Idempotency-Key"

// readStart reads the body of a request for a build.
func readStart(body []byte, typ string) (repo.Start, error) {
	var how struct {
		Ref        *string            `json:"ref"`
		Parameters map[string]*string `json:"parameters"`
	}
	body = bytes.TrimSpace(body)
	isJSON := strings.HasPrefix(strings.ToLower(typ), "application/json")
	if len(body) == 0 || !isJSON && (body[0] != '{' || !json.Valid(body)) {
		return repo.Start{}, nil
	}
	bad := status(http.StatusBadRequest, `expected {"parameters": {"NAME": "VALUE", …}, "ref": "…"}, each of the two if it is wanted`)
	if body[0] != '{' || json.Unmarshal(body, &how) != nil {
		return repo.Start{}, bad
	}
	s := repo.Start{}
	if how.Ref != nil {
		if s.Ref = *how.Ref; s.Ref == "" {
			return s, status(http.StatusBadRequest, "ref: expected a branch, a tag or a commit; leave it out for the job's own")
		}
	}
	for name, v := range how.Parameters {
		if v == nil {
			return s, bad
		}
		if s.Parameters == nil {
			s.Parameters = map[string]string{}
		}
		s.Parameters[name] = *v
	}
	return s, nil
}

// by names whose request it is in a build's record; "" for whoever is on this
// machine.
func (c *call) by() string {
	if c.who.Via == access.ViaLocal {
		return ""
	}
	return c.who.Name
}

func (c *call) begin(s repo.Start) error {
	b, _, err := c.repo.Begin(c.r.Context(), c.job, s)
	if err != nil {
		return err
	}
	return c.begun(http.StatusCreated, b)
}

// begun tells of a build that was begun, by this request or one before it. As
// the original said it; the rest of the record is there to be got.
func (c *call) begun(code int, b *build.Build) error {
	c.build = b.Number // for the audit log
	return c.buildReply(code, int64(b.Number), &build.State{Status: build.Preparing})
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

// retry begins a build that goes on where this one failed.
func (c *call) retry() error {
	body, err := c.document(maxDocument)
	if err != nil {
		return err
	}
	from, err := readRetry(body)
	if err != nil {
		return err
	}
	b, _, err := c.repo.Retry(c.r.Context(), c.job, c.build, repo.Again{From: from, By: c.by(), Key: c.r.Header.Get(headerKey)})
	if err != nil {
		return err
	}
	return c.begun(http.StatusAccepted, b)
}

// readRetry reads the step from which to retry; "": the first that failed.
func readRetry(body []byte) (string, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return "", nil
	}
	var how struct {
		From *json.RawMessage `json:"from"`
	}
	if err := json.Unmarshal(body, &how); err == nil && how.From == nil {
		return "", nil
	} else if err == nil {
		raw := string(*how.From)
		from, err := strconv.Unquote(raw)
		if err != nil {
			from = raw // a step's number
		}
		if isStep(from) {
			return from, nil
		}
	}
	return "", status(http.StatusBadRequest, `expected {"from": "STEP"} with the key of a step, or nothing`)
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
	if err := c.repo.Cancel(c.r.Context(), c.job, c.build, cmp.Or(c.by(), "a request")); err != nil {
		return err
	}
	b, err := c.repo.Build(c.r.Context(), c.job, c.build)
	if err != nil {
		return err
	}
	return c.buildReply(http.StatusAccepted, int64(c.build), &b.State)
}
