package local

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

// How often the file is looked at while there are watches. A look without
// news costs some microseconds.
const (
	pollLost   = time.Second           // for a poke that was lost with its process
	pollAlways = 20 * time.Millisecond // where the system gives us no inotify
	settle     = time.Millisecond      // at least this between two looks: bursts become one
)

// watcher holds the connection's watches. The connection eye serves both to
// take a watch's stamp and to look for news, both under mu: so a change is
// either before the stamp, or it is news when eye looks next.
type watcher struct {
	c      *conn
	wake   chan struct{}
	active atomic.Bool // there are watches
	poll   time.Duration

	mu      sync.Mutex
	watches map[*watch]struct{}
	version int64 // of the data when eye looked last
	closed  bool
}

// stamp changes when a watched thing does.
type stamp struct {
	path         string // the node, or its nearest parent if there is none
	czxid, mzxid int64  // of children, or of that parent: its pzxid
}

type watch struct {
	w        *watcher
	path     string
	children bool
	stamp    stamp
	c        chan struct{}
}

// C is closed at the news.
func (x *watch) C() <-chan struct{} { return x.c }

// Stop frees the watch.
func (x *watch) Stop() {
	x.w.mu.Lock()
	defer x.w.mu.Unlock()
	x.w.drop(x)
}

func newWatcher(c *conn) *watcher {
	return &watcher{c: c, wake: make(chan struct{}, 1), poll: pollLost, watches: map[*watch]struct{}{}}
}

// WatchNode watches for a node's creation, change or deletion. While there is
// no such node, other news of its parent's children closes the watch, too.
func (c *conn) WatchNode(ctx context.Context, path string) (coord.Watch, error) {
	return c.watcher.add(ctx, path, false)
}

// WatchChildren watches for the creation or deletion of a node's children, and
// for its own deletion.
func (c *conn) WatchChildren(ctx context.Context, path string) (coord.Watch, error) {
	return c.watcher.add(ctx, path, true)
}

func (w *watcher) add(ctx context.Context, path string, children bool) (coord.Watch, error) {
	if err := coord.CheckPath(path); err != nil {
		return nil, fmt.Errorf("coord: %q: %w", path, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("coord: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.c.closed() {
		return nil, errClosed
	}
	x := &watch{w: w, path: path, children: children, c: make(chan struct{})}
	var err error
	if x.stamp, err = w.take(x); err != nil {
		return nil, explain(w.c.file.path, err)
	}
	if children && x.stamp.path != path {
		return nil, fmt.Errorf("coord: %s: %w", path, coord.ErrNoNode)
	}
	w.watches[x] = struct{}{}
	if !w.active.Swap(true) {
		w.nudge()
	}
	return x, nil
}

const sqlStamp = `select czxid, mzxid, pzxid from node where parent=? and name=?`

// take reads what x watches. A node that comes and goes between two looks
// leaves its trace in its parent.
func (w *watcher) take(x *watch) (stamp, error) {
	for path := x.path; ; path, _ = split(path) {
		parent, name := split(path)
		s := stamp{path: path}
		var pzxid int64
		found, err := w.c.file.eye.row(sqlStamp, []any{parent, name}, &s.czxid, &s.mzxid, &pzxid)
		if err != nil {
			return s, err
		}
		if found {
			if x.children || path != x.path {
				s.mzxid = pzxid
			}
			return s, nil
		}
		if path == "/" {
			return s, fault.Errorf(fault.Config, "coord: %s: damaged: it has no root", w.c.file.path)
		}
	}
}

// drop forgets x. Its caller holds mu.
func (w *watcher) drop(x *watch) {
	delete(w.watches, x)
	w.active.Store(len(w.watches) > 0)
}

// nudge makes run look, if there is anything to look for.
func (w *watcher) nudge() {
	if w != nil && w.active.Load() {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// look closes the watches whose thing has changed.
func (w *watcher) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.c.file.eye
	var version, earliest int64
	_, err := l.row(`pragma data_version`, nil, &version)
	if err == nil && version == w.version {
		return
	}
	w.version = version
	for x := range w.watches {
		// Who watches looks again, and meets the error there.
		if now, err := w.take(x); err != nil || now != x.stamp {
			w.drop(x)
			close(x.c)
		}
	}
	// A session that began after the keeper looked may be due before it does.
	if _, err := l.row(sqlEarliest, nil, &earliest); err == nil {
		w.c.due(earliest)
	}
}

// run looks for news while there are watches, and sleeps while there are none.
func (w *watcher) run() {
	var n notifier
	defer n.off()
	for {
		if !w.active.Load() {
			n.off()
			select {
			case <-w.wake:
			case <-w.c.done:
				return
			}
			continue
		}
		poll := w.poll
		if err := n.on(w.c.gate.file.Name()); err != nil {
			poll = pollAlways
		}
		w.look()
		looked := time.Now()
		timer := time.NewTimer(poll)
		select {
		case <-w.wake:
		case <-n.events:
		case <-n.errors:
		case <-timer.C:
		case <-w.c.done:
			timer.Stop()
			return
		}
		timer.Stop()
		if burst := settle - time.Since(looked); burst > 0 && !pause(w.c.done, burst) {
			return
		}
	}
}

// pause waits, and tells whether it was for so long.
func pause(done <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-done:
		return false
	}
}

// close closes all watches: their owners look again and learn that the
// connection is closed.
func (w *watcher) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	for x := range w.watches {
		w.drop(x)
		close(x.c)
	}
}

// notifier tells of pokes through inotify, while it is on.
type notifier struct {
	w      *fsnotify.Watcher
	events <-chan fsnotify.Event
	errors <-chan error
	failed error // why there is none; not tried again
}

func (n *notifier) on(path string) error {
	if n.w != nil || n.failed != nil {
		return n.failed
	}
	w, err := fsnotify.NewWatcher()
	if err == nil {
		if err = w.Add(path); err != nil {
			w.Close()
		}
	}
	if err != nil {
		n.failed = err
		return err
	}
	*n = notifier{w: w, events: w.Events, errors: w.Errors}
	return nil
}

func (n *notifier) off() {
	if n.w != nil {
		n.w.Close()
	}
	*n = notifier{}
}
