package api

import (
	"encoding/json"
	"net/http"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// jobs answers below /jobs.
func (s *server) jobs(x *exchange, parts []string) error {
	if len(parts) == 0 {
		if x.Method != http.MethodGet {
			return errMethod
		}
		return s.listJobs(x)
	}
	id := parts[0]
	if !repo.ValidJob(id) {
		return errID
	}
	switch {
	case len(parts) == 1:
		return s.job(x, id)
	case parts[1] == "builds":
		return s.builds(x, id, parts[2:])
	case parts[1] == "tags":
		return s.tags(x, id, parts[2:])
	case len(parts) == 2 && parts[1] == "github-webhook" && x.Method == http.MethodPost:
		return s.githubWebhook(x, id)
	case len(parts) == 3 && parts[1] == "config" && parts[2] == "schema" && x.Method == http.MethodGet:
		return x.schema()
	}
	return errMethod
}

func (s *server) listJobs(x *exchange) error {
	limit, err := x.count("limit")
	if err != nil {
		return err
	}
	ids, err := s.repo.Jobs(x.Context(), x.URL.Query().Get("after"), limit)
	if err != nil {
		return err
	}
	reply := map[string]any{"jobs": ids}
	if limit > 0 && len(ids) == limit {
		reply["next"] = ids[len(ids)-1]
	}
	return x.reply(http.StatusOK, reply)
}

func (s *server) job(x *exchange, id string) error {
	ctx := x.Context()
	switch x.Method {
	case http.MethodGet:
		config, err := s.repo.Job(ctx, id)
		if err != nil {
			return err
		}
		return x.reply(http.StatusOK, map[string]any{"job_id": id, "config": json.RawMessage(config)})
	case http.MethodPut:
		config, err := x.body(maxDocument)
		if err != nil {
			return err
		}
		if err := s.repo.PutJob(ctx, id, config); err != nil {
			return err
		}
		return x.reply(http.StatusOK, map[string]any{"job_id": id, "config": json.RawMessage(config)})
	case http.MethodDelete:
		if err := s.repo.DeleteJob(ctx, id); err != nil {
			return err
		}
		return x.empty()
	}
	return errMethod
}

func (s *server) tags(x *exchange, id string, parts []string) error {
	ctx := x.Context()
	if len(parts) == 0 && x.Method == http.MethodGet {
		tags, err := s.repo.Tags(ctx, id)
		if err != nil {
			return err
		}
		return x.reply(http.StatusOK, map[string]any{"tags": tags})
	}
	if len(parts) != 1 {
		return errMethod
	}
	tag := parts[0]
	if !repo.ValidTag(tag) {
		return errID
	}
	var n ticket.Number
	var err error
	switch x.Method {
	case http.MethodGet:
		n, err = s.repo.Tag(ctx, id, tag)
	case http.MethodPut:
		var in struct {
			Number ticket.Number `json:"build_number"`
		}
		var b []byte
		if b, err = x.body(maxDocument); err != nil {
			return err
		}
		if err := json.Unmarshal(b, &in); err != nil || in.Number == 0 {
			return fault.Errorf(fault.Usage, `expected {"build_number": N}`)
		}
		n, err = in.Number, s.repo.PutTag(ctx, id, tag, in.Number)
	case http.MethodDelete:
		if err := s.repo.DeleteTag(ctx, id, tag); err != nil {
			return err
		}
		return x.empty()
	default:
		return errMethod
	}
	if err != nil {
		return err
	}
	return x.reply(http.StatusOK, map[string]any{"tag": tag, "build_number": int64(n)})
}

// githubWebhook triggers the job if it checks out the ref that was pushed.
func (s *server) githubWebhook(x *exchange, id string) error {
	x.Body = http.MaxBytesReader(x.ResponseWriter, x.Body, maxDocument)
	if err := x.ParseForm(); err != nil {
		return bodyError(err)
	}
	var payload struct {
		Ref string `json:"ref"`
	}
	if err := json.Unmarshal([]byte(x.PostForm.Get("payload")), &payload); err != nil || payload.Ref == "" {
		return fault.Errorf(fault.Usage, `expected a form field "payload" with a JSON object that has "ref"`)
	}
	config, err := s.repo.Job(x.Context(), id)
	if err != nil {
		return err
	}
	j, err := job.Parse(config)
	if err != nil {
		return err
	}
	for _, step := range j.Steps {
		var p struct {
			Ref string `json:"ref"`
		}
		if step.Type == "git-checkout" && json.Unmarshal(step.Params, &p) == nil && p.Ref == payload.Ref {
			return s.trigger(x, id, &build.Cause{Kind: "webhook"})
		}
	}
	return fault.Errorf(fault.Usage, "no step of the job checks out %q", payload.Ref)
}
