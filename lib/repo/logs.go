package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

const (
	logDelay = 100 * time.Millisecond // a byte waits at most so long before it is stored
	logBatch = 64 << 10               // or until there are so many
	logLimit = 1 << 20                // a writer that is faster than the store waits
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

	index *indexer // of what is stored; nil: somebody else has sealed the log
}

// NewLog begins the log of an attempt. It ends when Close is called; ctx only
// bounds the store's operations.
func (r *Repo) NewLog(ctx context.Context, job string, n ticket.Number, step string, attempt int) *Log {
	// The first batch does not wait: the log is made while the step starts.
	l := &Log{store: r.store, key: logKey(job, n, step, attempt), ctx: ctx, urgent: true, room: -1, done: make(chan struct{}), index: newIndexer()}
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
		counted := l.count(batch)
		err := l.append(l.key, l.offset, batch)
		<-counted
		if err == nil {
			l.mark()
		}
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

// count takes a batch into the index and the digest while it is being stored.
// If that fails nothing is said of it: the log ends there, unsealed.
func (l *Log) count(batch []byte) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if l.index != nil {
			_, _ = l.index.Write(batch) // it has no errors
		}
	}()
	return done
}

// mark stores what the index has, if that is much. A store that fails does so
// for the log, too, and there it counts; of the index only time is lost.
func (l *Log) mark() {
	x := l.index
	if x == nil {
		return
	}
	if int64(len(x.pending))*logStride < indexLag*8 {
		return
	}
	err := l.store.Append(l.ctx, indexKey(l.key), x.stored, x.pending)
	if errors.Is(err, store.ErrConflict) {
		l.index = nil
	}
	if err == nil {
		x.stored += int64(len(x.pending))
		x.pending = x.pending[:0]
	}
}

// seal says in the index that the log is complete. Followers and readers need
// not ask anybody then; if it fails, whoever ends the build does it.
func (l *Log) seal() {
	if x := l.index; x != nil {
		_ = l.append(indexKey(l.key), x.stored, x.seal().append(x.pending))
	}
}

// append stores a batch, trying again while the store says that it may help.
func (l *Log) append(key string, offset int64, batch []byte) (err error) {
	for i := range 6 {
		if err = l.store.Append(l.ctx, key, offset, batch); err == nil {
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

// Close stores the rest, makes all of it safe and seals the log. It returns the
// first error of the store, of whichever write.
func (l *Log) Close() error {
	l.mu.Lock()
	l.closed = true
	l.cond.Broadcast()
	l.mu.Unlock()
	<-l.done
	if l.err != nil || l.offset == 0 {
		return l.err
	}
	if err := l.store.Sync(l.ctx, l.key); err != nil {
		return fault.Wrap(fault.Temporary, err)
	}
	l.seal()
	return nil
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
