package build

import (
	"fmt"
	"slices"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/ticket"
)

// The control tickets of a build: what their parameter "action" says.
const (
	ActionStart  = "start"
	ActionFinish = "finish"
)

// controlType is the type of the tickets that begin and end a build.
const controlType = "build-control"

// maxDepth bounds how many builds trigger each other in a row, so that jobs
// that trigger each other in a circle come to an end.
const maxDepth = 32

// ErrStale: the ticket is not one that this build waits for.
var ErrStale = fault.Errorf(fault.Interrupted, "the build does not wait for this ticket")

// New begins a build: its record, and the ticket that starts it. What it is to
// be begun with besides its cause the caller sets in the record.
func New(jobID string, n ticket.Number, cause *Cause, now time.Time) (*Build, *ticket.Ticket) {
	now = now.UTC()
	b := &Build{jobID, n, State{Status: Preparing, Cause: cause, Created: &now}}
	return b, b.control(ActionStart, now)
}

func (b *Build) control(action string, now time.Time) *ticket.Ticket {
	t := ticket.New(controlType, ticket.Capability(controlType))
	t.Priority = ticket.MaxPriority // it is quick, and the steps wait for it
	t.ID, t.JobID, t.BuildNumber = b.newID(now, action), b.JobID, b.Number
	t.Params = fmt.Appendf(nil, `{"action":%q}`, action)
	b.State.Control = t.ID
	return t
}

// Start turns the job, with what the build was begun with, into the build's
// steps and returns the tickets of those that can begin.
func (b *Build) Start(j *job.Job, now time.Time) []*ticket.Ticket {
	s := &b.State
	j = j.For(s.Parameters, s.Ref)
	s.Status, s.Control, s.Tasks = Running, "", map[string]*ticket.Ticket{}
	for _, step := range j.Steps {
		s.Tasks[step.Key] = &ticket.Ticket{
			Type: step.Type, Capabilities: step.Capabilities(), Priority: j.Priority, Status: ticket.Pending,
			JobID: b.JobID, BuildNumber: b.Number, Step: step.Key, Name: step.Name, Needs: step.Needs, When: step.When,
			Params: step.Params, Env: step.Env, Timeout: step.Timeout, Retry: step.Retry, Image: step.Image,
			Secrets: step.Secrets, Limits: step.Limits, Network: step.Network,
		}
	}
	return b.next(now)
}

// Waits tells whether the build waits for this very ticket.
func (b *Build) Waits(t *ticket.Ticket) bool {
	if t.Step == "" {
		return t.ID == b.State.Control
	}
	task := b.State.Tasks[t.Step]
	return task != nil && task.ID == t.ID && task.Status != ticket.Complete
}

// Advance records that a step's ticket is complete, and returns the tickets
// that are to be posted now. Errors: ErrStale.
func (b *Build) Advance(t *ticket.Ticket, now time.Time) ([]*ticket.Ticket, error) {
	if !b.Waits(t) || t.Status != ticket.Complete {
		return nil, ErrStale
	}
	now = now.UTC()
	task := t.Clone()
	task.Ended = &now
	task.Assignee = ""
	b.State.Tasks[t.Step] = task
	return b.next(now), nil
}

// Fail ends a build that could not be started.
func (b *Build) Fail(message string, now time.Time) []*ticket.Ticket {
	s := &b.State
	s.Status, s.Error, s.Control = Running, message, ""
	for _, t := range s.Tasks {
		if t.Status != ticket.Complete {
			skip(t, "not run: "+message)
		}
	}
	return b.next(now)
}

// Cancel notes that the build is to end. Steps that wait are not run; those
// that are posted are for their holders to end. It returns the tickets to
// post, which can only be the finishing one.
func (b *Build) Cancel(by string, now time.Time) []*ticket.Ticket {
	if b.State.Canceled == "" {
		b.State.Canceled = by
	}
	if b.State.Status != Running {
		return nil // the start ticket will find it canceled
	}
	return b.next(now)
}

