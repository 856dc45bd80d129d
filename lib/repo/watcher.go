package repo

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/distci/distci/lib/coord"
)

// watchers are those that this process has, by what they watch: a build's name,
// or "" for all.
type watchers struct {
	mu     sync.Mutex
	byName map[string]*watcher
}

// follow tells f what a watcher has seen and sees.
func (ws *watchers) follow(ctx context.Context, r *Repo, name string, f func([]Change) error) error {
	w := ws.open(ctx, r, name)
	defer ws.release(name, w)
	at := int64(-1)
	for {
		changes, next, changed, err := w.after(ctx, at)
		if err != nil {
			return err
		}
		if len(changes) > 0 {
			if err := f(changes); err != nil {
				return err
			}
		}
		if at = next; name != "" && len(changes) > 0 && changes[len(changes)-1].Over {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (ws *watchers) open(ctx context.Context, r *Repo, name string) *watcher {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.byName[name]
	if w == nil {
		// It ends with its last user, who need not be its first.
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		w = &watcher{repo: r, only: name, cancel: cancel, done: make(chan struct{}), ready: make(chan struct{}),
			shapes: map[string]*shape{}, changed: make(chan struct{}), dirty: map[string]bool{}, wake: make(chan struct{}, 1), watched: map[string]func(){}}
		if ws.byName == nil {
			ws.byName = map[string]*watcher{}
		}
		ws.byName[name] = w
		go w.run(ctx)
	}
	w.users++
	return w
}

func (ws *watchers) release(name string, w *watcher) {
	ws.mu.Lock()
	w.users--
	last := w.users == 0
	if last {
		delete(ws.byName, name)
	}
	ws.mu.Unlock()
	if last {
		w.cancel()
		<-w.done
	}
}

const (
	watchPause  = 100 * time.Millisecond // between two looks
	watchRetry  = time.Second            // after one that has failed
	watchRecent = 4096                   // changes that are kept for those who are behind
)

// watcher looks at builds for all who want to know of them.
type watcher struct {
	repo   *Repo
	only   string // the build's name; "": all
	users  int    // watchers.mu
	cancel func()
	done   chan struct{}
	ready  chan struct{} // closed after the first look

	mu      sync.Mutex
	shapes  map[string]*shape // by build's name
	recent  []Change          // the last changes
	count   int64             // of all changes so far
	changed chan struct{}     // closed with the next change
	dirty   map[string]bool   // builds to look at; "": the folder

	watched map[string]func() // what is watched, by path; stops it

	wake    chan struct{}
	watches sync.WaitGroup
}

// after returns what has changed after the first at changes. Who is too far
// behind, or has just begun, is told how all is.
func (w *watcher) after(ctx context.Context, at int64) (changes []Change, next int64, changed <-chan struct{}, err error) {
	select {
	case <-ctx.Done():
		return nil, 0, nil, ctx.Err()
	case <-w.ready:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	first := w.count - int64(len(w.recent))
	if at >= first {
		return slices.Clone(w.recent[at-first:]), w.count, w.changed, nil
	}
	for _, name := range slices.Sorted(maps.Keys(w.shapes)) {
		changes = append(changes, w.shapes[name].since(nil)...)
	}
	return changes, w.count, w.changed, nil
}

// run looks whenever something may have changed.
func (w *watcher) run(ctx context.Context) {
	defer close(w.done)
	defer w.watches.Wait()
	w.mark(w.only)
	for ready := false; ; {
		pause := watchPause
		if err := w.look(ctx); err != nil {
			pause = watchRetry // what was not looked at is dirty still
			w.poke()
		} else if !ready {
			ready = true
			close(w.ready)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
	}
}

// mark notes that something is to be looked at.
func (w *watcher) mark(name string) {
	w.mu.Lock()
	w.dirty[name] = true
	w.mu.Unlock()
	w.poke()
}

func (w *watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// look looks at all that is dirty, until nothing is.
func (w *watcher) look(ctx context.Context) error {
	for {
		name, ok := w.next()
		if !ok {
			return nil
		}
		var err error
		if name == "" {
			err = w.lookAtFolder(ctx)
		} else {
			err = w.lookAt(ctx, name)
		}
		if err != nil {
			w.mark(name)
			return err
		}
	}
}

// next takes something that is dirty.
func (w *watcher) next() (name string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.dirty {
		delete(w.dirty, name)
		return name, true
	}
	return "", false
}

// lookAtFolder finds builds that have begun. Those that have ended are told by
// their own watches.
func (w *watcher) lookAtFolder(ctx context.Context) error {
	if _, err := w.watch(ctx, buildsRoot, "", w.repo.conn.WatchChildren); err != nil {
		return err
	}
	names, err := w.repo.conn.Children(ctx, buildsRoot)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, name := range names {
		if w.shapes[name] == nil {
			w.dirty[name] = true
		}
	}
	return nil
}

// lookAt sees what has become of a build.
func (w *watcher) lookAt(ctx context.Context, name string) error {
	job, n, ok := parseBuildName(name)
	if !ok {
		return nil // not ours
	}
	// Watched first, then looked at: nothing can come in between.
	if _, err := w.watch(ctx, buildsRoot+"/"+name, name, w.repo.conn.WatchNode); err != nil {
		return err
	}
	s, err := w.repo.shapeOf(ctx, job, n)
	if err != nil {
		return err
	}
	again := false
	for _, id := range s.tickets {
		fresh, err := w.watch(ctx, claimPath(id), name, func(ctx context.Context, _ string) (coord.Watch, error) {
			return w.repo.queue.WatchClaim(ctx, id)
		})
		if err != nil {
			return err
		}
		again = again || fresh
	}
	if again { // the ticket may have been claimed before it was watched
		if s, err = w.repo.shapeOf(ctx, job, n); err != nil {
			return err
		}
	}
	w.mu.Lock()
	before := w.shapes[name]
	changes := s.since(before)
	w.shapes[name] = s
	if len(changes) > 0 {
		w.recent = append(w.recent, changes...)
		if over := len(w.recent) - watchRecent; over > 0 {
			w.recent = slices.Clone(w.recent[over:])
		}
		w.count += int64(len(changes))
		close(w.changed)
		w.changed = make(chan struct{})
	}
	if s.over && w.only == "" {
		delete(w.shapes, name)
	}
	w.mu.Unlock()
	if before != nil {
		for _, id := range before.tickets {
			if !slices.Contains(s.tickets, id) {
				w.unwatch(claimPath(id))
			}
		}
	}
	if s.over {
		w.unwatch(buildsRoot + "/" + name)
	}
	return nil
}

// claimPath stands among the paths that are watched for the claim of a ticket.
func claimPath(id string) string { return "claim " + id }

// watch has the name marked when what is at the path changes, once. If that is
// watched already it does nothing; fresh tells that it was not.
func (w *watcher) watch(ctx context.Context, path, name string, begin func(context.Context, string) (coord.Watch, error)) (fresh bool, err error) {
	w.mu.Lock()
	there := w.watched[path] != nil
	w.mu.Unlock()
	if there {
		return false, nil
	}
	watch, err := begin(ctx, path)
	if err != nil {
		return false, err
	}
	ctx, stop := context.WithCancel(ctx)
	w.mu.Lock()
	w.watched[path] = stop
	w.mu.Unlock()
	w.watches.Go(func() {
		defer watch.Stop()
		defer stop()
		select {
		case <-ctx.Done():
		case <-watch.C():
			w.mu.Lock()
			if ctx.Err() == nil { // it is still the one of this path
				delete(w.watched, path)
			}
			w.mu.Unlock()
			w.mark(name)
		}
	})
	return true, nil
}

func (w *watcher) unwatch(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if stop := w.watched[path]; stop != nil {
		stop()
		delete(w.watched, path)
	}
}
