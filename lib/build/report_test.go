package build

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/ticket"
)

const commit = "6113728f27ae82c7b1a177c8d03f9e96e0adf246"

// told is a job and a build of it for a forge's commit.
func told() (*job.Job, *Build) {
	j := &job.Job{ID: "j", Status: &job.Status{Forge: "gitea", URL: "https://git.example/api/v1", Secret: "TOKEN", Context: "distci/j"}}
	b, _ := New("j", 7, &Cause{Kind: "webhook", Event: &Event{Forge: "gitea", Kind: "push", Repository: "o/r", Commit: commit, Frontend: "https://ci.example/"}}, t0)
	return j, b
}

// TestReport: what is told is the state that the record has.
func TestReport(t *testing.T) {
	j, b := told()
	b.Start(j, t0)
	begun := b.StatusTicket(j)
	var r Report
	if err := json.Unmarshal(begun.Params, &r); err != nil {
		t.Fatal(err)
	}
	want := Report{Forge: "gitea", URL: "https://git.example/api/v1", Repository: "o/r", Commit: commit, Context: "distci/j", State: "running",
		Description: "build 7 has started", Target: "https://ci.example/ui/jobs/j/builds/7", Secret: "TOKEN"}
	if r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
	if begun.Type != "commit-status" || begun.Capabilities[0] != "commit_status_v1" || begun.Step != "" || begun.JobID != "j" || begun.BuildNumber != 7 || begun.Secrets[0] != "TOKEN" {
		t.Errorf("%+v", begun)
	}
	for _, result := range []string{ticket.Success, ticket.Failure, ticket.Error, ticket.Canceled} {
		c := *b
		c.State.Result = result
		c.Finish(j, t0.Add(90*time.Second+time.Millisecond))
		r := c.Report(j)
		if r.State != result || r.Description != "build 7: "+result+" after 1m30s" {
			t.Errorf("%+v", r)
		}
		// The same decision, taken twice, makes the same ticket, and another one
		// than that of the beginning.
		one, two := c.StatusTicket(j), c.StatusTicket(j)
		if one.ID != two.ID || one.ID == begun.ID || begun.ID != b.StatusTicket(j).ID {
			t.Errorf("ids %s, %s, %s", begun.ID, one.ID, two.ID)
		}
	}
	if b.Waits(begun) {
		t.Error("the build waits for it")
	}
}

// TestNoReport: nobody is told of what is not his.
func TestNoReport(t *testing.T) {
	for name, change := range map[string]func(*job.Job, *Build){
		"a job that does not say where": func(j *job.Job, b *Build) { j.Status = nil },
		"a build of a person's":         func(j *job.Job, b *Build) { b.State.Cause = &Cause{Kind: "request"} },
		"a build without a cause":       func(j *job.Job, b *Build) { b.State.Cause = nil },
		"another forge":                 func(j *job.Job, b *Build) { j.Status.Forge = "github" },
		"what a success has triggered": func(j *job.Job, b *Build) {
			b.State.Result = ticket.Success
			j.Downstream = []string{"down"}
			_, b.State.Cause = b.Finish(j, t0)
		},
	} {
		j, b := told()
		change(j, b)
		if b.Report(j) != nil || b.StatusTicket(j) != nil {
			t.Errorf("%s: %+v", name, b.Report(j))
		}
	}
	if _, b := told(); b.StatusTicket(nil) != nil {
		t.Error("a job that is gone")
	}
}
