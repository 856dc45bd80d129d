package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/observe"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/workspace"
)

// controlType is the type of the tickets whose answer moves a whole build.
const controlType = "build-control"

func isControl(t *ticket.Ticket) bool {
	return t.Type == controlType && t.Step == "" && t.JobID != ""
}

// slot works on one ticket at a time, in a folder of its own.
type slot struct {
	*Worker
	dir string

	waiter *queue.Waiter
	looked time.Time // at the whole queue; zero: it is to be looked at

	// The ticket that was claimed by the commit of the one before: a moment ago
	// its build was not canceled, which need not be asked for again.
	follows string

	// The workspace that is there: of which build, made of which layers, and
	// its index. No layers and no index: unknown.
	build  string
	layers []string
	index  *workspace.Index

	rec *record // of the present attempt; nil if nobody listens
}

func (s *slot) workspace() string { return filepath.Join(s.dir, "workspace") }

// work brings one claim to its end. It returns the claim of the ticket that
// comes next, if this worker goes on with it.
func (s *slot) work(ctx, idle context.Context, c *queue.Claim, offer []string) (*queue.Claim, error) {
	t := c.Ticket
	if t.Spent() {
		p, _ := queue.PreviousOf(t)
		return nil, s.commitError(ctx, c, fault.Errorf(kindOr(p.Fault, fault.Lost), "no attempt of %d was brought to an end; the last, on %s: %s", t.Attempt-1, p.Worker, p.Error))
	}
	for {
		s.rec = s.begin(ctx, c)
		next, err := s.attempt(ctx, idle, c, offer)
		s.rec.tell()
		if !errors.Is(err, repo.ErrChanged) {
			return next, err
		}
	}
}

func kindOr(k, other fault.Kind) fault.Kind {
	if k == fault.None {
		return other
	}
	return k
}

// attempt is one run of the tool.
func (s *slot) attempt(ctx, idle context.Context, c *queue.Claim, offer []string) (*queue.Claim, error) {
	t := c.Ticket.Clone()
	coming := s.prefetch(ctx, t)
	defer coming.Close()
	var ctl *repo.Control
	console := io.Writer(os.Stderr)
	var log *repo.Log
	switch {
	case isControl(t):
		var err error
		if ctl, err = s.Repo.Prepare(ctx, t); err != nil {
			return s.giveBack(ctx, c, err, false)
		}
		if ctl == nil {
			return nil, s.Repo.Drop(ctx, c)
		}
	case repo.IsStatus(t):
		if err := s.Repo.PrepareStatus(ctx, t); errors.Is(err, repo.ErrObsolete) {
			return nil, s.Repo.Drop(ctx, c)
		} else if errors.Is(err, repo.ErrTooEarly) {
			s.leave(t.ID, time.Second)
			return s.giveBack(ctx, c, err, true)
		} else if err != nil {
			return s.giveBack(ctx, c, err, false)
		}
	case t.JobID != "" && t.Step != "":
		if t.ID != s.follows {
			by, err := s.Repo.Canceled(ctx, t.JobID, t.BuildNumber)
			if err != nil {
				return s.giveBack(ctx, c, err, false)
			}
			if by != "" {
				t.Status, t.Result, t.Error = ticket.Complete, ticket.Canceled, "canceled by "+by
				return s.commit(ctx, c, nil, t, nil)
			}
		}
		log = s.Repo.NewLog(context.WithoutCancel(ctx), t.JobID, t.BuildNumber, t.Step, t.Attempt)
		if t.Attempt > 1 {
			if err := s.Repo.SealLog(ctx, t.JobID, t.BuildNumber, t.Step, t.Attempt-1); err != nil {
				s.Log.Warn(fmt.Sprintf("ticket %s: the log of the attempt before stays unsealed until the build ends: %v", t.ID, err))
			}
		}
		s.announce(log, t)
		if s.LogLimit > 0 {
			log.Limit(s.LogLimit)
		}
		console = log
	}
	run, end := s.guard(ctx, c, log)
	out, err := s.runTool(run, t, coming, console)
	reason := context.Cause(run)
	if reason != nil && ctx.Err() != nil {
		reason = errStopped
	}
	end()
	if log != nil && log.Full() && (reason == nil || errors.Is(reason, repo.ErrLogFull)) {
		out.Finish(fault.Errorf(fault.Verdict, "%w: a step's log holds %d bytes", repo.ErrLogFull, s.LogLimit))
		err, reason = nil, nil // it is the job's own doing, and would be the same again
	}
	if log != nil {
		err = s.conclude(ctx, log, out, err, reason)
	}
	switch {
	case errors.Is(reason, errLost):
		s.forget()
		s.Log.Error(fmt.Sprintf("ticket %s: %v: it was stopped, and is done again", t.ID, reason))
		// The session may outlive the outage, and with it the claim: nobody else
		// would get the ticket.
		return s.giveBack(ctx, c, reason, true)
	case errors.Is(reason, errCanceled):
		out.Status, out.Result, out.Error, out.Fault = ticket.Complete, ticket.Canceled, reason.Error(), fault.None
		return s.commit(context.WithoutCancel(ctx), c, nil, out, nil)
	case errors.Is(reason, errStopped):
		s.forget()
		return s.giveBack(context.WithoutCancel(ctx), c, reason, true)
	case err != nil:
		s.forget()
		if reason != nil { // why it was stopped says more than that it was
			err = reason
		}
		return s.giveBack(ctx, c, err, false)
	}
	// Whoever has moved a build on does not go on with its first steps: older
	// ones, or those of a higher priority, may wait.
	if idle.Err() != nil || ctl != nil {
		offer = nil
	}
	return s.commit(context.WithoutCancel(ctx), c, ctl, out, offer)
}

