package queue

import (
	"errors"
	"time"

	"github.com/distci/distci/lib/ticket"
)

// What an Event tells of.
const (
	EventPost    = "post"
	EventClaim   = "claim"
	EventCommit  = "commit"  // the holder ended the ticket
	EventRelease = "release" // the holder gave the ticket back
	EventRequeue = "requeue" // somebody gave a dead holder's ticket back
)

// What became of an Event's operation.
const (
	Done    = "done"
	Lost    = "lost"    // refused: the claim had passed to somebody else
	Unknown = "unknown" // no answer: it may have been carried out
)

// Event is what this process did to a ticket. The events of all processes
// together are a cluster's history, which can be checked for what the queue
// promises.
type Event struct {
	Begin   time.Time `json:"begin"` // when the operation began and ended, by this process's clock
	End     time.Time `json:"end"`
	Event   string    `json:"event"`
	Outcome string    `json:"outcome"`
	Ticket  string    `json:"ticket"`
	Type    string    `json:"type,omitempty"`
	Result  string    `json:"result,omitempty"` // of a commit
	Job     string    `json:"job,omitempty"`
	Build   int64     `json:"build,omitempty"`
	Step    string    `json:"step,omitempty"`
	Attempt int       `json:"attempt,omitempty"`
	Worker  string    `json:"worker,omitempty"`
	Session int64     `json:"session,omitempty"` // that the claim goes with; 0: a lease, or no claim
	Token   int64     `json:"token,omitempty"`   // fencing token of the claim
}

// told tells of an operation on t that began at that time and ended with err.
// c is the claim that it made or relied on, if any.
func (q *Queue) told(event string, begin time.Time, t *ticket.Ticket, c *Claim, err error) {
	e := Event{Begin: begin, End: time.Now(), Event: event, Outcome: Done, Ticket: t.ID, Type: t.Type, Job: t.JobID,
		Build: int64(t.BuildNumber), Step: t.Step, Attempt: t.Attempt}
	if event == EventCommit {
		e.Result = t.Result
	}
	switch {
	case errors.Is(err, ErrLost):
		e.Outcome = Lost
	case err != nil:
		e.Outcome = Unknown
	}
	if c != nil {
		e.Worker, e.Session, e.Token = c.Worker, c.session, c.Token
	}
	q.trace(e)
}
