package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/ticket"
)

// Local runs a whole job on this machine, without coordination, store or
// server: the same steps by the same tools, one after the other, in one
// workspace.
type Local struct {
	Tools     Tools
	Sandbox   sandbox.Sandbox
	Workspace string // folder; the steps work in it
	Artifacts string // folder for published files, with one for each job
	Console   io.Writer
	Grace     time.Duration
}

// Run runs the job to its end and returns the record of the build.
func (l *Local) Run(ctx context.Context, j *job.Job) (*build.State, error) {
	tmp, err := os.MkdirTemp("", "distci-")
	if err != nil {
		return nil, fault.Wrap(fault.Temporary, err)
	}
	defer os.RemoveAll(tmp)
	b, _ := build.New(j.ID, 1, &build.Cause{Kind: "local"}, time.Now())
	queue := b.Start(j, time.Now())
	for len(queue) > 0 {
		t := queue[0]
		queue = queue[1:]
		if t.Step == "" { // the finishing ticket is for us
			b.Finish(j, time.Now())
			break
		}
		out, err := l.step(ctx, t, tmp)
		if err != nil {
			return nil, err
		}
		post, err := b.Advance(out, time.Now())
		if err != nil {
			return nil, err
		}
		queue = append(queue, post...)
	}
	return &b.State, nil
}

// step runs one step, again if it may help, as often as the step allows.
func (l *Local) step(ctx context.Context, t *ticket.Ticket, tmp string) (*ticket.Ticket, error) {
	for {
		t.Attempt++
		t.Status = ticket.Running
		name := t.Type
		if t.Name != "" {
			name = fmt.Sprintf("%q (%s)", t.Name, t.Type)
		}
		fmt.Fprintf(l.Console, "distci: step %s: %s, attempt %d\n", t.Step, name, t.Attempt)
		args, err := l.Tools.Command(t.Type)
		if err != nil {
			return nil, err
		}
		switch t.Type {
		case "publish-artifacts":
			args = append(args, "--to", filepath.Join(l.Artifacts, t.JobID))
		case "copy-artifacts":
			from, err := param(t, "job")
			if err != nil {
				return nil, err
			}
			args = append(args, "--from", filepath.Join(l.Artifacts, from))
		}
		spec := l.Tools.Spec(l.Sandbox, t, args, l.Workspace, tmp, tmp)
		spec.Stderr, spec.Grace = l.Console, l.Grace
		out, err := l.Tools.Execute(ctx, l.Sandbox, t, spec, func(format string, args ...any) {
			fmt.Fprintf(l.Console, "distci: "+format+"\n", args...)
		})
		if ctx.Err() != nil {
			return nil, fault.Errorf(fault.Interrupted, "interrupted in step %s", t.Step)
		}
		if err == nil {
			if out.Result != ticket.Success {
				fmt.Fprintf(l.Console, "distci: %s: %s\n", out.Result, out.Error)
			}
			return out, nil
		}
		fmt.Fprintf(l.Console, "distci: %s: %s\n", fault.Of(err), err)
		last := t.Clone()
		last.Attempt++
		if last.Spent() {
			t.Finish(err)
			return t, nil
		}
	}
}

// param reads one parameter that is a string; "" if it is not there.
func param(t *ticket.Ticket, name string) (string, error) {
	var m map[string]json.RawMessage
	var s string
	err := json.Unmarshal(t.Params, &m)
	if raw, ok := m[name]; ok && err == nil {
		err = json.Unmarshal(raw, &s)
	}
	return s, fault.Wrap(fault.BadTicket, err)
}
