package member

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/distci/distci/lib/coord"
)

const (
	// entry is how long a process must be there to become a member. One that
	// finds no work, or only a little, is gone before that, and costs no write.
	entry = 100 * time.Millisecond
	// again is how often a member is asked whether it is still as it was.
	again = 30 * time.Second
)

// Join makes this process a member a moment from now, and keeps it one: what
// describe tells, which may change, is written to its node, and when its
// session has expired, the node is made again under the next one.
//
// The function that is returned ends that. The node goes with the session, as
// the connection is closed.
func Join(conn coord.Conn, describe func() Info, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	k := &keeper{conn: conn, describe: describe, log: log, path: root + "/" + uuid.NewString(), again: again}
	var g sync.WaitGroup
	g.Go(func() { k.keep(ctx) })
	return func() {
		cancel()
		g.Wait()
	}
}

// keeper keeps one node.
type keeper struct {
	conn     coord.Conn
	path     string
	describe func() Info
	log      *slog.Logger
	again    time.Duration

	session int64     // with which the node goes; 0: it is not there, or not known to be
	data    []byte    // of the node
	asked   time.Time // when describe was asked last
	failed  bool
}

// keep looks a few times in each session's time-out whether the session is
// still the same, which asks nobody.
func (k *keeper) keep(ctx context.Context) {
	timer := time.NewTimer(entry)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		k.complain(ctx, k.tend(ctx))
		timer.Reset(max(k.conn.Session().Timeout/3, entry))
	}
}

// complain tells once that this process is not shown. That there is no service
// at the moment is the connection's to tell.
func (k *keeper) complain(ctx context.Context, err error) {
	switch {
	case err == nil:
		k.failed = false
	case k.failed, ctx.Err() != nil, errors.Is(err, coord.ErrUnknown), errors.Is(err, coord.ErrExpired), errors.Is(err, coord.ErrClosed):
	default:
		k.failed = true
		k.log.Warn("this process is not shown among the members: " + err.Error())
	}
}

// tend does what is due.
func (k *keeper) tend(ctx context.Context) error {
	session := k.conn.Session().ID
	if session == 0 || session == k.session && time.Since(k.asked) < k.again {
		return nil
	}
	data, err := json.Marshal(k.describe())
	if err != nil {
		return err
	}
	k.asked = time.Now()
	if session == k.session {
		if bytes.Equal(data, k.data) {
			return nil
		}
		_, err = k.conn.Txn(ctx, coord.Set(k.path, data, coord.AnyVersion))
	}
	if session != k.session || errors.Is(err, coord.ErrNoNode) { // somebody may have removed it
		session, err = k.create(ctx, data)
	}
	if err != nil {
		k.session = 0 // it is made again, whatever has become of it
		return err
	}
	k.session, k.data = session, data
	return nil
}

// create makes the node, and tells under which session.
func (k *keeper) create(ctx context.Context, data []byte) (session int64, err error) {
	for range 3 {
		node := coord.CreateEphemeral(k.path, data)
		var stats []coord.Stat
		stats, err = k.conn.Txn(ctx, node)
		switch {
		case err == nil:
			return stats[0].Owner, nil
		case errors.Is(err, coord.ErrNodeExists):
			// From a session before, or by a try whose answer was lost: nobody
			// else has this name.
			if stats, err = k.conn.Txn(ctx, coord.Delete(k.path, coord.AnyVersion), node); err == nil {
				return stats[1].Owner, nil
			}
			if !errors.Is(err, coord.ErrNoNode) {
				return 0, err
			}
		case errors.Is(err, coord.ErrNoNode): // the first member
			if err := coord.EnsurePath(ctx, k.conn, root); err != nil {
				return 0, err
			}
		default:
			return 0, err
		}
	}
	return 0, err
}
