package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
)

// Why a step is stopped.
var (
	errLost     = errors.New("the claim can no longer be relied on")
	errCanceled = errors.New("canceled")
)

// canceled is the cause of a step's end that says who wanted it.
type canceled struct{ by string }

func (c canceled) Error() string        { return "canceled by " + c.by }
func (c canceled) Is(target error) bool { return target == errCanceled }

// guard returns a context for the step, which is canceled when the claim can
// no longer be relied on (before it can pass to somebody else), when the build
// is canceled, or when its log cannot be stored. The function it returns ends
// it.
func (s *slot) guard(ctx context.Context, c *queue.Claim, log *repo.Log) (context.Context, func()) {
	run, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		sleep(run, guardInterval)
		if run.Err() == nil {
			s.watch(run, c, log, cancel)
		}
	}()
	return run, func() {
		cancel(nil)
		<-done
	}
}

// watch looks after a step until it has ended.
func (s *slot) watch(ctx context.Context, c *queue.Claim, log *repo.Log, stop context.CancelCauseFunc) {
	t := c.Ticket
	tick := time.NewTicker(max(s.Session/20, 50*time.Millisecond))
	defer tick.Stop()
	for {
		var news <-chan struct{}
		end := func() {}
		if log != nil {
			if w, err := s.Repo.WatchBuild(ctx, t.JobID, t.BuildNumber); err == nil {
				news, end = w.C(), w.Stop
			}
			if by, err := s.Repo.Canceled(ctx, t.JobID, t.BuildNumber); err == nil && by != "" {
				end()
				stop(canceled{by})
				return
			}
		}
		for news != nil || log == nil {
			select {
			case <-ctx.Done():
				end()
				return
			case <-news:
				news = nil
			case <-tick.C:
			}
			if !c.Held() {
				end()
				stop(fmt.Errorf("%w: no sign of life from the coordination service in time", errLost))
				return
			}
			if log != nil && log.Err() != nil {
				end()
				stop(log.Err())
				return
			}
		}
		if news == nil && log != nil {
			end()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C: // a watch that could not be set, or a record that changes often
			if !c.Held() {
				stop(errLost)
				return
			}
		}
	}
}