// commit moves the build on. A claim that was lost meanwhile is no error of
// the worker's: the other holder's result counts.
func (s *slot) commit(ctx context.Context, c *queue.Claim, ctl *repo.Control, t *ticket.Ticket, offer []string) (*queue.Claim, error) {
	s.rec.enter(observe.Commit)
	var next *queue.Claim
	var err error
	switch {
	case ctl != nil:
		next, err = s.Repo.CommitControl(ctx, c, ctl, t, offer)
	default:
		next, err = s.Repo.Commit(ctx, c, t, offer)
	}
	s.rec.committed(t, err)
	s.tellBuild(ctx, ctl)
	s.follows = ""
	if next != nil {
		s.follows = next.Ticket.ID
	}
	switch {
	case err == nil, errors.Is(err, repo.ErrChanged):
		return next, err
	case errors.Is(err, queue.ErrLost):
		s.forget()
		return nil, fmt.Errorf("ticket %s: commit: %w", t.ID, err)
	}
	// The result cannot be stored. It is not lost silently: somebody does the
	// step again, and the last attempt's error is committed without it.
	s.forget()
	return s.giveBack(ctx, c, fmt.Errorf("commit: %w", err), false)
}

// announce begins the log of an attempt.
func (s *slot) announce(log *repo.Log, t *ticket.Ticket) {
	name := t.Type
	if t.Name != "" {
		name = fmt.Sprintf("%q (%s)", t.Name, t.Type)
	}
	log.Note("step %s: %s on %s, attempt %d", t.Step, name, s.Name, t.Attempt)
	if p, ok := queue.PreviousOf(t); ok {
		log.Note("the attempt before, on %s, ended without a result: %s (%s)", p.Worker, p.Error, p.Fault)
	}
}

// runTool restores the workspace and runs the tool on t. The error is for what
// may be tried again; everything else is a result in the ticket that it
// returns, which is never nil.
func (s *slot) runTool(ctx context.Context, t *ticket.Ticket, coming *workspace.Prefetch, console io.Writer) (*ticket.Ticket, error) {
	out := t.Clone()
	s.rec.enter(observe.Restore)
	if err := s.restore(ctx, t, coming); err != nil {
		s.rec.failed(err)
		if !fault.Of(err).Retry() && fault.Of(err) != fault.Internal {
			out.Finish(err)
			return out, nil
		}
		return out, fault.Wrap(fault.Temporary, err)
	}
	tmp := filepath.Join(s.dir, "tmp")
	if err := os.MkdirAll(tmp, 0o700); err != nil {
		return out, fault.Wrap(fault.Temporary, err)
	}
	defer empty(tmp)
	args, err := s.Tools.Command(t.Type)
	if err != nil {
		return out, err
	}
	spec := s.Tools.Spec(s.Sandbox, t, args, s.workspace(), s.dir, tmp)
	if s.API != nil && s.Tools.NeedsAPI(t.Type) && t.JobID != "" {
		path, stop, err := serve(s.API(t.JobID, t.BuildNumber))
		if err != nil {
			return out, fault.Wrap(fault.Temporary, err)
		}
		defer stop()
		api := sandbox.Mount{Source: path, Target: insideAPI}
		spec.Mounts = append(spec.Mounts, api)
		spec.Env = append(spec.Env, "DISTCI_URL=unix:"+s.Sandbox.Inside(api))
	}
	spec.Env = append(spec.Env, s.rec.env(t)...)
	spec.Stderr, spec.Grace, spec.Limits = console, s.Grace, s.Limits
	note := func(format string, args ...any) { s.Log.Info(fmt.Sprintf("ticket "+t.ID+": "+format, args...)) }
	if log, ok := console.(*repo.Log); ok {
		note = log.Note
	}
	return s.Tools.Execute(ctx, s.rec.watch(s.Sandbox), t, spec, note)
}

