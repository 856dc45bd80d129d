// Package worker is the life of a claim: take a ticket, restore its
// workspace, run the matching tool on it, save what changed, commit.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/observe"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/workspace"
)

// Options is what a worker needs.
type Options struct {
	Repo    *repo.Repo
	Layers  *workspace.Layers
	Sandbox sandbox.Sandbox
	Tools   Tools
	Name    string         // shown as the assignee
	Dir     string         // folder for workspaces; several workers may share it
	Slots   int            // tickets at the same time
	Loop    bool           // go on after the first ticket
	Wait    time.Duration  // how long to wait for a first ticket; without Loop
	Session time.Duration  // the coordination's session time-out
	Grace   time.Duration  // between SIGTERM and SIGKILL
	Limits  sandbox.Limits // for each step: what it gets, and the most that it may ask for
	// LogLimit is how many bytes a step may print, after which it has failed; 0
	// is no limit.
	LogLimit int64
	// API makes the part of the REST interface that a step may use.
	API func(job string, n ticket.Number) http.Handler
	Log *slog.Logger
	// Observe is told of attempts and builds that have ended; nil: nobody
	// listens.
	Observe observe.Sink
	// Trace makes each build's attempts a part of its trace, and tells the tools
	// of it (TRACEPARENT). It needs Observe.
	Trace bool
}

// Worker claims tickets and works on them.
type Worker struct {
	Options
	path string // of home
	lock *os.File

	mu         sync.Mutex
	later      map[string]time.Time // tickets that this worker leaves alone until then
	complained bool                 // that there is no looking for work
	offer      []string             // what the tools that were there at that time can do
	asOf       time.Time
}

// offerMaxAge is how long it may take until a new tool is offered.
const offerMaxAge = 30 * time.Second

// offers lists the capabilities of this worker.
func (w *Worker) offers() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.asOf) > offerMaxAge {
		w.offer, w.asOf = w.Tools.Offer(), time.Now()
	}
	return w.offer
}

// New prepares a worker, and removes what workers have left behind that are
// gone.
func New(o Options) (*Worker, error) {
	dir, err := filepath.Abs(o.Dir) // tools are started in other folders
	if err != nil {
		return nil, fault.Errorf(fault.Config, "worker: %w", err)
	}
	o.Dir = dir
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fault.Errorf(fault.Config, "worker: %w", err)
	}
	clean(o.Dir, o.Log)
	w := &Worker{Options: o, later: map[string]time.Time{}}
	if w.path, w.lock, err = ownDir(o.Dir); err != nil {
		return nil, fault.Errorf(fault.Config, "worker: %w", err)
	}
	return w, nil
}

// ownDir makes a folder that this process holds for as long as it lives.
func ownDir(parent string) (dir string, lock *os.File, err error) {
	for {
		dir = filepath.Join(parent, uuid.NewString())
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", nil, err
		}
		lock, err := lockDir(dir)
		if errors.Is(err, syscall.EWOULDBLOCK) || errors.Is(err, os.ErrNotExist) {
			continue // somebody who cleans up was faster
		}
		return dir, lock, err
	}
}

// lockDir locks a folder itself: with a file in it there would be a moment
// without one, when it is made and when it is removed.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		_, err = os.Lstat(dir)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// clean removes the folders of workers that are gone.
func clean(dir string, log *slog.Logger) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		f, err := lockDir(path)
		if err != nil {
			continue // it is in use, or gone
		}
		if err := workspace.Remove(path); err != nil {
			log.Warn("removing what a worker has left", "folder", path, "error", err)
		}
		f.Close()
	}
}

// Close removes the worker's folder.
func (w *Worker) Close() error {
	err := workspace.Remove(w.path)
	w.lock.Close()
	return err
}

// Run works until there is nothing to do (without Loop), or drain is closed,
// which lets the running steps end, or ctx is done, which stops them and gives
// their tickets back. It returns the number of tickets that it has worked on.
func (w *Worker) Run(ctx context.Context, drain <-chan struct{}) (int, error) {
	idle, stop := context.WithCancel(ctx) // done when no more tickets are to be taken
	defer stop()
	go func() {
		select {
		case <-drain:
			stop()
		case <-idle.Done():
		}
	}()
	var g errgroup.Group
	if w.Loop {
		sweeper := make(chan struct{})
		go func() {
			defer close(sweeper)
			w.sweep(idle)
		}()
		defer func() {
			stop()
			<-sweeper
		}()
	}
	counts := make([]int, w.Slots)
	for i := range w.Slots {
		g.Go(func() (err error) {
			s := &slot{Worker: w, dir: filepath.Join(w.path, strconv.Itoa(i))}
			counts[i], err = s.run(ctx, idle)
			return err
		})
	}
	err := g.Wait()
	n := 0
	for _, c := range counts {
		n += c
	}
	return n, err
}

// run is the loop of one slot.
func (s *slot) run(ctx, idle context.Context) (n int, err error) {
	s.waiter = s.Repo.Queue().Waiter()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		s.waiter.Leave(ctx)
	}()
	deadline := time.Now().Add(s.Wait)
	for idle.Err() == nil {
		c, err := s.next(idle)
		if idle.Err() != nil && c == nil {
			break
		}
		if err != nil && !s.Loop {
			return n, err
		}
		s.complain(err)
		if err != nil {
			sleep(idle, time.Second)
			continue
		}
		if c == nil {
			if !s.Loop && time.Now().After(deadline) {
				return n, nil
			}
			s.wait(idle, deadline)
			continue
		}
		s.waiter.Leave(ctx)
		for c != nil {
			n++
			offer := s.offers()
			if !s.Loop {
				offer = nil // one ticket, and no other
			}
			if c, err = s.work(ctx, idle, c, offer); err != nil {
				s.Log.Error(err.Error())
			}
		}
		if !s.Loop {
			return n, err
		}
		s.looked = time.Time{} // there may be more
	}
	return n, nil
}

