package control_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// teller is a worker of builds for a forge's commits.
type teller struct {
	*testing.T
	*worker
}

const commit = "6113728f27ae82c7b1a177c8d03f9e96e0adf246"

func newTeller(t *testing.T) *teller {
	w := &teller{t, newWorker(t, t.TempDir())}
	if err := w.repo.PutJob(t.Context(), "j", []byte(`{"job_id": "j", "status": {"forge": "github", "secret": "S"},
		"tasks": [{"type": "execute-shell", "params": {"script": ":"}}]}`)); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *teller) begin(id string) ticket.Number {
	w.Helper()
	b, err := w.repo.Trigger(w.Context(), "j", &build.Cause{Kind: "webhook", Event: &build.Event{Forge: "github", Repository: "o/r", Commit: id}})
	if err != nil {
		w.Fatal(err)
	}
	return b.Number
}

// run does what there is to do but the statuses, so many tickets.
func (w *teller) run(tickets int, result string) {
	w.Helper()
	for range tickets {
		c, err := w.repo.Queue().Claim(w.Context(), offers, "w", nil)
		if err != nil || c == nil {
			w.Fatal(c, err)
		}
		w.held = c
		if err := w.commit(w.T, result, nil); err != nil {
			w.Fatal(err)
		}
	}
}

// claim takes the next status; nil if there is none.
func (w *teller) claim() *queue.Claim {
	w.Helper()
	c, err := w.repo.Queue().Claim(w.Context(), []string{"commit_status_v1"}, "w", nil)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// prepare is what is told by a status: a build's number and state, or an error.
func (w *teller) prepare(c *queue.Claim) string {
	w.Helper()
	t := c.Ticket.Clone()
	if err := w.repo.PrepareStatus(w.Context(), t); err != nil {
		return err.Error()
	}
	var r build.Report
	if err := json.Unmarshal(t.Params, &r); err != nil || r.Secret != "S" || len(t.Secrets) != 1 || r.URL != "https://api.github.com" {
		w.Fatalf("%+v, %v", r, err)
	}
	return fmt.Sprint(t.BuildNumber, " ", r.State)
}

func (w *teller) done(c *queue.Claim) {
	w.Helper()
	t := c.Ticket.Clone()
	t.Finish(nil)
	if next, err := w.repo.Commit(w.Context(), c, t, offers); next != nil || err != nil {
		w.Fatal(next, err)
	}
	if _, _, err := w.repo.Queue().Get(w.Context(), t.ID); !errors.Is(err, queue.ErrNotFound) {
		w.Errorf("the ticket is kept: %v", err)
	}
}

func (w *teller) want(c *queue.Claim, want string) {
	w.Helper()
	if c == nil {
		w.Fatal("there is no status")
	}
	if got := w.prepare(c); got != want {
		w.Errorf("%q, want %q", got, want)
	}
}

// TestStatusesInOrder: a build ends without its statuses; the end is told when
// the beginning is.
func TestStatusesInOrder(t *testing.T) {
	w := newTeller(t)
	w.begin(commit)
	w.run(1, "") // the beginning
	begun := w.claim()
	w.want(begun, "1 running")
	w.run(2, ticket.Failure) // the step and the end
	if b, err := w.repo.Build(t.Context(), "j", 1); err != nil || b.State.Result != ticket.Failure {
		t.Fatalf("%+v, %v", b, err)
	}
	ended := w.claim()
	w.want(ended, repo.ErrTooEarly.Error())
	w.done(begun)
	w.want(ended, "1 failure")
	w.done(ended)
	if c := w.claim(); c != nil {
		t.Errorf("%+v", c.Ticket)
	}
}

// TestLateBeginning: the beginning that nobody has told by the end is not told.
func TestLateBeginning(t *testing.T) {
	w := newTeller(t)
	w.begin(commit)
	w.run(3, ticket.Success)
	begun := w.claim()
	w.want(begun, repo.ErrObsolete.Error())
	if err := w.repo.Drop(t.Context(), begun); err != nil {
		t.Fatal(err)
	}
	w.want(w.claim(), "1 success")
}

// TestLastBuildOfACommit: what builds before the last one of a commit have to
// tell is obsolete, and a retry waits for what is being told.
func TestLastBuildOfACommit(t *testing.T) {
	w := newTeller(t)
	w.begin(commit)
	w.run(3, ticket.Failure)
	begun := w.claim()
	if err := w.repo.Drop(t.Context(), begun); err != nil {
		t.Fatal(err)
	}
	ended := w.claim()
	w.want(ended, "1 failure")
	b, _, err := w.repo.Retry(t.Context(), "j", 1, repo.Again{By: "test"})
	if err != nil {
		t.Fatal(err)
	}
	w.run(1, "")
	again := w.claim()
	w.want(again, repo.ErrTooEarly.Error())
	w.done(ended)
	w.want(again, fmt.Sprint(b.Number, " running"))
	w.done(again)
	w.run(2, ticket.Success)
	late := w.claim()
	other := w.begin("da1560886d4f094c3e6c9ef40349f7d38b5d27d7")
	w.want(late, fmt.Sprint(b.Number, " success")) // the newer one is for another commit
	w.begin(commit)
	w.want(late, repo.ErrObsolete.Error())
	if err := w.repo.DeleteBuild(t.Context(), "j", other); err != nil {
		t.Fatal(err)
	}
	w.want(late, repo.ErrObsolete.Error())
}

// TestStatusOfNoBuild: a status that no build has posted tells nothing.
func TestStatusOfNoBuild(t *testing.T) {
	w := newTeller(t)
	w.begin(commit)
	w.run(1, "")
	for _, n := range []ticket.Number{1, 2} {
		forged := ticket.New(ticket.CommitStatus, "commit_status_v1")
		forged.JobID, forged.BuildNumber = "j", n
		if err := w.repo.PrepareStatus(t.Context(), forged); !errors.Is(err, repo.ErrObsolete) {
			t.Errorf("of build %d: %v", n, err)
		}
	}
	begun := w.claim()
	if err := w.repo.DeleteJob(t.Context(), "j"); err != nil {
		t.Fatal(err)
	}
	w.want(begun, repo.ErrObsolete.Error())
}
