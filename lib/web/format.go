package web

import (
	"cmp"
	"fmt"
	"html/template"
	"net/url"
	"strings"
	"time"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
)

// functions are what the templates use besides the fields of their data.
func (p *Pages) functions() template.FuncMap {
	return template.FuncMap{
		"asset":   p.assets.url,
		"icon":    icon,
		"word":    word,
		"stamp":   stamp,
		"utc":     func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
		"took":    took,
		"size":    size,
		"count":   func(n any, thing string) string { return count(integer(n), thing) },
		"path":    url.PathEscape,
		"query":   url.QueryEscape,
		"join":    strings.Join,
		"first":   func(s string) string { s, _, _ = strings.Cut(s, "\n"); return s },
		"anchor":  anchor,
		"trend":   trend,
		"chart":   chart,
		"named":   func(p access.Principal) bool { return p.Name != "" && p.Via != access.ViaAnonymous },
		"session": func(p access.Principal) bool { return p.Via == access.ViaSession },
	}
}

// stateOf is what people call the state of a build or a step: its result, or
// while there is none its status.
func stateOf(status, result string) string {
	if result != "" && status == build.Complete {
		return result
	}
	return cmp.Or(status, ticket.Pending)
}

// word is a state in words.
func word(state string) string {
	switch state {
	case ticket.Success:
		return "Succeeded"
	case ticket.Failure:
		return "Failed"
	case ticket.Error:
		return "Error"
	case ticket.Canceled:
		return "Canceled"
	case "skipped":
		return "Skipped"
	case build.Running:
		return "Running"
	case build.Preparing:
		return "Preparing"
	case ticket.Pending:
		return "Waiting"
	case "none":
		return "No builds"
	}
	return "Unknown"
}

// icons are drawn in a square of 16; each state has its own shape, so that
// colour is never all there is.
var icons = map[string]template.HTML{
	ticket.Success:  `<circle cx="8" cy="8" r="7"/><path class="ink" d="m4.8 8.2 2.2 2.2 4.2-4.6"/>`,
	ticket.Failure:  `<circle cx="8" cy="8" r="7"/><path class="ink" d="m5.5 5.5 5 5m0-5-5 5"/>`,
	ticket.Error:    `<path d="M8 1.2 15.4 14.6H.6z"/><path class="ink" d="M8 6v4m0 2.1v.1"/>`,
	ticket.Canceled: `<circle class="ring" cx="8" cy="8" r="6.2"/><path class="line" d="m3.8 12.2 8.4-8.4"/>`,
	"skipped":       `<circle class="ring" cx="8" cy="8" r="6.2"/><path class="line" d="M5 8h6"/>`,
	build.Running:   `<circle class="ring faint" cx="8" cy="8" r="6.2"/><path class="line spin" d="M8 1.8A6.2 6.2 0 0 1 14.2 8"/>`,
	build.Preparing: `<circle class="ring dots" cx="8" cy="8" r="6.2"/>`,
	ticket.Pending:  `<circle class="ring" cx="8" cy="8" r="6.2"/><path class="line" d="M8 4.5V8l2.2 1.6"/>`,
}

// icon is the picture of a state. What it says is in words beside it.
func icon(state string) template.HTML {
	drawing, ok := icons[state]
	if !ok {
		state, drawing = "none", `<circle class="ring dots" cx="8" cy="8" r="6.2"/>`
	}
	return `<svg class="icon ` + template.HTML(state) + `" viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">` + drawing + `</svg>`
}

// duration is a time span for people: its two largest units.
func duration(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d d %d h", int(d.Hours())/24, int(d.Hours())%24)
}

// took is the time between two; "" if it is not over, or has not begun.
func took(from, to time.Time) string {
	if from.IsZero() || to.IsZero() {
		return ""
	}
	return duration(to.Sub(from))
}

// size is a number of bytes for people.
func size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if v /= 1024; v < 1000 {
			break
		}
	}
	return fmt.Sprintf("%.3g %s", v, unit)
}

// count is a number with its thing, in the plural unless it is one.
func count(n int64, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	if strings.HasSuffix(thing, "ch") {
		return fmt.Sprintf("%d %ses", n, thing)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// causeOf is why there is a build, in a few words.
func causeOf(s *build.State) string {
	c := s.Cause
	if c == nil {
		return ""
	}
	what := map[string]string{"request": "Requested", "upstream": "After", "webhook": "Push", "retry": "Retry of"}[c.Kind]
	if what == "" {
		what = c.Kind
	}
	if event := s.Parameters["CI_EVENT"]; c.Kind == "webhook" && event != "" {
		what = strings.ReplaceAll(event, "_", " ")
	}
	if c.JobID != "" || c.Kind == "retry" {
		what += strings.TrimRight(fmt.Sprintf(" %s #%d", c.JobID, c.Number), " ")
	}
	if c.By != "" {
		what += " by " + c.By
	}
	return strings.ReplaceAll(what, "  ", " ")
}

// integer is a whole number of any kind that the templates' data have.
func integer(n any) int64 {
	switch n := n.(type) {
	case int:
		return int64(n)
	case int64:
		return n
	case ticket.Number:
		return int64(n)
	}
	return 0
}
