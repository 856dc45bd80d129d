package web

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/access"
)

// jobsPerPage is how many jobs a page has.
const jobsPerPage = 50

// jobRow is a job in the list.
type jobRow struct {
	ID    string
	Trend []*summary
	Last  *summary // nil: there was no build
}

// jobsPage is what the page of jobs shows.
type jobsPage struct {
	Find     string
	State    string // "", "running" or "failing"
	Rows     []jobRow
	All      int // jobs that the reader may see
	Matching int
	From, To int
	Previous string // address
	Next     string
}

// Jobs sends the list of jobs. The names are all looked through, which is done
// in memory; of builds only those of the jobs on the page are looked at.
func (p *Pages) Jobs(w http.ResponseWriter, r *http.Request) error {
	ctx, query := r.Context(), r.URL.Query()
	who := access.FromContext(ctx)
	data := jobsPage{Find: strings.TrimSpace(query.Get("q")), State: query.Get("state")}
	ids, err := p.index.all(ctx)
	if err != nil {
		return err
	}
	ids = keep(ids, who.Sees)
	data.All = len(ids)
	words := strings.Fields(strings.ToLower(data.Find))
	ids = keep(ids, func(id string) bool {
		id = strings.ToLower(id)
		return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(id, w) })
	})
	switch data.State {
	case "running":
		live, err := p.index.live(ctx)
		if err != nil {
			return err
		}
		ids = keep(ids, func(id string) bool { return live[id] > 0 })
	case "failing":
		results, err := p.index.results(ctx)
		if err != nil {
			return err
		}
		ids = keep(ids, func(id string) bool {
			s := results[id]
			return s != nil && (s.State == "failure" || s.State == "error")
		})
	default:
		data.State = ""
	}
	data.Matching = len(ids)
	page, _ := strconv.Atoi(query.Get("page"))
	page = min(max(page, 1), max(1, (len(ids)+jobsPerPage-1)/jobsPerPage))
	from := (page - 1) * jobsPerPage
	ids = ids[from:min(len(ids), from+jobsPerPage)]
	data.From, data.To = from+1, from+len(ids)
	address := func(page int) string {
		q := url.Values{"page": {strconv.Itoa(page)}}
		if data.Find != "" {
			q.Set("q", data.Find)
		}
		if data.State != "" {
			q.Set("state", data.State)
		}
		return "/ui/?" + q.Encode()
	}
	if page > 1 {
		data.Previous = address(page - 1)
	}
	if data.To < data.Matching {
		data.Next = address(page + 1)
	}
	data.Rows = make([]jobRow, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, id := range ids {
		g.Go(func() error {
			trend, err := p.index.trend(ctx, id)
			row := jobRow{ID: id, Trend: trend}
			if len(trend) > 0 {
				row.Last = trend[0]
			}
			data.Rows[i] = row
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return p.show(w, r, "jobs.html", view{Title: "Jobs", Section: "jobs", Refresh: 5, Data: data})
}

// keep returns those that are wanted, and leaves the list alone.
func keep(ids []string, wanted func(string) bool) []string {
	var kept []string
	for _, id := range ids {
		if wanted(id) {
			kept = append(kept, id)
		}
	}
	return kept
}