// next posts what is ready, skips what can no longer run, and when nothing is
// left posts the finishing ticket.
func (b *Build) next(now time.Time) []*ticket.Ticket {
	s := &b.State
	var post []*ticket.Ticket
	left := 0
	for again := true; again; {
		again, left = false, 0
		for _, key := range s.Keys() {
			t := s.Tasks[key]
			if t.Status == ticket.Complete {
				continue
			}
			left++
			if t.ID != "" {
				continue
			}
			switch verdict, reason := s.readiness(t); verdict {
			case run:
				t.ID = b.newID(now, key)
				t.Workspace = s.workspaceFor(t)
				post = append(post, t.Clone())
			case never:
				skip(t, reason)
				again = true
			}
		}
	}
	if left == 0 && s.Control == "" && s.Status == Running {
		s.Result = s.result()
		post = append(post, b.control(ActionFinish, now))
	}
	return post
}

type readiness int

const (
	wait readiness = iota
	run
	never
)

// readiness decides whether a step that is not posted can run.
func (s *State) readiness(t *ticket.Ticket) (readiness, string) {
	if s.Canceled != "" {
		return never, "not run: canceled by " + s.Canceled
	}
	failed := ""
	for _, key := range t.Needs {
		need := s.Tasks[key]
		if need == nil {
			return never, fmt.Sprintf("not run: it needs step %s, which does not exist", key)
		}
		if need.Status != ticket.Complete {
			return wait, ""
		}
		if need.Result != ticket.Success && failed == "" {
			failed = fmt.Sprintf("not run: step %s: %s", key, need.Result)
		}
	}
	// A step that was skipped passes the reason on to those behind it.
	switch {
	case t.When == "always",
		t.When == "failure" && failed != "",
		t.When != "failure" && failed == "":
		return run, ""
	case failed == "":
		return never, "not run: nothing has failed"
	}
	return never, failed
}

// workspaceFor merges the workspaces of the steps before: the layers of each
// in the order of the needs, none twice.
func (s *State) workspaceFor(t *ticket.Ticket) []string {
	var layers []string
	for _, key := range t.Needs {
		for _, l := range s.Tasks[key].Workspace {
			if !slices.Contains(layers, l) {
				layers = append(layers, l)
			}
		}
	}
	return layers
}

func skip(t *ticket.Ticket, reason string) {
	t.Status, t.Result, t.Error = ticket.Complete, ticket.Canceled, reason
}

// result is the worst of the steps' results. A step that was skipped counts by
// what it was skipped for.
func (s *State) result() string {
	worst := ticket.Success
	if s.Error != "" {
		worst = ticket.Error
	}
	if s.Canceled != "" {
		return ticket.Canceled
	}
	order := []string{ticket.Success, ticket.Canceled, ticket.Failure, ticket.Error}
	for _, t := range s.Tasks {
		if !skippedOnSuccess(t) && slices.Index(order, t.Result) > slices.Index(order, worst) {
			worst = t.Result
		}
	}
	return worst
}

// skippedOnSuccess tells whether a step has not run because nothing had failed.
func skippedOnSuccess(t *ticket.Ticket) bool {
	return t.Result == ticket.Canceled && t.When == "failure"
}

// Finish completes the record, and returns the jobs that are to be triggered
// and the cause that their builds get.
func (b *Build) Finish(j *job.Job, now time.Time) ([]string, *Cause) {
	now = now.UTC()
	s := &b.State
	s.Status, s.Control, s.Ended = Complete, "", &now
	if s.Result == "" {
		s.Result = s.result()
	}
	depth := 1
	if s.Cause != nil {
		depth += s.Cause.Depth
	}
	if j == nil || s.Result != ticket.Success || depth > maxDepth {
		return nil, nil
	}
	return j.Downstream, &Cause{Kind: "upstream", JobID: b.JobID, Number: b.Number, Depth: depth}
}
