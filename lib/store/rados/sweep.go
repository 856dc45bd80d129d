//go:build ceph && cgo

package rados

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/store"
)

// tidyAtOnce is how many notes of garbage a write looks at.
const tidyAtOnce = 32

// trashKey is the key of a note that an entry was replaced at a time.
func trashKey(at time.Time) string {
	return fmt.Sprintf("%s%012x-%08x", trashPrefix, at.UnixMilli(), rand.Uint32())
}

// tidy removes the bytes of an entry that was deleted, at once, or now and
// then those of entries of the same shard that were replaced long ago. If it
// fails, the notes remain.
func (p *pool) tidy(ctx context.Context, key string, e *entry, note string, deleted bool) {
	p.keepTail(key, tail{})
	sh := p.shards(key)[0]
	if deleted {
		if p.remove(ctx, e.objects()) == nil {
			p.forget(ctx, sh.object, []string{note})
		}
		return
	}
	if rand.IntN(tidyAtOnce/2) == 0 {
		p.background(func(ctx context.Context) { p.empty(ctx, sh.object, time.Now().Add(-p.keep), tidyAtOnce, nil) })
	}
}

// forget removes notes. The shard may have been split meanwhile: then they are
// in another one, and go with a later tidy.
func (p *pool) forget(ctx context.Context, object string, notes []string) {
	p.change(ctx, "forget", object, map[string][]byte{stateKey: stateOpen}, nil, func(op *rados.WriteOp) { op.RmOmapKeys(notes) })
}

// empty removes the bytes of entries that were replaced before a time, at
// most limit entries. With count, it removes nothing and calls that instead.
func (p *pool) empty(ctx context.Context, object string, before time.Time, limit int, count func(objects []string) error) (removed []string, err error) {
	last := fmt.Sprintf("%s%012x", trashPrefix, before.UnixMilli())
	after := trashPrefix
	for more := true; more && limit > 0; {
		var kvs []rados.OmapKeyValue
		if _, kvs, more, err = p.readOmap(ctx, "read notes", object, after, trashPrefix, limit); err != nil {
			return removed, err
		}
		var notes, objects []string
		for _, kv := range kvs {
			if kv.Key > last || limit == 0 {
				more = false
				break
			}
			after = kv.Key
			limit--
			e, err := decodeEntry(kv.Value)
			if err != nil {
				return removed, err
			}
			notes = append(notes, kv.Key)
			objects = append(objects, e.objects()...)
		}
		if len(notes) == 0 {
			break
		}
		if count != nil {
			if err := count(objects); err != nil {
				return removed, err
			}
			continue
		}
		if err := p.remove(ctx, objects); err != nil {
			return removed, err
		}
		p.forget(ctx, object, notes)
	}
	return removed, nil
}

// Sweep implements [store.Sweeper]. Garbage is: what entries that were
// replaced or deleted referred to; chunks and tails that no entry refers to,
// of writers that were killed; and shards of the index that were split.
//
// It keeps eight bytes in memory for each id in the store.
func (p *pool) Sweep(ctx context.Context, grace time.Duration, dryRun bool) (store.Swept, error) {
	w := &sweep{p: p, before: time.Now().Add(-grace), dryRun: dryRun}
	err := w.run(ctx)
	return w.swept, failed("sweep", "namespace "+p.address.Namespace, err)
}

type sweep struct {
	p      *pool
	before time.Time
	dryRun bool
	live   []uint64 // what entries refer to, in order

	mu    sync.Mutex
	swept store.Swept
}

func (w *sweep) run(ctx context.Context) error {
	if err := w.p.readRoot(ctx); err != nil {
		return err
	}
	if err := w.notes(ctx); err != nil {
		return err
	}
	// What the index refers to is read first: what is written meanwhile is
	// younger than grace, or was touched just before it got its entry.
	if err := w.readLive(ctx); err != nil {
		return err
	}
	if err := w.data(ctx); err != nil {
		return err
	}
	return w.index(ctx)
}

// eachPage calls f for the pages of the index. A split meanwhile shows in the
// state of the shard that is read: f is then called for what it became, and may
// see a key again.
func (w *sweep) eachPage(ctx context.Context, f func(sh shard, kvs []rados.OmapKeyValue) error) error {
	at, after := "", ""
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		shards := w.p.shards(at)
		state, kvs, more, err := w.p.readOmap(ctx, "sweep index", shards[0].object, after, "", page)
		if ok, err := w.p.current(ctx, shards[0], state, err); err != nil {
			return err
		} else if !ok {
			// Its notes are in the first of the new ones, before its other keys.
			after = ""
			continue
		}
		if err := f(shards[0], kvs); err != nil {
			return err
		}
		switch {
		case more:
			after = kvs[len(kvs)-1].Key
			at = max(at, after)
		case len(shards) > 1:
			at, after = shards[1].start, ""
		default:
			return nil
		}
	}
}

// notes removes what entries that were replaced referred to.
func (w *sweep) notes(ctx context.Context) error {
	last := ""
	return w.eachPage(ctx, func(sh shard, _ []rados.OmapKeyValue) error {
		if sh.object == last {
			return nil
		}
		last = sh.object
		// Counted first: removing needs no sizes.
		for _, dry := range []bool{true, false} {
			if !dry && w.dryRun {
				break
			}
			var count func([]string) error
			if dry {
				count = func(objects []string) error { return w.count(ctx, objects) }
			}
			if _, err := w.p.empty(ctx, sh.object, w.before, 1<<30, count); err != nil && code(err) != eNoEntry {
				return err
			}
		}
		return nil
	})
}

