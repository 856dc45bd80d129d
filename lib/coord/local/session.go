package local

import (
	"cmp"
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

// monotonic is the machine's monotonic clock, in nanoseconds since its boot:
// the same for all processes, and the one by which Go compares times.
func monotonic() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		panic(err) // the clock is part of every Linux
	}
	return t.Nano()
}

// bootID tells one boot of the machine from another.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fault.Errorf(fault.Config, "coord: which boot this is: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// enter begins the first session of the connection. After a reboot it ends all
// that there were.
func (c *conn) enter(ctx context.Context) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	if err := c.gate.lock(ctx, c.timeout, c.done); err != nil {
		return err
	}
	defer c.gate.unlock()
	t, err := c.begin(true)
	if err != nil {
		return err
	}
	return t.end(func() error {
		other, err := t.exec(`update meta set boot=? where boot<>?`, boot, boot)
		if err != nil {
			return err
		}
		if other > 0 {
			if _, err := t.exec(`update session set deadline=0`); err != nil {
				return err
			}
		}
		if err := t.sweep(); err != nil {
			return err
		}
		return t.newSession()
	}())
}

// leave ends the session; its ephemeral nodes go at once.
func (c *conn) leave() error {
	id := c.Session().ID
	// The connection is closed for everybody else: hence no done.
	if err := c.gate.lock(context.Background(), c.timeout, nil); err != nil {
		return err
	}
	defer c.gate.unlock()
	t, err := c.begin(false)
	if err != nil {
		return err
	}
	return t.end(t.endSession(id))
}

const (
	sqlOverdue    = `select id from session where deadline<=?`
	sqlOwned      = `select case parent when '/' then '' else parent end || '/' || name from node where owner=?`
	sqlEndSession = `delete from session where id=?`
	sqlNewSession = `insert into session values(?,?,?)`
	sqlRenew      = `update session set deadline=? where id=?`
	sqlEarliest   = `select coalesce(min(deadline), 0) from session`
)

// sweep ends the sessions that are overdue, this connection's own included.
func (t *txn) sweep() error {
	var ids []int64
	s, err := t.l.prepare(sqlOverdue)
	if err != nil {
		return err
	}
	rows, err := s.Query(t.now)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		if err := rows.Scan(&id); err != nil {
			return err
		}
		ids = append(ids, id)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, id := range ids {
		if err := t.endSession(id); err != nil {
			return err
		}
	}
	return nil
}

// endSession removes a session and its ephemeral nodes.
func (t *txn) endSession(id int64) error {
	paths, err := t.l.names(sqlOwned, id)
	if err != nil {
		return err
	}
	for _, p := range paths {
		if _, err := t.delete(coord.Delete(p, coord.AnyVersion)); err != nil {
			return err
		}
	}
	_, err = t.exec(sqlEndSession, id)
	return err
}

// newSession begins a session for this connection. Its id is the number of the
// transaction, so that none is ever used twice.
func (t *txn) newSession() error {
	t.id = t.zxid
	t.renewed = true
	_, err := t.exec(sqlNewSession, t.id, int64(t.c.timeout), t.now+int64(t.c.timeout))
	return err
}

// renew puts the deadline of this connection's session off.
func (t *txn) renew() error {
	t.renewed = true
	_, err := t.exec(sqlRenew, t.now+int64(t.c.timeout), t.id)
	return err
}

// glance is how often the keeper at least looks for the earliest deadline: a
// session that is shorter than its own may have begun since. While there are
// watches, the watcher tells of it.
const glance = time.Second

// keep renews the session at a third of its time-out, and ends those of others
// as they become overdue.
func (c *conn) keep() {
	var failed bool
	wait := min(c.timeout/3, glance)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		c.wakeAt.Store(monotonic() + int64(wait))
		timer.Reset(wait)
		select {
		case <-c.done:
			return
		case <-c.tend:
		case <-timer.C:
		}
		old := c.Session()
		var err error
		wait, err = c.renewal()
		switch {
		case c.closed():
			return
		case errors.Is(err, coord.ErrExpired):
			c.log.Warn("coordination session expired", "old", old.ID, "new", c.Session().ID)
		case err != nil && !failed:
			c.log.Warn("coordination session not renewed", "err", err)
		case err == nil && failed:
			c.log.Info("coordination session renewed again")
		}
		failed = err != nil && !errors.Is(err, coord.ErrExpired)
	}
}

// renewal does what is due and tells how long it may wait for the next time.
func (c *conn) renewal() (time.Duration, error) {
	due := c.Session().Renewed.Add(c.timeout / 3)
	earliest, err := c.earliest()
	if err == nil && (time.Until(due) <= 0 || earliest <= monotonic()) {
		// Lazy: a renewal that a loss of power undoes is worth nothing, for
		// that ends all sessions anyway.
		if err = c.update(context.Background(), true, (*txn).renew); err == nil || errors.Is(err, coord.ErrExpired) {
			var read error
			earliest, read = c.earliest()
			err = cmp.Or(err, read)
		}
	}
	if err != nil && !errors.Is(err, coord.ErrExpired) {
		return c.timeout / 10, err
	}
	wait := time.Until(c.Session().Renewed.Add(c.timeout / 3))
	wait = min(wait, time.Duration(earliest-monotonic()))
	if !c.watcher.active.Load() {
		wait = min(wait, glance)
	}
	return max(wait, time.Millisecond), err
}

// earliest reads the earliest deadline of all sessions.
func (c *conn) earliest() (deadline int64, err error) {
	err = c.file.reader(context.Background(), c.done, func(l *link) error {
		_, err := l.row(sqlEarliest, nil, &deadline)
		return err
	})
	return deadline, err
}

// due tells the keeper of a deadline that it may not know yet.
func (c *conn) due(deadline int64) {
	if deadline > 0 && deadline < c.wakeAt.Load() {
		select {
		case c.tend <- struct{}{}:
		default:
		}
	}
}
