package dir

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"sync"

	"github.com/fsnotify/fsnotify"

	"github.com/distci/distci/lib/store"
)

// watcher tells of changes that inotify(7) has seen: those that processes of
// this machine make. There is one of it for a store, since a user may have few
// of them, and it is only there while something is watched.
type watcher struct {
	mu     sync.Mutex
	w      *fsnotify.Watcher
	ended  chan struct{}       // closed when w's goroutine has returned
	keys   map[string][]*watch // by path
	dirs   map[string]int      // watches in each folder
	closed bool
}

type watch struct{ c chan struct{} }

// Watch implements [store.Watcher]. Errors: store.ErrNotFound if the object's
// folder is not there.
func (s *folder) Watch(ctx context.Context, key string) (<-chan struct{}, error) {
	if err := usable(ctx, key); err != nil {
		return nil, failed("watch", key, err)
	}
	// What inotify follows is a path; that it leads nowhere else, the root tells.
	if _, err := s.root.Stat(path.Dir(key)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = store.ErrNotFound
		}
		return nil, failed("watch", key, err)
	}
	name := filepath.Join(s.root.Name(), filepath.FromSlash(key))
	x, err := s.watcher.add(name)
	if err != nil {
		return nil, failed("watch", key, err)
	}
	context.AfterFunc(ctx, func() { s.watcher.remove(name, x) })
	return x.c, nil
}

func (w *watcher) add(name string) (*watch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, fs.ErrClosed
	}
	if w.w == nil {
		n, err := fsnotify.NewWatcher()
		if err != nil {
			return nil, err
		}
		w.w, w.ended, w.keys, w.dirs = n, make(chan struct{}), map[string][]*watch{}, map[string]int{}
		go w.run(n, w.ended)
	}
	dir := filepath.Dir(name)
	if w.dirs[dir] == 0 {
		if err := w.w.Add(dir); err != nil {
			w.idle()
			return nil, err
		}
	}
	x := &watch{make(chan struct{}, 1)}
	w.dirs[dir]++
	w.keys[name] = append(w.keys[name], x)
	return x, nil
}

// idle ends the use of inotify if nothing is watched.
func (w *watcher) idle() {
	if len(w.keys) == 0 && w.w != nil {
		w.w.Close()
		w.w = nil
	}
}

// remove ends a watch, unless it has ended.
func (w *watcher) remove(name string, x *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, y := range w.keys[name] {
		if y != x {
			continue
		}
		close(x.c)
		w.keys[name] = append(w.keys[name][:i:i], w.keys[name][i+1:]...)
		if len(w.keys[name]) == 0 {
			delete(w.keys, name)
		}
		dir := filepath.Dir(name)
		if w.dirs[dir]--; w.dirs[dir] == 0 {
			delete(w.dirs, dir)
			_ = w.w.Remove(dir) // the folder may be gone, and its watch with it
		}
		w.idle()
		return
	}
}

// run passes on what n tells, until n is closed.
func (w *watcher) run(n *fsnotify.Watcher, ended chan struct{}) {
	defer close(ended)
	for {
		select {
		case e, ok := <-n.Events:
			if !ok {
				return
			}
			w.tell(e.Name)
		case _, ok := <-n.Errors: // some may have been lost
			if !ok {
				return
			}
			w.tell("")
		}
	}
}

// tell wakes those who watch a path; "": all.
func (w *watcher) tell(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if name != "" {
		wake(w.keys[name])
		return
	}
	for _, watches := range w.keys {
		wake(watches)
	}
}

func wake(watches []*watch) {
	for _, x := range watches {
		select {
		case x.c <- struct{}{}:
		default: // it has not yet looked after the one before
		}
	}
}

// close ends all watches.
func (w *watcher) close() {
	w.mu.Lock()
	w.closed = true
	ended := w.ended
	for _, watches := range w.keys {
		for _, x := range watches {
			close(x.c)
		}
	}
	w.keys, w.dirs = nil, nil
	w.idle()
	w.mu.Unlock()
	if ended != nil {
		<-ended
	}
}
