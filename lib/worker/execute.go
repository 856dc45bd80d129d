package worker

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"path/filepath"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/ticket"
)

// Execute runs a tool on t: the ticket goes to its stdin, the answer comes
// from its stdout. It returns t with the outcome, never nil. The error is for
// what may be tried again; everything else is a result in the ticket.
//
// The exit status is the judge; the ticket that the tool wrote says why, and
// carries what it has found out.
func Execute(ctx context.Context, sb sandbox.Sandbox, t *ticket.Ticket, spec sandbox.Spec) (*ticket.Ticket, error) {
	t = t.Clone()
	var in bytes.Buffer
	if err := t.Write(&in); err != nil {
		return t, err
	}
	answer := &limitWriter{left: ticket.MaxSize}
	spec.Stdin, spec.Stdout = &in, answer
	res, err := sb.Run(ctx, spec)
	if err != nil {
		return t, err
	}
	tool := filepath.Base(spec.Args[0])
	kind := fault.FromStatus(res.Status)
	switch {
	case kind == fault.Lost:
		err = fault.Killed(res.Signal, "%s was killed by signal %d", tool, res.Status-128)
	case kind != fault.None:
		err = fault.Errorf(kind, "%s: exit status %d", tool, res.Status)
	}
	said, bad := ticket.Parse(answer.buf.Bytes())
	switch {
	case bad == nil:
		t.Artifacts, t.Extra = said.Artifacts, said.Extra
		if said.Error != "" && kind != fault.None && kind != fault.Lost {
			if said.Fault != fault.None && said.Fault.Status() == res.Status {
				kind = said.Fault
			}
			err = fault.Errorf(kind, "%s", said.Error)
		}
	case answer.left < 0:
		err = fault.Errorf(fault.Internal, "%s wrote a ticket of more than %d bytes", tool, ticket.MaxSize)
	case kind == fault.None:
		err = fault.Errorf(fault.Internal, "%s ended with status 0, but what it wrote is no ticket: %w", tool, bad)
	}
	if over := exceeded(res, spec.Limits); over != "" {
		if bad == nil && said.Error != "" { // how that looked to the tool
			over += "; " + said.Error
		}
		err = fault.Errorf(fault.Verdict, "%s", over)
	}
	if e := t.Set("usage", usageOf(res)); e != nil {
		return t, e
	}
	if err != nil && fault.Of(err).Retry() {
		return t, err
	}
	t.Finish(err)
	return t, nil
}

// exceeded tells in words of which limit there was too little; "" if of none.
func exceeded(res sandbox.Result, limits sandbox.Limits) string {
	switch {
	case res.OOM && limits.Memory > 0:
		return fmt.Sprintf("out of memory: it used up to %s, its limit is %s", size(usageOf(res).Memory), size(limits.Memory))
	case res.OOM:
		return fmt.Sprintf("out of memory: it used up to %s, and the machine had no more", size(usageOf(res).Memory))
	case res.Full:
		return fmt.Sprintf("too much disk is used: its limit is %s", size(limits.Disk))
	}
	return ""
}

func size(bytes int64) string { return fmt.Sprintf("%.4g MiB", float64(bytes)/(1<<20)) }

// usage is what a step has used, as it stands in its ticket.
type usage struct {
	CPU    float64 `json:"cpu_seconds"`
	Memory int64   `json:"memory_bytes"` // of the largest process where that of all is not known
}

func usageOf(res sandbox.Result) usage {
	return usage{
		CPU:    float64((res.Usage.User + res.Usage.System).Milliseconds()) / 1000,
		Memory: cmp.Or(res.Usage.Memory, res.Usage.MaxRSS),
	}
}

// limitWriter keeps the beginning of what is written, and counts the rest.
type limitWriter struct {
	buf  bytes.Buffer
	left int // may become negative
}

func (l *limitWriter) Write(p []byte) (int, error) {
	if l.left > 0 {
		l.buf.Write(p[:min(len(p), l.left)])
	}
	l.left -= len(p)
	return len(p), nil
}
