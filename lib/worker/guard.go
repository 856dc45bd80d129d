package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
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
// is canceled, or when its log cannot be stored or is full. The function it
// returns ends it.
func (s *slot) guard(ctx context.Context, c *queue.Claim, log *repo.Log) (context.Context, func()) {
	run, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		sleep(run, guardDelay)
		changed := make(chan struct{}, 1)
		changed <- struct{}{} // for the first look
		for run.Err() == nil {
			if err := s.reason(run, c, log, changed); err != nil {
				cancel(err)
			}
			// The claim is judged by the clock, so the clock wakes us.
			sleep(run, max(s.Session/20, 50*time.Millisecond))
		}
	}()
	return run, func() {
		cancel(nil)
		<-done
	}
}

// reason finds a reason to stop the step. It looks at the build's record only
// when that has changed.
func (s *slot) reason(ctx context.Context, c *queue.Claim, log *repo.Log, changed chan struct{}) error {
	if !c.Held() {
		return fmt.Errorf("%w: no sign of life from the coordination service in time", errLost)
	}
	if log == nil {
		return nil
	}
	if err := log.Err(); err != nil {
		return err
	}
	if log.Full() {
		return repo.ErrLogFull
	}
	select {
	case <-changed:
	default:
		return nil
	}
	again := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	watch, err := s.Repo.WatchBuild(ctx, c.Ticket.JobID, c.Ticket.BuildNumber)
	if err != nil {
		again()
		return nil
	}
	by, err := s.Repo.Canceled(ctx, c.Ticket.JobID, c.Ticket.BuildNumber)
	if err == nil && by != "" {
		watch.Stop()
		return canceled{by}
	}
	go func() {
		defer watch.Stop()
		select {
		case <-watch.C():
			again()
		case <-ctx.Done():
		}
	}()
	return nil
}
