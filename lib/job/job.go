// Package job reads the configuration of a job: what its builds do, step by
// step. See distci-job(5); the reference is the JSON Schema that Schema
// returns.
package job

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// MaxSize bounds the JSON text of a configuration, in bytes.
const MaxSize = 1 << 20

// maxProblems bounds how many problems one error tells.
const maxProblems = 20

// Job is a configuration.
type Job struct {
	ID          string
	Description string
	Steps       []Step            // in order
	Env         map[string]string // for all steps; in Step.Env already
	Parameters  map[string]string // what a trigger may set, with the defaults
	Priority    int               // of its tickets
	Retention   Retention         // what is kept of its builds
	Triggers    Triggers          // what a forge's webhook starts
	Status      *Status           // where its builds are told; nil: nowhere
	Downstream  []string          // jobs that a success triggers
	Raw         json.RawMessage   // as it was read
}

// Retention says how long what builds leave behind is kept. What is nil is as
// the operator says; 0 is for ever.
type Retention struct {
	Builds             *int  `json:"builds"`         // the last ones, so many
	Days               *int  `json:"days"`           // after their end
	ArtifactsDays      *int  `json:"artifacts_days"` // their artefacts
	WorkspaceDays      *int  `json:"workspace_days"` // their workspaces
	KeepLastSuccessful *bool `json:"keep_last_successful"`
}

// Step is one task of a job.
type Step struct {
	Key     string            // "0", "1", …: its place
	Name    string            // for people; may be empty
	Type    string            // the type of its ticket
	Params  json.RawMessage   // as read; nil if there are none
	Labels  []string          // that the worker must carry; sorted, each once
	Image   string            // the root file system to run in; "" if it does not matter
	Secrets []string          // names of the secrets that it gets
	Limits  *ticket.Limits    // what it may use; nil: as much as the worker says
	Network string            // as a ticket's
	Env     map[string]string // with the job's parameters and env; nil if empty
	Timeout int               // seconds; 0: none
	Retry   int               // attempts in all
	Needs   []string          // keys of the steps that must have ended before
	When    string            // as a ticket's: "", or "always"

	env map[string]string // its own
}

// Capabilities are what a worker must offer to run the step, sorted.
func (s Step) Capabilities() []string {
	caps := []string{ticket.Capability(s.Type)}
	for _, l := range s.Labels {
		caps = append(caps, ticket.LabelCapability(l))
	}
	if s.Image != "" {
		caps = append(caps, ticket.ImageCapability(s.Image))
	}
	slices.Sort(caps)
	return slices.Compact(caps)
}

// document is the configuration's JSON. Parse has validated it before, so that
// reading it cannot fail.
type document struct {
	ID          string            `json:"job_id"`
	Description string            `json:"description"`
	Env         map[string]string `json:"env"`
	Parameters  map[string]string `json:"parameters"`
	Tasks       tasks             `json:"tasks"`
	Priority    int               `json:"priority"`
	Retention   Retention         `json:"retention"`
	Triggers    Triggers          `json:"triggers"`
	Status      *Status           `json:"status"`
	Downstream  []string          `json:"downstream_jobs"`
}

type task struct {
	Type    string            `json:"type"`
	Params  json.RawMessage   `json:"params"`
	Name    string            `json:"name"`
	Labels  []string          `json:"labels"`
	Image   string            `json:"image"`
	Secrets []string          `json:"secrets"`
	Limits  *limits           `json:"limits"`
	Network string            `json:"network"`
	Env     map[string]string `json:"env"`
	Timeout int               `json:"timeout"`
	Retry   int               `json:"retry"`
}

// tasks is a list, or an object whose keys are the indices.
type tasks []task

func (ts *tasks) UnmarshalJSON(b []byte) error {
	if b[0] == '[' {
		return json.Unmarshal(b, (*[]task)(ts))
	}
	var m map[string]task
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	number := func(key string) int { n, _ := strconv.Atoi(key); return n }
	keys := slices.SortedFunc(maps.Keys(m), func(a, b string) int { return cmp.Compare(number(a), number(b)) })
	for _, k := range keys {
		*ts = append(*ts, m[k])
	}
	return nil
}

// Parse reads a configuration. The error is of kind Config and has a line for
// each problem: its JSON path, what was expected and what was found.
func Parse(b []byte) (*Job, error) {
	if len(b) > MaxSize {
		return nil, fault.Errorf(fault.Config, "job: larger than %d bytes", MaxSize)
	}
	n, err := read(b)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "job: %w", err)
	}
	if problems := check(n); len(problems) > 0 {
		return nil, fault.Errorf(fault.Config, "%s", tell(problems))
	}
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fault.Errorf(fault.Internal, "job: the schema let pass what cannot be read: %w", err)
	}
	j := &Job{
		ID: d.ID, Description: d.Description, Env: d.Env, Parameters: d.Parameters,
		Priority: d.Priority, Retention: d.Retention, Triggers: d.Triggers, Status: d.Status.complete(d.ID), Downstream: d.Downstream, Raw: slices.Clone(b),
	}
	for _, t := range d.Tasks {
		j.Steps = append(j.Steps, j.step(len(j.Steps), t))
	}
	j.setEnv(nil)
	return j, nil
}

func tell(problems []problem) string {
	var lines []string
	for i, p := range problems {
		if i == maxProblems {
			lines = append(lines, fmt.Sprintf("job: and %d problems more", len(problems)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("job: %s: %s", p.path, p.text))
	}
	return strings.Join(lines, "\n")
}

// step makes the step of a task that stands behind j.Steps.
func (j *Job) step(i int, t task) Step {
	var p struct { // what of the known types' parameters concerns the build
		Labels []string `json:"nodelabels"`
		Always bool     `json:"always"`
	}
	switch t.Type {
	case ticket.ExecuteShell, ticket.PublishArtifacts:
		json.Unmarshal(t.Params, &p) // valid by the schema
	}
	s := Step{
		Key: strconv.Itoa(i), Name: t.Name, Type: t.Type, Params: t.Params, Image: t.Image,
		Secrets: t.Secrets, Limits: t.Limits.bytes(), Network: t.Network,
		Labels: slices.Concat(t.Labels, p.Labels), Timeout: t.Timeout, Retry: t.Retry, env: t.Env,
	}
	slices.Sort(s.Labels)
	s.Labels = slices.Compact(s.Labels)
	if s.Retry == 0 {
		s.Retry = ticket.DefaultRetry
	}
	if p.Always {
		s.When = "always"
	}
	// A step needs the one before. If that one runs even after a failure, its
	// success does not tell that of those before it: they are needed, too.
	for k := i - 1; k >= 0; k-- {
		s.Needs = append(s.Needs, j.Steps[k].Key)
		if j.Steps[k].When == "" {
			break
		}
	}
	slices.Reverse(s.Needs)
	return s
}

// setEnv gives every step its variables: the parameters, over them the job's,
// over these its own.
func (j *Job) setEnv(values map[string]string) {
	for i := range j.Steps {
		env := map[string]string{}
		for _, m := range []map[string]string{j.Parameters, values, j.Env, j.Steps[i].env} {
			maps.Copy(env, m)
		}
		if len(env) == 0 {
			env = nil
		}
		j.Steps[i].Env = env
	}
}
