// Package job reads the configuration of a job.
package job

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// Job is a job's configuration.
type Job struct {
	ID         string
	Steps      []Step
	Downstream []string
	Raw        json.RawMessage // as it was read
}

// Step is one of a job's tasks.
type Step struct {
	Key     string // "0", "1", …
	Name    string
	Type    string
	Params  json.RawMessage
	Labels  []string
	Env     map[string]string
	Timeout int // seconds
	Retry   int // attempts in all
	Needs   []string
	When    string
}

// Capabilities are what a worker must offer for the step.
func (s Step) Capabilities() []string {
	caps := []string{ticket.Capability(s.Type)}
	for _, l := range s.Labels {
		caps = append(caps, "nodelabel_"+l)
	}
	slices.Sort(caps)
	return slices.Compact(caps)
}

// Parse reads a job.
func Parse(b []byte) (*Job, error) {
	var c struct {
		ID    string `json:"job_id"`
		Tasks []struct {
			Name    string            `json:"name"`
			Type    string            `json:"type"`
			Params  json.RawMessage   `json:"params"`
			Env     map[string]string `json:"env"`
			Labels  []string          `json:"labels"`
			Timeout int               `json:"timeout"`
			Retry   int               `json:"retry"`
		} `json:"tasks"`
		Downstream []string `json:"downstream_jobs"`
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fault.Errorf(fault.Config, "job: %w", err)
	}
	j := &Job{ID: c.ID, Downstream: c.Downstream, Raw: b}
	for i, t := range c.Tasks {
		s := Step{Key: fmt.Sprint(i), Name: t.Name, Type: t.Type, Params: t.Params, Labels: t.Labels, Env: t.Env, Timeout: t.Timeout, Retry: t.Retry}
		if i > 0 {
			s.Needs = []string{fmt.Sprint(i - 1)}
		}
		j.Steps = append(j.Steps, s)
	}
	return j, nil
}
