package worker

import (
	"bytes"
	"context"
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
	case res.OOM:
		err = fault.Errorf(fault.Verdict, "out of memory")
	case res.Full:
		err = fault.Errorf(fault.Verdict, "too much disk is used")
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
	if err != nil && fault.Of(err).Retry() {
		return t, err
	}
	t.Finish(err)
	return t, nil
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
