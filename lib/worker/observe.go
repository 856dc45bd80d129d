package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/observe"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/ticket"
)

// record is what is told of an attempt when it has ended. Its methods do
// nothing on nil, when nobody listens.
type record struct {
	observe.Attempt
	sink  observe.Sink
	phase observe.Phase // the present one
}

// begin begins the record of an attempt at the claimed ticket.
func (w *Worker) begin(ctx context.Context, c *queue.Claim) *record {
	if w.Observe == nil {
		return nil
	}
	t := c.Ticket
	r := &record{sink: w.Observe, Attempt: observe.Attempt{Ticket: t.ID, Type: t.Type, JobID: t.JobID, Build: int64(t.BuildNumber),
		Step: t.Step, Name: t.Name, Attempt: t.Attempt, Worker: w.Name, Image: t.Image, Begin: time.Now()}}
	if t.Started != nil {
		r.Begin = *t.Started
	}
	if posted, ok := postedAt(t); ok && t.Attempt == 1 && posted.Before(r.Begin) {
		r.Phases = append(r.Phases, observe.Phase{Name: observe.Wait, Begin: posted, End: r.Begin})
	}
	r.enterAt(observe.Prepare, r.Begin)
	if w.Trace && t.JobID != "" {
		r.Created, _ = w.Repo.Created(ctx, t.JobID, t.BuildNumber) // without it there is no trace, which is no reason to stop
	}
	return r
}

// postedAt is when a ticket was posted, which our ids tell.
func postedAt(t *ticket.Ticket) (time.Time, bool) {
	u, err := uuid.Parse(t.ID)
	if err != nil || u.Version() != 7 {
		return time.Time{}, false
	}
	return time.Unix(u.Time().UnixTime()), true
}

// enter ends the present phase and begins the next.
func (r *record) enter(phase string) { r.enterAt(phase, time.Now()) }

func (r *record) enterAt(phase string, at time.Time) {
	if r == nil || r.phase.Name == phase {
		return
	}
	if r.phase.Name != "" {
		r.phase.End = at
		r.Phases = append(r.Phases, r.phase)
	}
	r.phase = observe.Phase{Name: phase, Begin: at}
}

// failed notes that the present phase has not done what it was to do.
func (r *record) failed(err error) {
	if r != nil && err != nil {
		r.phase.Error = err.Error()
	}
}

// watch is a sandbox that tells when the tool is run in it.
func (r *record) watch(sb sandbox.Sandbox) sandbox.Sandbox {
	if r == nil {
		return sb
	}
	return &watched{sb, r}
}

type watched struct {
	sandbox.Sandbox
	rec *record
}

// Run implements [sandbox.Sandbox].
func (w *watched) Run(ctx context.Context, s sandbox.Spec) (sandbox.Result, error) {
	w.rec.enter(observe.Sandbox)
	res, err := w.Sandbox.Run(ctx, s)
	w.rec.failed(err)
	if !res.Started.IsZero() && !res.Ended.IsZero() {
		w.rec.enterAt(observe.Tool, res.Started)
		if res.Status != 0 {
			w.rec.failed(fmt.Errorf("exit status %d", res.Status))
		}
		w.rec.enterAt(observe.Clean, res.Ended)
	}
	return res, err
}

// env tells a tool, and the programs that it runs, where they are in the trace.
// What the step itself says counts more.
func (r *record) env(t *ticket.Ticket) []string {
	if r == nil || r.Created.IsZero() || t.Env["TRACEPARENT"] != "" {
		return nil
	}
	return []string{"TRACEPARENT=" + observe.Traceparent(observe.TraceID(r.JobID, r.Build, r.Created), observe.AttemptID(r.Ticket, r.Attempt.Attempt))}
}

// committed notes how a commit of t's result went.
func (r *record) committed(t *ticket.Ticket, err error) {
	switch {
	case r == nil, errors.Is(err, repo.ErrChanged):
	case err == nil:
		r.Outcome, r.Fault, r.Error = t.Result, string(t.Fault), t.Error
	case errors.Is(err, queue.ErrLost):
		r.Outcome, r.Error = observe.Lost, err.Error()
	}
}

// gaveBack notes that the ticket was given back because of cause, or was ended
// by it; err is what came of that.
func (r *record) gaveBack(cause error, ended bool, err error) {
	if r == nil {
		return
	}
	r.Outcome, r.Fault, r.Error = observe.Released, string(fault.Of(cause)), cause.Error()
	switch {
	case errors.Is(err, queue.ErrLost), errors.Is(cause, errLost):
		r.Outcome = observe.Lost
	case ended:
		r.Outcome = fault.Of(cause).Result()
	}
}

// tell tells of the attempt, if anything came of it.
func (r *record) tell() {
	if r == nil || r.Outcome == "" {
		return
	}
	r.enter("")
	r.End = time.Now()
	a := r.Attempt
	r.sink.Tell(observe.Event{Attempt: &a})
}

// tellBuild tells of a build that the commit of ctl has ended.
func (w *Worker) tellBuild(ctx context.Context, ctl *repo.Control) {
	if w.Observe == nil || ctl == nil || ctl.Ended() == nil {
		return
	}
	b := ctl.Ended()
	s := &b.State
	if s.Created == nil || s.Ended == nil {
		return
	}
	e := &observe.Build{JobID: b.JobID, Number: int64(b.Number), Created: *s.Created, Ended: *s.Ended,
		Result: s.Result, Error: s.Error, Steps: len(s.Tasks)}
	if s.Cause != nil {
		e.Cause = s.Cause.Kind
		e.Upstream = w.upstream(ctx, s.Cause)
	}
	w.Observe.Tell(observe.Event{Build: e})
}

// upstream is the build that has triggered another, for a link between their
// traces.
func (w *Worker) upstream(ctx context.Context, c *build.Cause) *observe.Upstream {
	if !w.Trace || c.JobID == "" || c.Number == 0 {
		return nil
	}
	created, err := w.Repo.Created(ctx, c.JobID, c.Number)
	if err != nil || created.IsZero() { // it may have been deleted
		return nil
	}
	return &observe.Upstream{JobID: c.JobID, Number: int64(c.Number), Created: created}
}
