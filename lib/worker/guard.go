package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// Why a step is stopped.
var (
	errLost     = errors.New("the claim can no longer be relied on")
	errCanceled = errors.New("canceled")
	errStopped  = fault.Errorf(fault.Interrupted, "the worker was told to stop")
)

// canceled is the cause of a step's end that says who wanted it.
type canceled struct{ by string }

func (c canceled) Error() string        { return "canceled by " + c.by }
func (c canceled) Is(target error) bool { return target == errCanceled }

// guardDelay is when a step is first looked after; shorter ones are not worth
// it.
const guardDelay = 100 * time.Millisecond

// guard returns a context for the step, which is canceled when the claim can
// no longer be relied on (before it can pass to somebody else), when the build
// is canceled, or when its log cannot be stored or is full. What was done since
// the claim may have taken longer than the claim lasted, so it may be canceled
// from the beginning. The function that guard returns ends it.
func (s *slot) guard(ctx context.Context, c *queue.Claim, log *repo.Log) (context.Context, func()) {
	run, cancel := context.WithCancelCause(ctx)
	every := max(s.Session/20, 50*time.Millisecond)
	look := func() {
		if err := reason(c, log); err != nil {
			cancel(err)
		}
	}
	look()
	var wg sync.WaitGroup
	// The claim is judged by the clock, so the clock wakes us, and nothing that
	// asks the coordination service, and may have to wait for it, is done here.
	wg.Go(func() {
		for sleep(run, guardDelay); run.Err() == nil; sleep(run, every) {
			look()
		}
	})
	if log != nil {
		wg.Go(func() {
			sleep(run, guardDelay)
			if by := s.untilCanceled(run, c.Ticket, every); by != "" {
				look() // a build that others have brought to its end is gone, too
				cancel(canceled{by})
			}
		})
	}
	return run, func() {
		cancel(nil)
		wg.Wait()
	}
}

// reason finds a reason to stop the step in what this process knows itself.
func reason(c *queue.Claim, log *repo.Log) error {
	switch {
	case !c.Held():
		return fmt.Errorf("%w: no sign of life from the coordination service in time", errLost)
	case log == nil:
		return nil
	case log.Err() != nil:
		return log.Err()
	case log.Full():
		return repo.ErrLogFull
	}
	return nil
}

// untilCanceled waits until the ticket's build is canceled, and tells by whom;
// "" if ctx was done before.
func (s *slot) untilCanceled(ctx context.Context, t *ticket.Ticket, every time.Duration) (by string) {
	for ctx.Err() == nil && by == "" {
		by = s.canceledBy(ctx, t, every)
	}
	return by
}

// canceledBy looks once at the build's record. If the build is not canceled, it
// returns "" when there is a reason to look again, and not before the pause.
func (s *slot) canceledBy(ctx context.Context, t *ticket.Ticket, pause time.Duration) string {
	watch, err := s.Repo.WatchBuild(ctx, t.JobID, t.BuildNumber)
	if err != nil {
		sleep(ctx, pause)
		return ""
	}
	defer watch.Stop()
	by, err := s.Repo.Canceled(ctx, t.JobID, t.BuildNumber)
	if by != "" {
		return by
	}
	sleep(ctx, pause)
	if err == nil {
		select {
		case <-watch.C():
		case <-ctx.Done():
		}
	}
	return ""
}
