package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

const (
	logDelay = 100 * time.Millisecond // a byte waits at most so long before it is stored
	logBatch = 64 << 10               // or until there are so many
	logLimit = 1 << 20                // a writer that is faster than the store waits
	logPoll  = 100 * time.Millisecond // how often a follower looks
)

// ErrLogFull: the step has printed more than its log may hold. What it printed
// up to there is in the log.
var ErrLogFull = fault.Errorf(fault.Verdict, "too much output")

// Log is the console of one attempt at a step, as it is written. The store
// gets it in batches; memory is bounded.
type Log struct {
	store store.Store
	key   string
	ctx   context.Context

	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte
	offset int64 // bytes stored
	room   int64 // bytes that may still be written; negative: there is no limit
	full   bool  // something was not taken for want of room
	urgent bool  // store what there is without delay
	closed bool
	err    error // the store's; nothing is taken after it
	done   chan struct{}
}

// NewLog begins the log of an attempt. It ends when Close is called; ctx only
// bounds the store's operations.
func (r *Repo) NewLog(ctx context.Context, job string, n ticket.Number, step string, attempt int) *Log {
	// The first batch does not wait: the log is made while the step starts.
	l := &Log{store: r.store, key: logKey(job, n, step, attempt), ctx: ctx, urgent: true, room: -1, done: make(chan struct{})}
	l.cond = sync.NewCond(&l.mu)
	go l.flush()
	return l
}

// Limit bounds what may be written from now on, notes not counted, to n bytes.
func (l *Log) Limit(n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room = n
}

// Full tells whether something was not taken because of the limit.
func (l *Log) Full() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.full
}

// Write takes p; it waits while the store is behind. Of what is more than the
// limit it takes the beginning: ErrLogFull.
func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.room < 0 || int64(len(p)) <= l.room {
		n, err := l.take(p)
		if l.room >= 0 {
			l.room -= int64(n)
		}
		return n, err
	}
	n, err := l.take(p[:l.room])
	l.room -= int64(n)
	if err == nil {
		l.full, err = true, ErrLogFull
	}
	return n, err
}

// take adds p to what is to be stored.
func (l *Log) take(p []byte) (int, error) {
	for len(l.buf) >= logLimit && l.err == nil && !l.closed {
		l.cond.Wait()
	}
	if l.err != nil {
		return 0, l.err
	}
	if l.closed {
		return 0, io.ErrClosedPipe
	}
	l.buf = append(l.buf, p...)
	l.cond.Broadcast()
	return len(p), nil
}

// Err is the error that the store gave, if any.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// flush stores what was written until the log is closed.
func (l *Log) flush() {
	defer close(l.done)
	var spare []byte
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		for len(l.buf) == 0 && !l.closed {
			l.cond.Wait()
		}
		if len(l.buf) == 0 || l.err != nil {
			return
		}
		if len(l.buf) < logBatch && !l.closed {
			timer := time.AfterFunc(logDelay, func() {
				l.mu.Lock()
				l.urgent = true
				l.cond.Broadcast()
				l.mu.Unlock()
			})
			for len(l.buf) < logBatch && !l.closed && !l.urgent {
				l.cond.Wait()
			}
			timer.Stop()
			l.urgent = false
		}
		batch := l.buf
		l.buf = spare[:0]
		l.cond.Broadcast()
		l.mu.Unlock()
		err := l.append(batch)
		l.mu.Lock()
		spare = batch
		if err != nil {
			l.err = err
			l.cond.Broadcast()
			return
		}
		l.offset += int64(len(batch))
	}
}

// append stores a batch, trying again while the store says that it may help.
func (l *Log) append(batch []byte) (err error) {
	for i := range 6 {
		if err = l.store.Append(l.ctx, l.key, l.offset, batch); err == nil {
			return nil
		}
		if errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrConflict) || l.ctx.Err() != nil {
			break
		}
		select {
		case <-l.ctx.Done():
		case <-time.After(50 * time.Millisecond << i):
		}
	}
	return fault.Errorf(fault.Temporary, "storing the log: %w", err)
}

// Close stores the rest and makes all of it safe. It returns the first error
// of the store, of whichever write.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	l.cond.Broadcast()
	l.mu.Unlock()
	<-l.done
	if l.err != nil || l.offset == 0 {
		return l.err
	}
	return fault.Wrap(fault.Temporary, l.store.Sync(l.ctx, l.key))
}

