package web

import (
	"net/http"
	"slices"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/queue"
)

// queueRow is a set of capabilities that tickets ask for.
type queueRow struct {
	queue.Load
	Workers int // that offer them
}

type queuePage struct {
	Rows           []queueRow
	Ready, Running int
}

// Queue sends the page of what waits.
func (p *Pages) Queue(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	loads, err := p.repo.Queue().Loads(ctx)
	if err != nil {
		return err
	}
	members, err := p.repo.Members(ctx)
	if err != nil {
		return err
	}
	var data queuePage
	for _, l := range loads {
		row := queueRow{Load: l}
		for _, m := range members {
			if m.Kind == member.Worker && offers(m.Capabilities, l.Capabilities) {
				row.Workers++
			}
		}
		data.Ready += l.Ready
		data.Running += l.Running
		data.Rows = append(data.Rows, row)
	}
	return p.show(w, r, "queue.html", view{Title: "Queue", Section: "queue", Refresh: 4, Data: data})
}

// offers tells whether who has some capabilities can do what needs others.
func offers(has, needs []string) bool {
	return !slices.ContainsFunc(needs, func(c string) bool { return !slices.Contains(has, c) })
}

type workersPage struct {
	Workers   []member.Member
	Frontends []member.Member
	Slots     int
	Busy      int
}

// Workers sends the page of who is there. What belongs to jobs that the reader
// may not see is only counted.
func (p *Pages) Workers(w http.ResponseWriter, r *http.Request) error {
	ctx := r.Context()
	members, err := p.repo.Members(ctx)
	if err != nil {
		return err
	}
	who := access.FromContext(ctx)
	var data workersPage
	for _, m := range members {
		if m.Kind == member.Frontend {
			data.Frontends = append(data.Frontends, m)
			continue
		}
		data.Slots += max(m.Slots, len(m.Runs))
		data.Busy += len(m.Runs)
		m.Runs = slices.Clone(m.Runs)
		for i, run := range m.Runs {
			if !who.Sees(run.JobID) {
				m.Runs[i] = member.Run{Type: "something of another job", Since: run.Since}
			}
		}
		data.Workers = append(data.Workers, m)
	}
	return p.show(w, r, "workers.html", view{Title: "Workers", Section: "workers", Refresh: 4, Data: data})
}
