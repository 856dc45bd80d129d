package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// project is a job as build monitors know it: CruiseControl's cctray.xml.
type project struct {
	XMLName  xml.Name `xml:"Project"`
	Name     string   `xml:"name,attr"`
	Activity string   `xml:"activity,attr"`
	Status   string   `xml:"lastBuildStatus,attr"`
	Label    string   `xml:"lastBuildLabel,attr,omitempty"`
	Time     string   `xml:"lastBuildTime,attr,omitempty"`
	URL      string   `xml:"webUrl,attr"`
}

func (c *call) cctray() error {
	ids, byJob, err := c.summaries.all(c.r.Context(), c.repo)
	if err != nil {
		return err
	}
	scheme := "http"
	if c.r.TLS != nil || c.r.Header.Get("X-Forwarded-Proto") == "https" {
		scheme = "https"
	}
	projects := struct {
		XMLName xml.Name `xml:"Projects"`
		List    []project
	}{}
	for _, id := range ids {
		if !c.sees(id) {
			continue
		}
		s := byJob[id]
		p := project{Name: id, Activity: "Sleeping", Status: "Unknown", URL: scheme + "://" + c.r.Host + "/ui/jobs/" + id}
		if s.running {
			p.Activity = "Building"
		}
		if s.build > 0 {
			p.Label, p.Time = s.build.String(), s.ended.UTC().Format(time.RFC3339)
		}
		switch s.result {
		case ticket.Success:
			p.Status = "Success"
		case ticket.Failure:
			p.Status = "Failure"
		case ticket.Error:
			p.Status = "Exception"
		}
		projects.List = append(projects.List, p)
	}
	b, err := xml.MarshalIndent(projects, "", "  ")
	if err != nil {
		return err
	}
	return c.cached("application/xml; charset=utf-8", append([]byte(xml.Header), append(b, '\n')...), summariesKept)
}

// cached sends what may be kept for a while, and need not be sent to whoever
// has it.
func (c *call) cached(typ string, b []byte, keep time.Duration) error {
	h := c.w.Header()
	h.Set("Content-Type", typ)
	h.Set("Cache-Control", fmt.Sprintf("private, max-age=%d", int(keep.Seconds())))
	h.Set("Etag", fmt.Sprintf(`"%x"`, sha256.Sum256(b)))
	http.ServeContent(c.w, c.r, "", time.Time{}, bytes.NewReader(b))
	return nil
}

// badgeDepth is how many of the last builds are looked at for one of a branch.
const badgeDepth = 100

// badge is a picture of the result of a job's last finished build, for a
// README: with branch or tag, of the last one of that.
func (c *call) badge() error {
	q := c.r.URL.Query()
	branch, tag := q.Get("branch"), q.Get("tag")
	if branch != "" && tag != "" {
		return status(http.StatusBadRequest, "branch and tag exclude each other")
	}
	ctx := c.r.Context()
	if _, err := c.repo.Job(ctx, c.job); err != nil {
		return err
	}
	result, err := c.resultOf(ctx, branch, tag)
	if err != nil {
		return err
	}
	return c.cached("image/svg+xml; charset=utf-8", drawBadge(result), 30*time.Second)
}

// resultOf is the result of the last finished build that is of the branch or the
// tag, if one is given; "" if there is none.
func (c *call) resultOf(ctx context.Context, branch, tag string) (string, error) {
	if tag != "" && repo.ValidTag(tag) {
		n, err := c.repo.Tag(ctx, c.job, tag)
		if err == nil {
			b, err := c.repo.Build(ctx, c.job, n)
			if err != nil {
				return "", err
			}
			return b.State.Result, nil
		}
		if !errors.Is(err, repo.ErrNoTag) {
			return "", err
		}
	}
	last, err := c.repo.LastNumber(ctx, c.job)
	if err != nil {
		return "", err
	}
	for n := last; n > max(0, last-badgeDepth); n-- {
		b, _, err := c.repo.Finished(ctx, c.job, n)
		if errors.Is(err, repo.ErrNoBuild) {
			continue
		}
		if err != nil {
			return "", err
		}
		if b.State.Status == build.Complete && isOf(&b.State, branch, tag) {
			return b.State.Result, nil
		}
	}
	return "", nil
}

// isOf tells whether a build is of the branch or the tag; of neither all are.
func isOf(s *build.State, branch, tag string) bool {
	switch {
	case branch != "":
		return s.Parameters["CI_PULL_REQUEST"] == "" && (s.Parameters["CI_BRANCH"] == branch || s.Ref == branch || s.Ref == "refs/heads/"+branch)
	case tag != "":
		return s.Parameters["CI_TAG"] == tag || s.Ref == tag || s.Ref == "refs/tags/"+tag
	}
	return true
}

// drawBadge draws one of a few words, and nothing that a client has said.
func drawBadge(result string) []byte {
	text, color := "unknown", "#9f9f9f"
	switch result {
	case ticket.Success:
		text, color = "passing", "#2e7d32"
	case ticket.Failure:
		text, color = "failing", "#c62828"
	case ticket.Error:
		text, color = "error", "#b45309"
	case ticket.Canceled:
		text, color = "canceled", "#616161"
	}
	const left = 37
	right := 14 + 6*len(text)
	return fmt.Appendf(nil, `<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="20" role="img" aria-label="build: %[3]s"><title>build: %[3]s</title>`+
		`<rect width="%[1]d" height="20" rx="3" fill="#444"/><rect x="%[2]d" width="%[5]d" height="20" rx="3" fill="%[4]s"/><rect x="%[2]d" width="4" height="20" fill="%[4]s"/>`+
		`<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11"><text x="%[6]d" y="14">build</text><text x="%[7]d" y="14">%[3]s</text></g></svg>`+"\n",
		left+right, left, text, color, right, left/2, left+right/2)
}