// empty removes what a step has left in its folder for temporary files. Most
// leave nothing, and the folder can stay.
func empty(tmp string) {
	if entries, err := os.ReadDir(tmp); err != nil || len(entries) > 0 {
		_ = workspace.Remove(tmp) // what cannot be removed goes with the worker's folder
	}
}

// buildOf names the build that a ticket belongs to.
func buildOf(t *ticket.Ticket) string { return fmt.Sprintf("%s:%d", t.JobID, t.BuildNumber) }

// worksOn tells whether the tool for a ticket does something with a workspace.
// One that does not leaves the one that is there to the next.
func worksOn(t *ticket.Ticket) bool { return t.Type != controlType && t.Type != ticket.CommitStatus }

// here tells whether the workspace already is what the ticket says.
func (s *slot) here(t *ticket.Ticket) bool {
	return s.index != nil && t.JobID != "" && s.build == buildOf(t) && slices.Equal(s.layers, t.Workspace)
}

// prefetch begins to bring the layers of the ticket's workspace here, while the
// step is still being prepared. It does so for nothing but what is claimed: the
// step that comes next may go elsewhere.
func (s *slot) prefetch(ctx context.Context, t *ticket.Ticket) *workspace.Prefetch {
	if !worksOn(t) || s.here(t) {
		return s.Layers.Prefetch(ctx, nil)
	}
	return s.Layers.Prefetch(ctx, t.Workspace)
}

// restore makes the workspace what the ticket says, unless it already is.
func (s *slot) restore(ctx context.Context, t *ticket.Ticket, coming *workspace.Prefetch) error {
	if !worksOn(t) {
		return os.MkdirAll(s.workspace(), 0o700)
	}
	if s.here(t) {
		return nil
	}
	s.forget()
	if err := workspace.Remove(s.workspace()); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	index, err := coming.Restore(ctx, s.workspace())
	if err != nil {
		return err
	}
	s.build, s.layers, s.index = buildOf(t), slices.Clone(t.Workspace), index
	return nil
}

// conclude saves what the step has left, its workspace and its log, and
// returns what stands in the way of a result. It says in the log how the step
// ended, which comes before the log's own end.
func (s *slot) conclude(ctx context.Context, log *repo.Log, out *ticket.Ticket, err, stopped error) error {
	if err == nil && stopped == nil {
		if err = s.save(ctx, out); err != nil && !fault.Of(err).Retry() {
			out.Finish(err)
			err = nil
		}
	}
	switch {
	case stopped != nil:
		log.Note("stopped: %s", stopped)
	case err != nil:
		log.Note("%s: %s", fault.Of(err), err)
	case out.Result != ticket.Success:
		log.Note("%s: %s", out.Result, out.Error)
	}
	if e := log.Close(); err == nil {
		err = e
	}
	return err
}

// save stores what the step has changed, and adds it to the ticket's
// workspace.
func (s *slot) save(ctx context.Context, t *ticket.Ticket) error {
	s.rec.enter(observe.Save)
	// A step that has removed its workspace has emptied it.
	if err := os.MkdirAll(s.workspace(), 0o755); err != nil {
		return fault.Wrap(fault.Temporary, err)
	}
	layer, index, err := s.Layers.Save(ctx, s.workspace(), s.index)
	if err != nil {
		s.forget()
		s.rec.failed(err)
		return err
	}
	s.index = index
	if !layer.Empty() {
		t.Workspace = append(slices.Clone(t.Workspace), layer.Digest)
	}
	s.layers = t.Workspace
	return nil
}

// vacate removes the workspace of a worker that has been idle for a while.
func (s *slot) vacate() {
	if s.index != nil {
		s.forget()
		if err := workspace.Remove(s.workspace()); err != nil {
			s.Log.Warn("removing a workspace", "error", err)
		}
	}
}

// forget says that the workspace is not to be relied on.
func (s *slot) forget() { s.build, s.layers, s.index = "", nil, nil }
