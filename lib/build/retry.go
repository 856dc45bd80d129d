package build

import (
	"slices"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// A retry of a finished build is a build of its own, whose cause names the one
// that is retried and the step from which. It has the steps that the other one
// had, whatever the job is now: those before are taken over with their results,
// their workspaces and what they published; that one, and what comes after it,
// is run again.

// KindRetry is the kind of a retry's cause.
const KindRetry = "retry"

// FieldTakenOver is the field of a step's ticket that tells, in a retry, the
// number of the build that has run it.
const FieldTakenOver = "taken_over"

// RetryFrom tells from which step a finished build can be retried: from, or if
// that is empty the first one that did not succeed. It is "" for a build that
// had no steps yet: all of it. Errors are of kind Usage.
func (s *State) RetryFrom(from string) (string, error) {
	if from == "" {
		if len(s.Tasks) == 0 {
			return "", nil
		}
		for _, key := range s.Keys() {
			if t := s.Tasks[key]; t.Result != ticket.Success && !skippedOnSuccess(t) {
				from = key
				break
			}
		}
		if from == "" {
			return "", fault.Errorf(fault.Usage, "no step has failed; say from which one the build is to be retried")
		}
	}
	if s.Tasks[from] == nil {
		return "", fault.Errorf(fault.Usage, "step %.200q: the build has none", from)
	}
	again := s.again(from)
	if verdict, reason := again.readiness(again.Tasks[from]); verdict != run {
		return "", fault.Errorf(fault.Usage, "step %s: the build cannot be retried from there: %s", from, reason)
	}
	return from, nil
}

// again is the record of a retry before its first step: what is run again is
// pending.
func (s *State) again(from string) *State {
	c := &State{Status: Running, Tasks: map[string]*ticket.Ticket{}}
	again := map[string]bool{}
	for changed := true; changed; {
		changed = false
		for _, key := range s.Keys() {
			t := s.Tasks[key]
			needs := func(n string) bool { return again[n] }
			if !again[key] && (key == from || slices.ContainsFunc(t.Needs, needs) || after(key, from) && t.Result != ticket.Success) {
				again[key], changed = true, true
			}
		}
	}
	for key, t := range s.Tasks {
		if !again[key] {
			c.Tasks[key] = t.Clone()
			continue
		}
		c.Tasks[key] = &ticket.Ticket{
			Type: t.Type, Capabilities: t.Capabilities, Priority: t.Priority, Status: ticket.Pending,
			Step: key, Name: t.Name, Needs: t.Needs, When: t.When,
			Params: t.Params, Env: t.Env, Timeout: t.Timeout, Retry: t.Retry, Image: t.Image,
			Secrets: t.Secrets, Limits: t.Limits, Network: t.Network,
		}
	}
	return c
}

// after tells whether a step's key comes after another one in a record's order.
func after(key, other string) bool {
	if key == other {
		return false
	}
	s := State{Tasks: map[string]*ticket.Ticket{key: nil, other: nil}}
	return s.Keys()[1] == key
}

// Restart is Start for a retry of the build whose record is old.
func (b *Build) Restart(old *State, now time.Time) ([]*ticket.Ticket, error) {
	s := &b.State
	from, err := old.RetryFrom(s.Cause.From)
	if err != nil {
		return nil, err
	}
	s.Status, s.Control, s.Tasks = Running, "", old.again(from).Tasks
	for _, t := range s.Tasks {
		t.JobID, t.BuildNumber = b.JobID, b.Number
		if _, ok := t.Extra[FieldTakenOver]; t.Status == ticket.Complete && !ok {
			if err := t.Set(FieldTakenOver, int64(s.Cause.Number)); err != nil {
				return nil, err
			}
		}
	}
	return b.next(now), nil
}

// Retries tells whether the build begins with the steps of another one.
func (s *State) Retries() bool {
	return s.Cause != nil && s.Cause.Kind == KindRetry && s.Cause.From != ""
}
