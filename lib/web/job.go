package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

const (
	buildsPerPage = 30
	chartLength   = 72
	tagsShown     = 50
)

// parameter is one that a build can be begun with.
type parameter struct {
	Name, Value string
	Long        bool // more than a line
}

// tag is a name for a build.
type tag struct {
	Name   string
	Number ticket.Number
}

// jobPage is what the page of a job shows.
type jobPage struct {
	ID          string
	Description string
	Builds      []*summary
	Chart       []*summary // none on later pages
	Before      ticket.Number
	Older       ticket.Number // what the next page is before; 0: there is none
	Parameters  []parameter
	Checkout    bool // a build can be begun at a ref
	Config      string
	Broken      string // what is wrong with the configuration
	Steps       []job.Step
	Downstream  []string
	Tags        []tag
	MoreTags    int
	MayTrigger  bool
}

// Job sends the page of a job.
func (p *Pages) Job(w http.ResponseWriter, r *http.Request) error {
	q := named(r)
	ctx := r.Context()
	before, _ := strconv.ParseInt(r.URL.Query().Get("before"), 10, 64)
	data := jobPage{ID: q.Job, Before: ticket.Number(before), MayTrigger: may(ctx, access.Trigger, q.Job)}
	config, err := p.repo.Job(ctx, q.Job)
	if err != nil {
		return err
	}
	data.describe(ctx, config)
	all, err := p.index.page(ctx, q.Job, data.Before, chartLength)
	if err != nil {
		return err
	}
	data.Builds = all[:min(len(all), buildsPerPage)]
	if data.Before == 0 {
		data.Chart = all
	}
	if len(all) > buildsPerPage {
		data.Older = data.Builds[buildsPerPage-1].Number
	}
	if err := p.tags(ctx, &data); err != nil {
		return err
	}
	return p.show(w, r, "job.html", view{Title: q.Job, Section: "jobs", Refresh: 4, Data: data})
}

// describe shows the configuration. One that cannot be read, by an older
// version perhaps, is shown as it is.
func (d *jobPage) describe(ctx context.Context, config []byte) {
	d.Config = string(config)
	var indented bytes.Buffer
	if json.Indent(&indented, config, "", "  ") == nil {
		d.Config = indented.String()
	}
	j, err := job.Parse(config)
	if err != nil {
		d.Broken = err.Error()
		return
	}
	d.Description, d.Steps = j.Description, j.Steps
	who := access.FromContext(ctx)
	d.Downstream = keep(j.Downstream, who.Sees)
	for _, name := range slices.Sorted(maps.Keys(j.Parameters)) {
		v := j.Parameters[name]
		d.Parameters = append(d.Parameters, parameter{name, v, strings.ContainsAny(v, "\r\n")})
	}
	d.Checkout = j.CheckRef("HEAD") == nil
}

func (p *Pages) tags(ctx context.Context, d *jobPage) error {
	names, err := p.repo.Tags(ctx, d.ID)
	if err != nil {
		return err
	}
	d.MoreTags = max(0, len(names)-tagsShown)
	for _, name := range names[:min(len(names), tagsShown)] {
		n, err := p.repo.Tag(ctx, d.ID, name)
		if errors.Is(err, repo.ErrNoTag) {
			continue
		}
		if err != nil {
			return err
		}
		d.Tags = append(d.Tags, tag{name, n})
	}
	return nil
}