// AppendConsole appends to a build's log what a worker without a log of its
// own sends: to the log of the step that it has leased, so that it stands in its
// place. The log of a step that distci-claim runs is that one's alone; what is
// sent beside it comes at the end. Errors: ErrNoBuild.
func (r *Repo) AppendConsole(ctx context.Context, job string, n ticket.Number, p []byte) error {
	b, err := r.Build(ctx, job, n)
	if err != nil {
		return err
	}
	leased, err := r.leased(ctx, b)
	if err != nil {
		return err
	}
	key := buildPrefix(job, n) + "log/console"
	if len(leased) > 0 {
		t := leased[0].Ticket
		key = logKey(job, n, t.Step, t.Attempt)
	}
	for {
		info, err := r.store.Stat(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		err = r.store.Append(ctx, key, info.Size, p)
		if errors.Is(err, store.ErrConflict) {
			continue // another frontend was faster
		}
		if err != nil {
			return err
		}
		return r.store.Sync(ctx, key)
	}
}

// Console writes a build's log so far to w: the attempts of its steps, one
// after the other. Errors: ErrNoBuild.
func (r *Repo) Console(ctx context.Context, job string, n ticket.Number, w io.Writer) error {
	if err := r.exists(ctx, job, n); err != nil {
		return err
	}
	keys, err := r.logKeys(ctx, job, n)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if _, err := r.copyLog(ctx, w, key, 0); err != nil {
			return err
		}
	}
	return nil
}

// Follow writes a build's log to w as it comes, until the build is finished.
// Errors: ErrNoBuild.
func (r *Repo) Follow(ctx context.Context, job string, n ticket.Number, w io.Writer) error {
	read := map[string]int64{} // bytes of each log that were written
	for {
		// The state first: what it says is complete has its whole log in the store.
		b, err := r.Build(ctx, job, n)
		if err != nil {
			return err
		}
		keys, err := r.logKeys(ctx, job, n)
		if err != nil {
			return err
		}
		for _, key := range keys {
			k, err := r.copyLog(ctx, w, key, read[key])
			read[key] += k
			if err != nil {
				return err
			}
			if r.growing(b, job, n, key) {
				break // those behind it wait, so that lines do not mix
			}
		}
		if b.State.Status == build.Complete {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(logPoll):
		}
	}
}

// growing tells whether more is to come to a log.
func (r *Repo) growing(b *build.Build, job string, n ticket.Number, key string) bool {
	for step, t := range b.State.Tasks {
		if t.Status == ticket.Running && key == logKey(job, n, step, t.Attempt) {
			return true
		}
	}
	return false
}

// StepLog writes the log of one attempt (0: the last) at a step to w.
func (r *Repo) StepLog(ctx context.Context, job string, n ticket.Number, step string, attempt int, w io.Writer) error {
	b, err := r.Build(ctx, job, n)
	if err != nil {
		return err
	}
	t := b.State.Tasks[step]
	if t == nil {
		return fault.Errorf(fault.Unavailable, "no such step: %q", step)
	}
	if attempt == 0 {
		attempt = t.Attempt
	}
	_, err = r.copyLog(ctx, w, logKey(job, n, step, attempt), 0)
	return err
}

func (r *Repo) logKeys(ctx context.Context, job string, n ticket.Number) ([]string, error) {
	var keys []string
	for after := ""; ; {
		infos, err := r.store.List(ctx, buildPrefix(job, n)+"log/", after, 1000)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			keys = append(keys, i.Key)
			after = i.Key
		}
		if len(infos) < 1000 {
			return keys, nil
		}
	}
}

// copyLog writes an object from offset on to w.
func (r *Repo) copyLog(ctx context.Context, w io.Writer, key string, offset int64) (int64, error) {
	rd, _, err := r.store.Get(ctx, key, offset, -1)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer rd.Close()
	return io.Copy(w, rd)
}

// Note appends a line of the program's own to a log, to which no limit applies.
func (l *Log) Note(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	start := ""
	if l.full { // who knows where the program's line was cut
		start = "\n"
	}
	_, _ = l.take(fmt.Appendf(nil, start+"distci: "+format+"\n", args...)) // Close tells
}
