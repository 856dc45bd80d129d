package queue

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/distci/distci/lib/coord"
)

// front is how many of the waiting workers that offer the same look at the
// queue. Several, because one may be slow or dead.
const front = 4

// Waiter is a worker that waits for tickets.
//
// Waiting workers that offer the same capabilities stand in a line, one
// ephemeral node each. The first few watch the queue; each of the others
// watches the one who is that many places ahead, and looks again where it
// stands when that one has left. So one ticket wakes a few workers, however
// many wait, and each that takes one and leaves wakes one more. That nobody is
// forgotten: who is not in front watches somebody ahead who is there, and who is
// first of all watches the queue.
//
// A Waiter is for one goroutine.
type Waiter struct {
	q       *Queue
	line    string // the folder of the line; "": in none
	place   string // the name of the node in it
	session int64  // that the node goes with
	sure    bool   // the node is known to have been made

	ahead coord.Watch // on the one ahead; nil: it is to be found out who that is
}

// Waiter makes a worker that does not wait yet.
func (q *Queue) Waiter() *Waiter { return &Waiter{q: q} }

// lineOf is the line of the workers with these capabilities.
func lineOf(offer []string) string {
	h := fnv.New64a()
	h.Write([]byte(strings.Join(slices.Compact(slices.Sorted(slices.Values(offer))), "+")))
	return fmt.Sprintf("%s/%016x", lineRoot, h.Sum64())
}

// Wait returns true when there may be a ticket for a worker with these
// capabilities, and false after most, or when ctx is done. The place in the
// line is kept for the next time. Tickets for which skip (which may be nil) is
// true do not count.
func (w *Waiter) Wait(ctx context.Context, offer []string, skip func(id string) bool, most time.Duration) (bool, error) {
	within, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	news, err := w.wait(within, offer, skip)
	if within.Err() != nil {
		return false, nil
	}
	return news, err
}

func (w *Waiter) wait(ctx context.Context, offer []string, skip func(id string) bool) (bool, error) {
	for {
		if err := w.join(ctx, lineOf(offer)); err != nil {
			return false, err
		}
		if w.ahead == nil {
			inFront, err := w.look(ctx)
			if err != nil {
				return false, err
			}
			if inFront {
				return true, w.q.watch(ctx, offer, skip)
			}
			continue
		}
		select {
		case <-w.ahead.C():
			w.forget()
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// forget lets go of the watch on the one ahead.
func (w *Waiter) forget() {
	if w.ahead != nil {
		w.ahead.Stop()
		w.ahead = nil
	}
}

// join takes a place at the end of the line, unless it has one.
func (w *Waiter) join(ctx context.Context, line string) error {
	session := w.q.conn.Session().ID
	if session == 0 {
		return fmt.Errorf("queue: no place in the line: %w", coord.ErrExpired)
	}
	if w.line != line || w.session != session {
		w.Leave(ctx)
		// By the clock, more or less: who comes first is a matter of fairness only.
		w.line, w.session, w.sure = line, session, false
		w.place = fmt.Sprintf("%015x-%08x", time.Now().UnixMicro(), w.q.intn(1<<31-1))
	}
	for !w.sure {
		stats, err := w.q.conn.Txn(ctx, coord.CreateEphemeral(line+"/"+w.place, nil))
		switch {
		case err == nil: // perhaps in a session that has begun since
			w.session, w.sure = stats[0].Owner, true
		case errors.Is(err, coord.ErrNodeExists): // by a try whose answer was lost
			w.sure = true
		case errors.Is(err, coord.ErrNoNode):
			if err := coord.EnsurePath(ctx, w.q.conn, line); err != nil {
				return err
			}
		default:
			return err
		}
	}
	return nil
}

// look finds out where the worker stands, and watches the one ahead unless it
// is in front.
func (w *Waiter) look(ctx context.Context) (inFront bool, err error) {
	names, err := w.q.conn.Children(ctx, w.line)
	if err != nil {
		return false, err
	}
	i, found := slices.BinarySearch(names, w.place)
	switch {
	case !found: // the session is another one, or we have looked at the past
		w.line = ""
		return false, nil
	case i < front:
		return true, nil
	}
	path := w.line + "/" + names[i-front]
	if w.ahead, err = w.q.conn.WatchNode(ctx, path); err != nil {
		w.ahead = nil
		return false, err
	}
	if _, _, err = w.q.conn.Get(ctx, path); err != nil {
		w.forget()
		if errors.Is(err, coord.ErrNoNode) {
			err = nil // look again
		}
	}
	return false, err
}

// Leave gives up the place in the line. A worker that has got a ticket, or
// waits no longer, must leave: others stand behind it.
func (w *Waiter) Leave(ctx context.Context) {
	for w.line != "" && w.session == w.q.conn.Session().ID { // else it has gone by itself
		_, err := w.q.conn.Txn(ctx, coord.Delete(w.line+"/"+w.place, coord.AnyVersion))
		if !errors.Is(err, coord.ErrUnknown) || w.q.pause(ctx) != nil {
			break
		}
	}
	w.line = ""
	w.forget()
}

// watch returns when there may be a ticket in the queue.
func (q *Queue) watch(ctx context.Context, offer []string, skip func(id string) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	news := make(chan struct{}, 1)
	watch := func(path string) error {
		w, err := q.conn.WatchChildren(ctx, path)
		if errors.Is(err, coord.ErrNoNode) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer w.Stop()
			select {
			case <-w.C():
				select {
				case news <- struct{}{}:
				default:
				}
			case <-ctx.Done():
			}
		}()
		return nil
	}
	if err := q.watchReady(ctx, offer, watch); err != nil {
		return err
	}
	if places, err := q.oldest(ctx, offer, skip); err != nil || len(places) > 0 {
		return err
	}
	select {
	case <-news:
	case <-ctx.Done():
	}
	return nil
}

// watchReady watches all folders in which a ticket could become ready.
func (q *Queue) watchReady(ctx context.Context, offer []string, watch func(path string) error) error {
	if err := watch(queueRoot); err != nil {
		return err
	}
	sets, err := q.conn.Children(ctx, queueRoot)
	if err != nil {
		return err
	}
	for _, name := range sets {
		if !parseSet(name).servedBy(offer) {
			continue
		}
		root := queueRoot + "/" + name
		for _, dir := range []string{root, root + "/r"} {
			if err := watch(dir); err != nil {
				return err
			}
		}
		names, err := q.conn.Children(ctx, root+"/r")
		if err != nil && !errors.Is(err, coord.ErrNoNode) {
			return err
		}
		for _, slice := range names {
			if err := watch(root + "/r/" + slice); err != nil {
				return err
			}
		}
	}
	return nil
}
