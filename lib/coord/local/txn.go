package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

// txn is a transaction in work, under the gate.
type txn struct {
	c        *conn
	l        *link
	zxid     int64     // its number
	id       int64     // of this connection's session
	sent     time.Time // before now was read
	now      int64     // on the monotonic clock
	own      int64     // the deadline of this connection's session; 0: it is over
	earliest int64     // the earliest deadline of all
	renewed  bool      // the session's deadline counts from sent
	changed  bool      // nodes were changed
	lazy     bool      // needs not survive a loss of power
}

const (
	sqlBegin      = `begin immediate`
	sqlCommit     = `commit`
	sqlRollback   = `rollback`
	sqlLazy       = `pragma synchronous=normal`
	sqlDurable    = `pragma synchronous=full`
	sqlCheckpoint = `pragma wal_checkpoint(passive)`
	sqlNext       = `update meta set zxid=zxid+1 returning zxid,
  coalesce((select deadline from session where id=?), 0), coalesce((select min(deadline) from session), 0)`
)

// begin begins a transaction; end must follow. The time is read within it, so
// that nobody can judge the sessions by a later time before it is over.
func (c *conn) begin(lazy bool) (*txn, error) {
	t := &txn{c: c, l: c.file.write, lazy: lazy}
	if s := c.session.Load(); s != nil {
		t.id = s.ID
	}
	if lazy {
		if err := t.l.pragma(sqlLazy); err != nil {
			return nil, explain(c.file.path, err)
		}
	}
	_, err := t.exec(sqlBegin)
	if err == nil {
		t.sent = time.Now()
		t.now = monotonic()
		_, err = t.l.row(sqlNext, []any{t.id}, &t.zxid, &t.own, &t.earliest)
	}
	if err != nil {
		return nil, t.end(err)
	}
	return t, nil
}

// end commits the transaction if err is nil, and otherwise takes it back and
// returns err with its kind.
func (t *txn) end(err error) error {
	committing := err == nil
	if committing {
		_, err = t.exec(sqlCommit)
	}
	if err != nil {
		t.exec(sqlRollback) // an error if SQLite has rolled back already
	}
	if code(err) == sqlite3.SQLITE_FULL {
		// What is in the log already may fit into the file, and then the log
		// is used from its start again: renewals go on with the disk full.
		t.l.pragma(sqlCheckpoint)
	}
	if t.lazy {
		if err := t.l.pragma(sqlDurable); err != nil {
			t.c.log.Error("coordination file stays less durable", "err", err)
		}
	}
	var refused *coord.TxnError
	switch {
	case err == nil:
		t.committed()
		return nil
	case errors.As(err, &refused), errors.Is(err, coord.ErrExpired):
		return err
	case committing && code(err) != sqlite3.SQLITE_FULL && code(err) != sqlite3.SQLITE_BUSY:
		// The record of the commit may be in the log, and come to life when
		// the next process recovers from it.
		return fault.Errorf(fault.Temporary, "coord: %s: commit: %w: %w", t.c.file.path, coord.ErrUnknown, err)
	}
	return explain(t.c.file.path, err)
}

func (t *txn) committed() {
	if t.renewed {
		t.c.session.Store(&coord.Session{ID: t.id, Timeout: t.c.timeout, Renewed: t.sent})
	}
	if t.changed {
		t.c.gate.poke()
		t.c.watcher.nudge()
	}
}

func (t *txn) exec(query string, args ...any) (int64, error) { return t.l.exec(query, args...) }

// update runs fn in a transaction of the session that is current at the call.
// If that is over, nothing is done but to begin a new one.
func (c *conn) update(ctx context.Context, lazy bool, fn func(*txn) error) error {
	asked := c.Session().ID
	if c.closed() {
		return errClosed
	}
	if err := c.gate.lock(ctx, c.timeout, c.done); err != nil {
		return err
	}
	defer c.gate.unlock()
	if c.closed() {
		return errClosed
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("coord: %w", err)
	}
	t, err := c.begin(lazy)
	if err != nil {
		return err
	}
	if t.earliest <= t.now || t.own <= t.now {
		// On its own, so that a refusal of fn does not undo it.
		if err := t.end(t.expire()); err != nil {
			return err
		}
		if t, err = c.begin(lazy); err != nil {
			return err
		}
	}
	if t.id != asked {
		return t.end(fmt.Errorf("coord: session %x: %w", asked, coord.ErrExpired))
	}
	if err := fn(t); err != nil {
		return t.end(err)
	}
	// What is written anyway renews the session, so that a busy connection
	// needs no renewals of its own.
	if !t.renewed && t.sent.Sub(c.Session().Renewed) > c.timeout/4 {
		err = t.renew()
	}
	return t.end(err)
}

// expire ends the sessions that are overdue and replaces the own one if it is
// over.
func (t *txn) expire() error {
	if err := t.sweep(); err != nil || t.own > t.now {
		return err
	}
	return t.newSession()
}

// Txn does all operations or none. It waits for the disk even beyond the end
// of ctx, so that it can tell what came of it.
func (c *conn) Txn(ctx context.Context, ops ...coord.Op) ([]coord.Stat, error) {
	size := 0
	for i, op := range ops {
		size += len(op.Data)
		err := coord.CheckPath(op.Path)
		if err == nil && size > coord.MaxData {
			err = coord.ErrTooLarge
		}
		if err != nil {
			return nil, &coord.TxnError{Index: i, Op: op, Err: err}
		}
	}
	stats := make([]coord.Stat, len(ops))
	err := c.update(ctx, false, func(t *txn) error {
		for i, op := range ops {
			s, err := t.do(op)
			if errors.As(err, new(refusal)) {
				return &coord.TxnError{Index: i, Op: op, Err: errors.Unwrap(err)}
			}
			if err != nil {
				return err
			}
			stats[i] = s
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return stats, nil
}
