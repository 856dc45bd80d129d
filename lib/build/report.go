package build

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/ticket"
)

// Event is what a forge has told of the commit that a build is for. It has
// been signed by the forge: parameters of the same content need not be.
type Event struct {
	Forge      string `json:"forge"` // "github", "gitlab" or "gitea"
	Kind       string `json:"kind"`  // "push", "tag" or "pull_request"
	Delivery   string `json:"delivery,omitempty"`
	Repository string `json:"repository"` // "owner/name"
	Commit     string `json:"commit"`
	URL        string `json:"url,omitempty"`      // of the event at the forge
	Frontend   string `json:"frontend,omitempty"` // where people reach the page of the build
}

// Report is a commit status that is to be told to a forge: the parameters of a
// ticket of type commit-status.
type Report struct {
	Forge       string `json:"forge"`
	URL         string `json:"url"` // of the forge's API
	Repository  string `json:"repository"`
	Commit      string `json:"commit"`
	Context     string `json:"context"`     // the status's name
	State       string `json:"state"`       // "running", or a result
	Description string `json:"description"` // a few words for people
	Target      string `json:"target"`      // the build's page; may be empty
	Secret      string `json:"secret"`      // the name of the one that holds the token
}

// The bounds of a ticket that tells a forge. One attempt is short, lest a forge
// that is down keeps workers from the steps; there are many, each later.
const (
	reportTimeout = 60
	reportRetry   = 10
)

// Report is what a forge is to know of the build now; nil if it is to know
// nothing: the build is not for a forge's commit, or the job does not say where.
func (b *Build) Report(j *job.Job) *Report {
	s := &b.State
	if j == nil || j.Status == nil || s.Cause == nil || s.Cause.Event == nil || s.Created == nil || s.Cause.Event.Forge != j.Status.Forge {
		return nil
	}
	e := s.Cause.Event
	r := &Report{
		Forge: e.Forge, URL: j.Status.URL, Repository: e.Repository, Commit: e.Commit,
		Context: j.Status.Context, Secret: j.Status.Secret, State: Running,
		Description: fmt.Sprintf("build %d has started", b.Number),
	}
	if s.Status == Complete {
		r.State = s.Result
		r.Description = fmt.Sprintf("build %d: %s", b.Number, s.Result)
		if s.Ended != nil {
			r.Description += fmt.Sprintf(" after %v", s.Ended.Sub(*s.Created).Round(time.Second))
		}
	}
	if e.Frontend != "" {
		r.Target = fmt.Sprintf("%s/ui/jobs/%s/builds/%d", strings.TrimSuffix(e.Frontend, "/"), url.PathEscape(b.JobID), b.Number)
	}
	return r
}

// StatusTicket is the ticket by which a worker tells the forge what Report says;
// nil if that is nothing. The build does not wait for it: it has no step, and
// its end is not noted in the record. A build has two of them at most, one for
// its beginning and one for its end.
func (b *Build) StatusTicket(j *job.Job) *ticket.Ticket {
	r := b.Report(j)
	if r == nil {
		return nil
	}
	t := ticket.New(ticket.CommitStatus, ticket.Capability(ticket.CommitStatus))
	begun, ended := b.StatusTickets()
	t.ID = begun
	if b.State.Status == Complete {
		t.ID = ended
	}
	t.Priority = ticket.MaxPriority // it is quick, and people wait for it
	t.JobID, t.BuildNumber, t.Retry = b.JobID, b.Number, reportRetry
	r.Fill(t)
	return t
}

// SameCommit tells whether two builds are for the same commit of a forge, as
// events said.
func (b *Build) SameCommit(other *Build) bool {
	if b.State.Cause == nil || other.State.Cause == nil {
		return false
	}
	x, y := b.State.Cause.Event, other.State.Cause.Event
	return x != nil && y != nil && x.Forge == y.Forge && x.Repository == y.Repository && x.Commit == y.Commit
}

// Fill makes a ticket one that tells r.
func (r *Report) Fill(t *ticket.Ticket) {
	t.Params, _ = json.Marshal(r) // plain strings
	t.Secrets, t.Timeout = []string{r.Secret}, reportTimeout
}

// StatusTickets are the ids of the tickets that tell the build's beginning and
// its end, whether or not there are such. The first is the first in the queue,
// too, where ids are in the order of their times.
func (b *Build) StatusTickets() (begun, ended string) {
	var created time.Time
	if b.State.Created != nil {
		created = *b.State.Created
	}
	return b.newID(created, "status begun"), b.newID(created.Add(time.Millisecond), "status ended")
}
