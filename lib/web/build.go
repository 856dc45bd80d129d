package web

import (
	"cmp"
	"context"
	"fmt"
	"html/template"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// artifactsShown is how many artefacts a build's page lists.
const artifactsShown = 200

// step is a step on the page of its build.
type step struct {
	Key, Name, Type string
	Base            string // of its logs' addresses
	State           string
	Started, Ended  time.Time
	Worker          string
	Attempt, Of     int
	Error, Fault    string
	Previous        string // what became of the attempt before
	Logs            []repo.LogInfo
	Log             *repo.LogInfo // the last attempt's; nil: there is none yet
	Open            bool
	Tail            template.HTML // the end of the log
	TailFrom        int64
	Total           int64 // its lines
}

// file is an artefact.
type file struct {
	Path   string
	URL    string
	Size   int64
	SHA256 string
	Step   string
}

// buildPage is what the page of a build shows.
type buildPage struct {
	Job        string
	Number     ticket.Number
	State      string
	Live       bool
	Canceling  string // who has canceled it, while it still runs
	Error      string
	Cause      string
	Upstream   string // address of the build that has started it
	Ref        string
	Commit     string // what a webhook or a checkout tells of it
	Message    string
	Author     string
	Created    time.Time
	Ended      time.Time
	Parameters []parameter
	Steps      []step
	Console    *repo.LogInfo // what was sent beside the steps' logs
	Files      []file
	FileCount  int
	Bytes      int64
	Newer      ticket.Number
	Older      ticket.Number
	MayTrigger bool
	MayRetry   bool
}

// Build sends the page of a build.
func (p *Pages) Build(w http.ResponseWriter, r *http.Request) error {
	q := named(r)
	ctx := r.Context()
	b, err := p.repo.Build(ctx, q.Job, q.Build)
	if err != nil {
		return err
	}
	logs, _, err := p.repo.Logs(ctx, q.Job, q.Build)
	if err != nil {
		return err
	}
	data := describeBuild(b, logs)
	data.MayTrigger = may(ctx, access.Trigger, q.Job)
	data.MayRetry = data.MayTrigger && !data.Live
	if data.Upstream != "" && !access.FromContext(ctx).Sees(b.State.Cause.JobID) {
		data.Upstream, data.Cause = "", "After another job"
	}
	if err := p.files(ctx, &data); err != nil {
		return err
	}
	if last, err := p.index.last(ctx, q.Job); err != nil {
		return err
	} else if q.Build < last {
		data.Newer = q.Build + 1
	}
	data.Older = q.Build - 1
	if err := p.openOne(ctx, &data); err != nil {
		return err
	}
	v := view{Title: fmt.Sprintf("%s #%d", q.Job, q.Build), Section: "jobs", Log: true, Data: data}
	if data.Live {
		v.Refresh, v.Events = 2, fmt.Sprintf("/jobs/%s/builds/%d/events", q.Job, q.Build)
	}
	return p.show(w, r, "build.html", v)
}

// describeBuild is what the page tells of a build by its record and the list
// of its logs alone.
func describeBuild(b *build.Build, logs []repo.LogInfo) buildPage {
	s := &b.State
	d := buildPage{
		Job: b.JobID, Number: b.Number, State: stateOf(s.Status, s.Result), Live: s.Status != build.Complete,
		Error: s.Error, Cause: causeOf(s), Ref: s.Ref, Commit: s.Parameters["CI_COMMIT"], Message: s.Parameters["CI_MESSAGE"],
		Author: s.Parameters["CI_AUTHOR"], Canceling: s.Canceled,
	}
	if s.Created != nil {
		d.Created = *s.Created
	}
	if s.Ended != nil {
		d.Ended = *s.Ended
	}
	if c := s.Cause; c != nil && (c.Kind == "upstream" || c.Kind == "retry") && c.Number > 0 {
		d.Upstream = fmt.Sprintf("/ui/jobs/%s/builds/%d", url.PathEscape(cmp.Or(c.JobID, b.JobID)), c.Number)
	}
	for _, name := range slices.Sorted(maps.Keys(s.Parameters)) {
		d.Parameters = append(d.Parameters, parameter{Name: name, Value: s.Parameters[name]})
	}
	base := fmt.Sprintf("jobs/%s/builds/%d/logs/", b.JobID, b.Number)
	for _, key := range s.Keys() {
		d.Steps = append(d.Steps, describeStep(base, key, s.Tasks[key], logs))
		if t := s.Tasks[key]; t.Type == ticket.GitCheckout && d.Commit == "" {
			_, _ = t.Get("commit", &d.Commit) // what the tool says may be anything
		}
	}
	for _, l := range logs {
		if l.Step == "" {
			d.Console = &l
		}
	}
	return d
}

func describeStep(base, key string, t *ticket.Ticket, logs []repo.LogInfo) step {
	st := step{
		Key: key, Name: cmp.Or(t.Name, t.Type), Type: t.Type, Base: base, State: stateOf(t.Status, t.Result), Worker: t.Assignee,
		Attempt: t.Attempt, Of: cmp.Or(t.Retry, ticket.DefaultRetry) + t.Spared, Error: t.Error, Fault: string(t.Fault),
	}
	if t.Status == ticket.Complete && t.Attempt == 0 {
		st.State = "skipped"
	}
	if st.Worker == "" {
		_, _ = t.Get(repo.FieldWorker, &st.Worker)
	}
	if t.Started != nil {
		st.Started = *t.Started
	}
	if t.Ended != nil {
		st.Ended = *t.Ended
	}
	if before, ok := queue.PreviousOf(t); ok {
		st.Previous = strings.TrimPrefix(fmt.Sprintf("%s on %s", before.Error, before.Worker), " ")
	}
	for _, l := range logs {
		if l.Step == key {
			st.Logs = append(st.Logs, l)
		}
	}
	if n := len(st.Logs); n > 0 {
		st.Log = &st.Logs[n-1]
		st.Logs = st.Logs[:n-1]
	}
	return st
}

// openOne opens the step that a reader has most likely come for: the first that
// went wrong, else the one that runs, else the last one with something to read.
func (p *Pages) openOne(ctx context.Context, d *buildPage) error {
	best, rank := -1, 0
	for i, s := range d.Steps {
		r := 0
		switch {
		case s.Log == nil && s.Error == "":
		case s.State == ticket.Failure || s.State == ticket.Error:
			r = 4
		case s.State == build.Running:
			r = 3
		case s.Log != nil && s.Log.Size > 0:
			r = 2
		}
		if r > rank || r == 2 && rank == 2 {
			best, rank = i, r
		}
	}
	if best < 0 {
		return nil
	}
	s := &d.Steps[best]
	s.Open = true
	if s.Log == nil {
		return nil
	}
	t, err := p.repo.LogText(ctx, d.Job, d.Number, s.Log.Name)
	if err != nil {
		return err
	}
	if s.Total, err = t.Count(ctx); err != nil || s.Total == 0 {
		return err
	}
	s.TailFrom = max(1, s.Total-tailLines+1)
	s.Tail, err = p.lines(ctx, t, s.Key, s.TailFrom, s.Total)
	return err
}

// files lists what the build has published.
func (p *Pages) files(ctx context.Context, d *buildPage) error {
	all, err := p.repo.Artifacts(ctx, d.Job, d.Number)
	if err != nil {
		return err
	}
	for id, a := range all {
		name := strings.Join(a.Path, "/")
		last := ""
		if len(a.Path) > 0 {
			last = "/" + url.PathEscape(a.Path[len(a.Path)-1])
		}
		d.Bytes += a.Size
		d.Files = append(d.Files, file{Path: name, Size: a.Size, SHA256: a.SHA256, Step: a.Step,
			URL: fmt.Sprintf("/jobs/%s/builds/%d/artifacts/%s%s", d.Job, d.Number, id, last)})
	}
	slices.SortFunc(d.Files, func(a, b file) int { return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.URL, b.URL)) })
	d.FileCount = len(d.Files)
	d.Files = d.Files[:min(len(d.Files), artifactsShown)]
	return nil
}
