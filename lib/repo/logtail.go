package repo

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/distci/distci/lib/store"
)

const (
	logPoll     = 100 * time.Millisecond // how often a log is looked at that nobody tells of
	logSlowPoll = time.Second            // and one of which the store tells
	tailPiece   = 256 << 10              // bytes that are read at a time
)

// tails are the logs that somebody in this process follows. However many do so,
// the store and the coordination are asked once.
type tails struct {
	mu    sync.Mutex
	byKey map[string]*tail
}

// tail follows one log for all who want it.
type tail struct {
	users  int // tails.mu
	cancel func()
	done   chan struct{}

	mu      sync.Mutex
	size    int64         // so many bytes are there
	recent  []byte        // the last ones of them; what it holds is never written again
	ended   bool          // nothing will be added
	err     error         // it cannot go on
	changed chan struct{} // closed when something of this changes
}

// open returns the tail of a log, which begins at the log's end. The caller
// gives it back with release.
func (ts *tails) open(ctx context.Context, key string, follow func(context.Context, *tail)) *tail {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.byKey[key]
	if t == nil {
		// It ends with its last user, who need not be its first.
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		t = &tail{size: -1, cancel: cancel, done: make(chan struct{}), changed: make(chan struct{})}
		if ts.byKey == nil {
			ts.byKey = map[string]*tail{}
		}
		ts.byKey[key] = t
		go func() {
			defer close(t.done)
			follow(ctx, t)
			// Who comes from now on begins anew.
			ts.mu.Lock()
			defer ts.mu.Unlock()
			if ts.byKey[key] == t {
				delete(ts.byKey, key)
			}
		}()
	}
	t.users++
	return t
}

func (ts *tails) release(key string, t *tail) {
	ts.mu.Lock()
	t.users--
	last := t.users == 0
	if last && ts.byKey[key] == t {
		delete(ts.byKey, key)
	}
	ts.mu.Unlock()
	if last {
		t.cancel()
		<-t.done
	}
}

// set changes what the tail tells.
func (t *tail) set(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
	close(t.changed)
	t.changed = make(chan struct{})
}

// follow looks at a log until it is complete, which live and the seal tell, or
// nobody wants it any more.
func (r *Repo) follow(ctx context.Context, t *tail, key string, live func(context.Context) (bool, error)) {
	fail := func(err error) { t.set(func() { t.err = err }) }
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var told, sealed <-chan struct{}
	var asked time.Time
	for over := false; ; {
		// Watched first, then looked at: nothing can come in between.
		if told == nil {
			told = store.Watch(watching, r.store, key)
		}
		if sealed == nil && told != nil {
			sealed = store.Watch(watching, r.store, indexKey(key))
		}
		news, end, err := r.look(ctx, t, key)
		switch {
		case err != nil:
			fail(err)
			return
		case end || over && !news:
			t.set(func() { t.ended = true })
			return
		case news:
			continue
		case time.Since(asked) >= logSlowPoll:
			alive, err := live(ctx)
			if err != nil {
				fail(err)
				return
			}
			asked = time.Now()
			if over = !alive; over {
				continue // what came before it ended is there now
			}
		}
		wait := logPoll
		if told != nil && sealed != nil {
			wait = logSlowPoll
		}
		timer := time.NewTimer(wait)
		var open bool
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case _, open = <-told:
			if !open {
				told = nil
			}
		case _, open = <-sealed:
			if !open {
				sealed = nil
			}
		}
		timer.Stop()
	}
}

// look takes in what is new in a log; end: that was the last of it.
func (r *Repo) look(ctx context.Context, t *tail, key string) (news, end bool, err error) {
	size := t.size // nobody else changes it
	if size < 0 {
		info, err := r.store.Stat(ctx, key)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return false, false, err
		}
		s, err := r.readSeal(ctx, key, info.Size)
		if err != nil {
			return false, false, err
		}
		if s != nil {
			info.Size = min(info.Size, s.size)
		}
		t.set(func() { t.size = info.Size })
		return s == nil, s != nil, nil
	}
	rd, _, err := r.store.Get(ctx, key, size, tailPiece)
	if errors.Is(err, store.ErrNotFound) { // not yet, or it was deleted
		return false, size > 0, nil
	}
	if err != nil {
		return false, false, err
	}
	b, err := io.ReadAll(rd)
	rd.Close()
	if err != nil {
		return false, false, err
	}
	if len(b) > 0 {
		t.set(func() {
			old := t.recent[max(0, len(t.recent)-logStride):]
			t.recent = append(append(make([]byte, 0, len(old)+len(b)), old...), b...)
			t.size += int64(len(b))
		})
		return true, false, nil
	}
	s, err := r.readSeal(ctx, key, size)
	if err != nil || s == nil {
		return false, false, err
	}
	return false, size >= s.size, nil
}

// copyTail writes a log from offset on to w as it grows, and returns where it
// was when it ended, or ctx did.
func (r *Repo) copyTail(ctx context.Context, w io.Writer, key string, t *tail, offset int64) (int64, error) {
	for {
		t.mu.Lock()
		size, recent, ended, err, changed := t.size, t.recent, t.ended, t.err, t.changed
		t.mu.Unlock()
		switch behind := size - int64(len(recent)); {
		case offset < behind: // also when the tail has just begun
			k, err := r.copyRange(ctx, w, key, offset, behind-offset)
			if offset += k; err != nil || k == 0 {
				return offset, err
			}
			continue
		case offset < size:
			k, err := w.Write(recent[offset-behind:])
			if offset += int64(k); err != nil {
				return offset, err
			}
			continue
		}
		if ended || err != nil {
			return offset, err
		}
		select {
		case <-ctx.Done():
			return offset, ctx.Err()
		case <-changed:
		}
	}
}

// copyRange writes n bytes of an object from offset on to w, or what there is
// of them.
func (r *Repo) copyRange(ctx context.Context, w io.Writer, key string, offset, n int64) (int64, error) {
	rd, _, err := r.store.Get(ctx, key, offset, n)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer rd.Close()
	return io.Copy(w, rd)
}
