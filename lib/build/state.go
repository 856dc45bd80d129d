// Package build is the life of a build as a pure state machine: no I/O, no
// clock, no chance. Whoever has done a piece of work calls it to learn what
// the build's record becomes and which tickets are to be posted, and commits
// all of that in one transaction.
package build

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/distci/distci/lib/ticket"
)

// The values of State.Status.
const (
	Preparing = "preparing"
	Running   = "running"
	Complete  = "complete"
)

// State is the record of a build, in JSON an object with the names below in
// lower case. A key that is not known is kept.
type State struct {
	Status   string
	Result   string // when complete: as a ticket's
	Error    string // what failed, if it was not a step
	Canceled string // who canceled it; "": nobody
	Cause    *Cause // what started it
	// Parameters and Ref are what the build was begun with: values in place of
	// the defaults of the job's parameters, and what to check out.
	Parameters map[string]string
	Ref        string
	Created    *time.Time                //
	Ended      *time.Time                //
	Control    string                    // id of the control ticket that is posted
	Tasks      map[string]*ticket.Ticket // by step key; a pending one without id is not posted yet
	Artifacts  map[string][]string       // artifact id → path as a list of its parts

	Extra map[string]json.RawMessage
}

// Cause is what started a build.
type Cause struct {
	Kind   string        `json:"kind"` // "request", "upstream", "webhook", "retry"
	By     string        `json:"by,omitempty"`
	JobID  string        `json:"job_id,omitempty"`       // of the upstream build
	Number ticket.Number `json:"build_number,omitempty"` // of that, or of the build that is retried
	From   string        `json:"from,omitempty"`         // of a retry: the first step that is run again
	Depth  int           `json:"depth,omitempty"`        // how many builds triggered each other up to here
	Event  *Event        `json:"event,omitempty"`        // of a webhook, and of a retry of what it began
}

// fields ties the JSON names to the struct.
func (s *State) fields() map[string]any {
	return map[string]any{
		"status": &s.Status, "result": &s.Result, "error": &s.Error, "canceled": &s.Canceled,
		"cause": &s.Cause, "parameters": &s.Parameters, "ref": &s.Ref, "created": &s.Created, "ended": &s.Ended, "control": &s.Control,
		"tasks": &s.Tasks, "artifacts": &s.Artifacts,
	}
}

// UnmarshalJSON reads a state.
func (s *State) UnmarshalJSON(b []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	if m == nil {
		return fmt.Errorf("expected an object, found %.20s", b)
	}
	*s = State{Extra: map[string]json.RawMessage{}}
	fields := s.fields()
	for name, raw := range m {
		if p, ok := fields[name]; !ok {
			s.Extra[name] = raw
		} else if err := json.Unmarshal(raw, p); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// MarshalJSON writes a state without the fields that are absent.
func (s State) MarshalJSON() ([]byte, error) {
	m := map[string]any{}
	for name, raw := range s.Extra {
		m[name] = raw
	}
	put := func(name string, there bool, v any) {
		if there {
			m[name] = v
		}
	}
	put("status", s.Status != "", s.Status)
	put("result", s.Result != "", s.Result)
	put("error", s.Error != "", s.Error)
	put("canceled", s.Canceled != "", s.Canceled)
	put("cause", s.Cause != nil, s.Cause)
	put("parameters", len(s.Parameters) > 0, s.Parameters)
	put("ref", s.Ref != "", s.Ref)
	put("created", s.Created != nil, s.Created)
	put("ended", s.Ended != nil, s.Ended)
	put("control", s.Control != "", s.Control)
	put("tasks", s.Tasks != nil, s.Tasks)
	put("artifacts", s.Artifacts != nil, s.Artifacts)
	return json.Marshal(m)
}

// Build is a build with its place.
type Build struct {
	JobID  string
	Number ticket.Number
	State  State
}

// Clone returns a copy of the state that can be changed without changing s.
func (s *State) Clone() State {
	c := *s
	c.Tasks = maps.Clone(s.Tasks)
	for key, t := range c.Tasks {
		task := *t
		c.Tasks[key] = &task
	}
	c.Artifacts = maps.Clone(s.Artifacts)
	c.Parameters = maps.Clone(s.Parameters)
	c.Extra = maps.Clone(s.Extra)
	return c
}

// Keys lists the steps in their order: numbers by value, then names.
func (s *State) Keys() []string {
	return slices.SortedFunc(maps.Keys(s.Tasks), func(a, b string) int {
		if len(a) != len(b) && numeric(a) && numeric(b) {
			return len(a) - len(b)
		}
		if a < b {
			return -1
		}
		return 1
	})
}

func numeric(s string) bool {
	for _, c := range s {
		if c < '0' || c > '9' {
			return false
		}
	}
	return s != ""
}

// newID makes a ticket id of time and place, in the form of a UUID of version
// 7, so that the same decision taken twice makes the same ticket.
func (b *Build) newID(now time.Time, what string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d/%s/%d", b.JobID, b.Number, what, now.UnixNano()))
	var u uuid.UUID
	ms := uint64(now.UnixMilli())
	for i := range 6 {
		u[i] = byte(ms >> (40 - 8*i))
	}
	copy(u[6:], sum[:])
	u[6] = u[6]&0x0f | 0x70
	u[8] = u[8]&0x3f | 0x80
	return u.String()
}