// next takes a ticket; nil if there is none. Whoever takes one ticket only, and
// finds none, makes those of dead workers ready again.
func (s *slot) next(idle context.Context) (*queue.Claim, error) {
	if time.Since(s.looked) < s.Session {
		return nil, nil
	}
	q := s.Repo.Queue()
	c, err := q.Claim(idle, s.offers(), s.Name, s.skip)
	if c == nil && err == nil && !s.Loop {
		if err = s.requeue(idle, q.Requeue); err == nil {
			c, err = q.Claim(idle, s.offers(), s.Name, s.skip)
		}
	}
	if c == nil && err == nil {
		s.looked = time.Now().Add(rand.N(s.Session / 2))
	}
	return c, err
}

// sweep makes the tickets of dead workers ready again, in turn with all other
// workers, busy or not, until ctx is done: such a ticket waits for it about a
// quarter of a session's time-out, besides the time-out itself.
func (w *Worker) sweep(ctx context.Context) {
	every := w.Session / 4
	for ctx.Err() == nil {
		err := w.requeue(ctx, func(ctx context.Context) ([]string, error) { return w.Repo.Queue().RequeueInTurn(ctx, every) })
		if err != nil && ctx.Err() == nil && w.Repo.Reachable() {
			w.Log.Error("looking for the tickets of dead workers: " + err.Error())
		}
		sleep(ctx, every)
	}
}

func (w *Worker) requeue(ctx context.Context, how func(context.Context) ([]string, error)) error {
	ids, err := how(ctx)
	if len(ids) > 0 {
		w.Log.Info("made tickets ready again whose workers are gone", "tickets", ids)
	}
	return err
}

// wait waits for a ticket. Without news the queue is looked at only once in a
// session's time-out, lest those in front of the line be dead or deaf. A worker
// that got none in all that time needs no workspace any more.
func (s *slot) wait(idle context.Context, deadline time.Time) {
	most := s.Session - time.Since(s.looked)
	if !s.Loop {
		most = min(most, s.Session/4, time.Until(deadline))
	}
	later := s.waitsForLater()
	if later {
		most = min(most, time.Second)
	}
	most = max(most, time.Millisecond)
	news, err := s.waiter.Wait(idle, s.offers(), s.skip, most)
	if news || err != nil || later || !s.Loop { // the next look tells the same error
		s.looked = time.Time{}
		return
	}
	s.vacate()
}

// complain tells an error once for all slots, and that it is over. That the
// coordination service is lost is for its connection to tell.
func (w *Worker) complain(err error) {
	if err != nil && !w.Repo.Reachable() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil && !w.complained:
		w.Log.Error("looking for work: " + err.Error())
	case err == nil && w.complained:
		w.Log.Info("looking for work again")
	}
	w.complained = err != nil
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// skip tells whether this worker leaves a ticket to others for now.
func (w *Worker) skip(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	until, ok := w.later[id]
	if ok && time.Now().After(until) {
		delete(w.later, id)
		return false
	}
	return ok
}

func (w *Worker) leave(id string, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.later[id] = time.Now().Add(d)
}

func (w *Worker) waitsForLater() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.later) > 0
}

// giveBack decides what becomes of a ticket whose attempt ended with cause in a
// way that may be tried again: it is made ready for another attempt or, if that
// was the last one, it ends with that error. While the coordination service or
// the store cannot do either, it is tried again until it is known that the claim
// is lost.
func (s *slot) giveBack(ctx context.Context, c *queue.Claim, cause error, spare bool) (*queue.Claim, error) {
	last := c.Ticket.Clone()
	last.Attempt++
	end := !spare && last.Spent()
	if !spare {
		again := time.Duration(1<<min(c.Ticket.Attempt, 6)) * 500 * time.Millisecond
		if fault.Of(cause) == fault.MissingTool {
			again = time.Hour
		}
		s.leave(c.Ticket.ID, again)
	}
	s.rec.enter(observe.Commit)
	for said := false; ; said = true {
		var err error
		if end {
			err = s.commitError(ctx, c, fault.Errorf(fault.Of(cause), "attempt %d, the last: %w", c.Ticket.Attempt, cause))
		} else {
			err = c.Release(ctx, cause, spare)
		}
		if err == nil || errors.Is(err, queue.ErrLost) { // lost: somebody else has it already
			s.rec.gaveBack(cause, end, err)
			return nil, nil
		}
		// Otherwise on and on, also without a sign of life: as long as the session
		// may come back, the claim keeps the ticket from everybody. Who ends, ends
		// the session.
		if ctx.Err() != nil || errors.Is(cause, errStopped) || errors.Is(err, coord.ErrClosed) {
			return nil, fmt.Errorf("ticket %s: giving it back: %w", c.Ticket.ID, err)
		}
		if !said {
			s.Log.Error(fmt.Sprintf("ticket %s: giving it back: %v", c.Ticket.ID, err))
		}
		sleep(ctx, time.Second)
	}
}

// commitError completes a ticket without having run it.
func (s *slot) commitError(ctx context.Context, c *queue.Claim, cause error) error {
	t := c.Ticket.Clone()
	t.Finish(cause)
	if !isControl(t) {
		_, err := s.Repo.Commit(ctx, c, t, nil)
		return err
	}
	for {
		ctl, err := s.Repo.Prepare(ctx, t.Clone())
		if err != nil {
			return err
		}
		if ctl == nil {
			return s.Repo.Drop(ctx, c)
		}
		if _, err = s.Repo.CommitControl(ctx, c, ctl, t, nil); !errors.Is(err, repo.ErrChanged) {
			return err
		}
	}
}
