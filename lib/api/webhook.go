package api

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/webhook"
)

// hookReply tells a forge, which shows it to people, what its delivery has
// begun, or why nothing.
type hookReply struct {
	Builds   []hookBuild `json:"builds"`
	Repeated bool        `json:"repeated,omitempty"` // an earlier delivery of the same has begun it
	Reason   string      `json:"reason,omitempty"`
}

type hookBuild struct {
	JobID  string `json:"job_id"`
	Number int64  `json:"build_number"`
	URL    string `json:"url,omitempty"` // of its page
}

// errUnsigned is the same for a job without a hook and for one that is not
// there: what jobs there are is not for everybody.
var errUnsigned = status(http.StatusUnauthorized, webhook.ErrSignature.Error())

// hook takes a delivery of a forge, and begins what the job's triggers want for
// it.
func (c *call) hook() error {
	e, err := c.delivery()
	if err != nil {
		return err
	}
	c.setWho(access.Principal{Name: strings.TrimSuffix(string(e.Forge)+":"+e.Sender, ":"), Role: access.Trigger, Jobs: []string{c.job}, Via: access.ViaWebhook})
	config, err := c.repo.Job(c.r.Context(), c.job)
	if err != nil {
		return err
	}
	j, err := job.Parse(config)
	if err != nil {
		return err
	}
	if reason := webhook.Reject(j.Triggers, e); reason != "" {
		return c.json(http.StatusAccepted, hookReply{Builds: []hookBuild{}, Reason: reason})
	}
	b, repeated, err := c.repo.Begin(c.r.Context(), c.job, c.startOf(j, e))
	if errors.Is(err, repo.ErrKeyReused) { // the job was another one then
		return c.json(http.StatusAccepted, hookReply{Builds: []hookBuild{}, Repeated: true, Reason: "an earlier delivery of the same has begun a build"})
	}
	if err != nil {
		return err
	}
	c.build = b.Number // for the audit log
	return c.json(http.StatusAccepted, hookReply{Builds: []hookBuild{{c.job, int64(b.Number), c.buildPage(int64(b.Number))}}, Repeated: repeated})
}

// delivery receives a delivery and verifies it. What has no signature, or is not
// of a type that can be read, is not received.
func (c *call) delivery() (*webhook.Event, error) {
	h := c.r.Header
	if !webhook.Signed(c.forge, h) {
		return nil, errUnsigned
	}
	if err := webhook.Readable(h); err != nil {
		return nil, status(http.StatusUnsupportedMediaType, err.Error())
	}
	secrets, err := webhook.NewHooks(c.repo.Store()).Secrets(c.r.Context(), c.job, c.forge, time.Now())
	if err != nil {
		return nil, err
	}
	body, err := c.document(webhook.MaxSize)
	if err != nil {
		return nil, err
	}
	e, err := webhook.Read(c.forge, h, body, secrets...)
	if errors.Is(err, webhook.ErrSignature) {
		return nil, errUnsigned
	}
	return e, err
}

// startOf is what a build for an event is begun with: exactly its commit is
// checked out.
func (c *call) startOf(j *job.Job, e *webhook.Event) repo.Start {
	s := repo.Start{Key: e.Key, Parameters: e.Parameters(j.Room())}
	s.Cause = &build.Cause{Kind: "webhook", By: e.Sender, Event: &build.Event{
		Forge: string(e.Forge), Kind: string(e.Kind), Delivery: e.Delivery,
		Repository: e.Repository, Commit: e.Commit, URL: e.URL, Frontend: c.URL,
	}}
	if j.CheckRef(e.Commit) == nil { // else it checks nothing out
		s.Ref = e.Commit
	}
	return s
}

// buildPage is where people see a build; "" if that is not known.
func (c *call) buildPage(number int64) string {
	if c.URL == "" {
		return ""
	}
	return fmt.Sprintf("%s/ui/jobs/%s/builds/%d", strings.TrimSuffix(c.URL, "/"), url.PathEscape(c.job), number)
}
