//go:build ceph && cgo

package rados

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"github.com/ceph/go-ceph/rados"

	"github.com/distci/distci/lib/store"
)

// Whoever changes an object tells of it, by a notification of Ceph's to one of
// a few RADOS objects of the index, its topics, which those watch who want to
// know. A notification names keys by their hashes, 8 bytes each; an empty one
// means any key.
//
// Nobody waits for notifications. A process has one under way for each topic,
// and what changes meanwhile goes with the next. So a writer that changes an
// object a thousand times a second sends as many as its watchers can take, and
// if nobody watches a few in a second.
const (
	topics = 16
	// unheard is how long a notification waits after one that nobody has heard.
	unheard = 100 * time.Millisecond
	// ackTime is how long a notification waits for the answers of its watchers,
	// which one that was killed cannot give: Ceph believes in it for half a
	// minute. The others have it at once.
	ackTime = time.Second
	// settle is how long Watch waits until Ceph has confirmed a watch. Its caller
	// looks by himself until then.
	settle = time.Second
	// named is the most keys that a notification names.
	named = 1000
)

// errNotWatching: there is no watch now. The caller may try it again.
var errNotWatching = errors.New("the watch is not established")

// exchange is what a connection watches, and what it tells.
type exchange struct {
	io     *rados.IOContext // of the index; watches belong to it
	topics [topics]topic

	mu      sync.Mutex
	closing chan struct{}
	closed  bool
	wg      sync.WaitGroup
}

// topic is a RADOS object that is watched and notified.
type topic struct {
	x    *exchange
	name string

	mu      sync.Mutex
	subs    map[uint64][]*subscriber // by the hash of their key
	running bool                     // a watch is there, or is being made
	tried   chan struct{}            // closed as soon as it is there, or cannot be
	err     error                    // why it is not
	slow    bool                     // somebody has waited for it in vain
	again   time.Time                // when it may be tried again

	pending map[uint64]bool // what is to be told
	telling bool
}

type subscriber struct{ c chan struct{} }

func newExchange(io *rados.IOContext) *exchange {
	x := &exchange{io: io, closing: make(chan struct{})}
	for i := range x.topics {
		x.topics[i] = topic{x: x, name: fmt.Sprintf("watch.%x", i), subs: map[uint64][]*subscriber{}, pending: map[uint64]bool{}}
	}
	return x
}

// topic of a key, and its hash.
func (x *exchange) topic(key string) (*topic, uint64) {
	h := fnv.New64a()
	h.Write([]byte(key))
	sum := h.Sum64()
	return &x.topics[sum%topics], sum
}

// start runs f in a goroutine, unless the connection is being closed.
func (x *exchange) start(f func()) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.closed {
		x.wg.Go(f)
	}
	return !x.closed
}

// close ends all watches. It tells whether nothing is under way any more:
// librados waits without end for a cluster that does not answer to a watch or
// a notification, and what it uses must then be left alone.
func (x *exchange) close(limit time.Duration) bool {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	close(x.closing)
	done := make(chan struct{})
	go func() {
		x.wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// Watch implements [store.Watcher].
func (p *pool) Watch(ctx context.Context, key string) (<-chan struct{}, error) {
	err := usable(ctx, key)
	if err == nil {
		t, hash := p.exchange.topic(key)
		var s *subscriber
		if s, err = t.subscribe(ctx, hash); err == nil {
			return s.c, nil
		}
	}
	return nil, failed("watch", key, err)
}

// subscribe waits until the topic is watched, not for long.
func (t *topic) subscribe(ctx context.Context, hash uint64) (*subscriber, error) {
	t.mu.Lock()
	if !t.running {
		if time.Now().Before(t.again) {
			defer t.mu.Unlock()
			return nil, t.err
		}
		t.running, t.slow, t.tried, t.err = true, false, make(chan struct{}), errNotWatching
		if !t.x.start(t.watch) {
			t.running = false
			t.mu.Unlock()
			return nil, errClosed
		}
	}
	tried, limit := t.tried, settle
	if t.slow {
		limit = 0
	}
	s := &subscriber{make(chan struct{}, 1)}
	t.subs[hash] = append(t.subs[hash], s)
	t.mu.Unlock()

	timer := time.NewTimer(limit)
	defer timer.Stop()
	var late error
	select {
	case <-tried:
	case <-timer.C:
		late = errNotWatching
	case <-ctx.Done():
		late = ctx.Err()
	}
	t.mu.Lock()
	err := t.err
	if errors.Is(late, errNotWatching) && err != nil {
		t.slow = true
	}
	t.mu.Unlock()
	if err != nil {
		t.unsubscribe(hash, s)
		if late != nil {
			err = late
		}
		return nil, err
	}
	context.AfterFunc(ctx, func() { t.unsubscribe(hash, s) })
	return s, nil
}

// unsubscribe closes the subscriber's channel, if it is still open.
func (t *topic) unsubscribe(hash uint64, s *subscriber) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.subs[hash], s); i >= 0 {
		close(s.c)
		t.subs[hash] = slices.Delete(t.subs[hash], i, i+1)
		if len(t.subs[hash]) == 0 {
			delete(t.subs, hash)
		}
	}
}

