// Package observe tells what a process does, as events: attempts at steps and
// their phases, finished builds, operations on the store and on the
// coordination service, sessions, tickets.
//
// It knows nothing of Prometheus and OpenTelemetry, and so do the programs that
// are started often: a frontend hands the events to package metrics itself, a
// worker writes them to the pipe of a distci-observe (see [Pipe]), which has
// the large libraries, serves the metrics and exports the traces.
package observe

import (
	"time"

	"github.com/distci/distci/lib/queue"
)

// Sink takes events. It may be called by several goroutines, and never blocks.
// A nil Sink is one that nobody listens to; see [Sink.Tell].
type Sink func(Event)

// Tell passes an event on, if anybody listens.
func (s Sink) Tell(e Event) {
	if s != nil {
		s(e)
	}
}

// Event is one of these.
type Event struct {
	Attempt *Attempt     `json:"attempt,omitempty"`
	Build   *Build       `json:"build,omitempty"`
	Call    *Call        `json:"call,omitempty"`
	Session *Session     `json:"session,omitempty"`
	Ticket  *queue.Event `json:"ticket,omitempty"`
	Layer   *Layer       `json:"layer,omitempty"`
	Dropped int64        `json:"dropped,omitempty"` // events that were lost before this one
}

// The outcomes of an attempt besides the results of tickets.
const (
	Released = "released" // given back, for another attempt
	Lost     = "lost"     // the claim had gone, and nothing was committed
)

// Attempt is one attempt at a ticket, when it has ended.
type Attempt struct {
	Ticket  string    `json:"ticket"`
	Type    string    `json:"type"`
	JobID   string    `json:"job_id,omitempty"`
	Build   int64     `json:"build_number,omitempty"`
	Created time.Time `json:"created,omitzero"` // the build was; zero: it is not known
	Step    string    `json:"step,omitempty"`   // "" of a build: its control
	Name    string    `json:"name,omitempty"`
	Attempt int       `json:"attempt"`
	Worker  string    `json:"worker,omitempty"`
	Image   string    `json:"image,omitempty"`
	Begin   time.Time `json:"begin"` // it was claimed
	End     time.Time `json:"end"`
	Outcome string    `json:"outcome"` // a ticket's result, Released or Lost
	Fault   string    `json:"fault,omitempty"`
	Error   string    `json:"error,omitempty"`
	Phases  []Phase   `json:"phases,omitempty"`
}

// The phases of an attempt. An attempt has those that it came to.
const (
	Wait    = "wait"    // posted, and not claimed; only of a first attempt
	Prepare = "prepare" // what the ticket needs is read
	Restore = "restore" // the workspace is made
	Sandbox = "sandbox" // until the tool runs
	Tool    = "tool"    // the tool runs
	Clean   = "clean"   // until nothing of the tool is left
	Save    = "save"    // what has changed becomes a layer
	Commit  = "commit"  // the result is committed, or the ticket given back
)

// Phases lists them in their order.
func Phases() []string {
	return []string{Wait, Prepare, Restore, Sandbox, Tool, Clean, Save, Commit}
}

// Phase is a part of an attempt.
type Phase struct {
	Name  string    `json:"name"`
	Begin time.Time `json:"begin"`
	End   time.Time `json:"end"`
	Error string    `json:"error,omitempty"`
}

// Build is a build that has ended.
type Build struct {
	JobID    string    `json:"job_id"`
	Number   int64     `json:"build_number"`
	Created  time.Time `json:"created"`
	Ended    time.Time `json:"ended"`
	Result   string    `json:"result"`
	Error    string    `json:"error,omitempty"`
	Cause    string    `json:"cause,omitempty"` // its kind
	Steps    int       `json:"steps"`
	Upstream *Upstream `json:"upstream,omitempty"`
}

// Upstream is the build that has triggered another.
type Upstream struct {
	JobID   string    `json:"job_id"`
	Number  int64     `json:"build_number"`
	Created time.Time `json:"created"`
}

// The parts of a cluster that are called.
const (
	Store = "store"
	Coord = "coordination"
)

// Call is an operation on the store or on the coordination service.
type Call struct {
	Part      string        `json:"part"`
	Operation string        `json:"operation"`
	Took      time.Duration `json:"took"`
	Error     string        `json:"error,omitempty"` // its kind; "" also for an answer such as "no such object"
	Written   int64         `json:"written,omitempty"`
}

// What becomes of the session with the coordination service.
const (
	SessionBegun   = "begun"
	SessionLost    = "lost"    // there is no answer; it may come back
	SessionBack    = "back"    // it has come back
	SessionExpired = "expired" // another one has begun since
)

// Session is a change of the session.
type Session struct {
	Change string `json:"change"`
}

// Layer is a layer of a workspace that was asked for.
type Layer struct {
	Hit bool `json:"hit"` // the cache had it
}