// count adds RADOS objects to what was swept.
func (w *sweep) count(ctx context.Context, objects []string) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(removals)
	for _, name := range objects {
		g.Go(func() error {
			st, err := w.stat(ctx, name)
			if err == nil {
				w.add(st.size)
			}
			if code(err) == eNoEntry {
				return nil
			}
			return err
		})
	}
	return g.Wait()
}

func (w *sweep) add(size int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.swept.Objects++
	w.swept.Bytes += size
}

func (w *sweep) stat(ctx context.Context, name string) (tailState, error) {
	return call(ctx, w.p, "sweep stat", func(s *slot) (t tailState, err error) {
		st, err := s.data.Stat(name)
		if err != nil {
			return t, err
		}
		t = tailState{size: int64(st.Size), modified: st.ModTime}
		t.version, err = s.data.GetLastVersion()
		return t, err
	})
}

// readLive reads what entries refer to, and what was replaced not long ago.
func (w *sweep) readLive(ctx context.Context) error {
	err := w.eachPage(ctx, func(_ shard, kvs []rados.OmapKeyValue) error {
		for _, kv := range kvs {
			if kv.Key < firstKey && !strings.HasPrefix(kv.Key, trashPrefix) {
				continue
			}
			e, err := decodeEntry(kv.Value)
			if err != nil {
				return fmt.Errorf("%s: %w", kv.Key, err)
			}
			for _, s := range e.segments {
				w.live = append(w.live, brief(s.id))
			}
			if e.tail != "" {
				w.live = append(w.live, brief(e.tail))
			}
		}
		return nil
	})
	slices.Sort(w.live)
	return err
}

// brief is a part of an id. Two that have it in common make garbage look as if
// it were in use, which does no harm.
func brief(id string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(id))
	return h.Sum64()
}

// data removes chunks that nothing refers to.
func (w *sweep) data(ctx context.Context) error {
	garbage := map[string][]int64{}
	err := w.list(ctx, data, func(name string) {
		id, n := chunkID(name)
		if id == "" || made(id).After(w.before) {
			return
		}
		if _, ok := slices.BinarySearch(w.live, brief(id)); !ok {
			garbage[id] = append(garbage[id], n)
		}
	})
	if err != nil {
		return err
	}
	for id, numbers := range garbage {
		slices.Sort(numbers)
		for _, n := range numbers {
			gone, err := w.removeChunk(ctx, chunkName(id, n))
			if err != nil {
				return err
			}
			if !gone {
				break // it is in use: its writer has touched the first one
			}
		}
	}
	return nil
}

// removeChunk removes a RADOS object that has been left alone for long enough,
// unless somebody touches it now.
func (w *sweep) removeChunk(ctx context.Context, name string) (bool, error) {
	st, err := w.stat(ctx, name)
	if code(err) == eNoEntry {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	// Ceph tells it in seconds, cut off.
	if st.modified.After(w.before) {
		return false, nil
	}
	if !w.dryRun {
		op := rados.CreateWriteOp()
		op.AssertVersion(st.version)
		op.Remove()
		if _, err := w.p.write(ctx, "sweep remove", op, data, name); err != nil {
			switch code(err) {
			case eRange, eOverflow:
				return false, nil
			case eNoEntry:
				return true, nil
			}
			return false, err
		}
	}
	w.add(st.size)
	return true, nil
}

// index removes objects of the index that are no shards any more, or of a
// first start that was cut short.
func (w *sweep) index(ctx context.Context) error {
	var names []string
	if err := w.list(ctx, index, func(name string) {
		if validID(name) && made(name).Before(w.before) {
			names = append(names, name)
		}
	}); err != nil {
		return err
	}
	if err := w.p.readRoot(ctx); err != nil {
		return err
	}
	used := map[string]bool{}
	for _, sh := range w.p.shards("") {
		used[sh.object] = true
	}
	for _, name := range names {
		if used[name] {
			continue
		}
		state, err := call(ctx, w.p, "sweep stat shard", func(s *slot) (st rados.ObjectStat, err error) { return s.index.Stat(name) })
		if code(err) == eNoEntry {
			continue
		}
		if err != nil {
			return err
		}
		if state.ModTime.After(w.before) {
			continue // it is being filled, or has only just been split
		}
		if !w.dryRun {
			err := w.p.do(ctx, "sweep remove shard", func(s *slot) error { return s.index.Delete(name) })
			if err != nil && code(err) != eNoEntry {
				return err
			}
		}
		w.add(0)
	}
	return nil
}

// list calls f, in a goroutine of its own, with the names of all RADOS objects
// of a namespace. If list fails, f may still be running.
func (w *sweep) list(ctx context.Context, context func(*slot) *rados.IOContext, f func(name string)) error {
	return w.p.do(ctx, "sweep list", func(s *slot) error {
		it, err := context(s).Iter()
		if err != nil {
			return err
		}
		defer it.Close()
		for ctx.Err() == nil && it.Next() {
			f(it.Value())
		}
		return errors.Join(ctx.Err(), it.Err())
	})
}