// watch makes the watch and passes on what it tells, until it is lost or the
// connection is closed. It stays when nobody needs it: whoever follows one log
// follows others, and to remove a watch while it is notified is not safe.
func (t *topic) watch() {
	w, err := t.x.io.Watch(t.name)
	if code(err) == eNoEntry {
		if err = t.x.io.Create(t.name, rados.CreateIdempotent); err == nil {
			w, err = t.x.io.Watch(t.name)
		}
	}
	t.mu.Lock()
	t.err = err
	close(t.tried)
	t.mu.Unlock()
	if err == nil {
		t.serve(w)
		release(w)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running = false
	if err != nil {
		t.again = time.Now().Add(settle)
	}
	// Those who watched may have missed something, and look.
	for _, subs := range t.subs {
		for _, s := range subs {
			close(s.c)
		}
	}
	clear(t.subs)
}

// serve passes on what a watch tells.
func (t *topic) serve(w *rados.Watcher) {
	for {
		select {
		case e := <-w.Events():
			_ = e.Ack(nil) // else its sender waits a little longer
			t.wake(e.Data)
		case <-w.Errors():
			return
		case <-t.x.closing:
			return
		}
	}
}

// release removes a watch. What comes until it is gone is received, or
// librados' own thread would wait.
func release(w *rados.Watcher) {
	go func() {
		for range w.Errors() {
		}
	}()
	go func() {
		for range w.Events() {
		}
	}()
	// If it fails, as it does for a watch that was lost, librados forgets it all
	// the same; then the two goroutines stay.
	_ = w.Delete()
}

// wake tells those who watch the keys that a notification names.
func (t *topic) wake(data []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wake := func(subs []*subscriber) {
		for _, s := range subs {
			select {
			case s.c <- struct{}{}:
			default: // it has not yet looked after the one before
			}
		}
	}
	if len(data) == 0 {
		for _, subs := range t.subs {
			wake(subs)
		}
	}
	for ; len(data) >= 8; data = data[8:] {
		wake(t.subs[binary.BigEndian.Uint64(data)])
	}
}

// tell tells those who watch a key that its object was changed.
func (p *pool) tell(key string) {
	t, hash := p.exchange.topic(key)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending[hash] = true
	if !t.telling {
		t.telling = t.x.start(t.notify)
	}
}

// notify sends what is to be told until all is.
func (t *topic) notify() {
	for {
		t.mu.Lock()
		if len(t.pending) == 0 {
			t.telling = false
			t.mu.Unlock()
			return
		}
		var data []byte
		if len(t.pending) <= named {
			for hash := range t.pending {
				data = binary.BigEndian.AppendUint64(data, hash)
			}
		}
		clear(t.pending)
		t.mu.Unlock()
		// An error means that nobody ever watched (the topic does not exist), that
		// somebody has not answered, or that the cluster is in trouble: whoever waits
		// looks by himself.
		if acks, _, _ := t.x.io.NotifyWithTimeout(t.name, data, ackTime); len(acks) == 0 {
			timer := time.NewTimer(unheard)
			select {
			case <-timer.C:
			case <-t.x.closing:
			}
			timer.Stop()
		}
	}
}

var _ store.Watcher = (*pool)(nil)
