//go:build ceph && cgo

package rados

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ceph/go-ceph/rados"

	"github.com/distci/distci/lib/fault"
)

// Names in the index. The store's keys begin with "+" or a greater byte, so
// the index's own are less.
const (
	rootObject  = "root"
	formatKey   = "!format" // in the root: the layout's number
	startPrefix = "/"       // in the root, before a shard's start: its object
	stateKey    = "!state"  // in a shard: open, filling, moved, or how it is being split
	trashPrefix = "#"       // in a shard: an entry that was replaced, at a time
	firstKey    = "$"       // between the index's own keys and those of the store

	format = "1"
)

// The states of a shard, but for the one in split.go.
var (
	stateOpen    = []byte("open")
	stateFilling = []byte("filling") // a split copies into it
	stateMoved   = []byte("moved")   // it was split and is empty
)

// page is the most keys that Ceph returns at once, by default.
const page = 1000

// shard holds the keys from start on, up to the start of the next shard. Its
// range may get smaller by a split, after which its object is another one.
type shard struct{ start, object string }

// errMoved: the entry is not the expected one, or the shard not open. A lookup
// tells.
var errMoved = errors.New("the index changed")

// makeIndex reads the root, and makes it if there is none.
func (p *pool) makeIndex(ctx context.Context) error {
	err := p.readRoot(ctx)
	if code(err) != eNoEntry {
		return err
	}
	first := newID()
	op := rados.CreateWriteOp()
	op.Create(rados.CreateExclusive)
	op.SetOmap(map[string][]byte{stateKey: stateOpen})
	if _, err := p.write(ctx, "make shard", op, index, first); err != nil {
		return err
	}
	op = rados.CreateWriteOp()
	op.Create(rados.CreateExclusive)
	op.SetOmap(map[string][]byte{formatKey: []byte(format), startPrefix: []byte(first)})
	if _, err := p.write(ctx, "make root", op, index, rootObject); err != nil {
		if code(err) != eExists {
			return err
		}
		if err := p.do(ctx, "remove shard", func(s *slot) error { return s.index.Delete(first) }); err != nil {
			return err
		}
	}
	return p.readRoot(ctx)
}

// readRoot reads which shards there are.
func (p *pool) readRoot(ctx context.Context) error {
	var root []shard
	found := ""
	for after, more := "", true; more; {
		var kvs []rados.OmapKeyValue
		var err error
		_, kvs, more, err = p.readOmap(ctx, "read root", rootObject, after, "", page)
		if err != nil {
			return err
		}
		for _, kv := range kvs {
			after = kv.Key
			if start, ok := strings.CutPrefix(kv.Key, startPrefix); ok {
				root = append(root, shard{start, string(kv.Value)})
			} else if kv.Key == formatKey {
				found = string(kv.Value)
			}
		}
	}
	if found != format || len(root) == 0 || root[0].start != "" {
		return fault.Errorf(fault.Config, "the store's format is %q; this program knows %q", found, format)
	}
	p.mu.Lock()
	p.root = root
	p.mu.Unlock()
	return nil
}

// shards returns the shard that has the key, and those behind it.
func (p *pool) shards(key string) []shard {
	p.mu.Lock()
	defer p.mu.Unlock()
	i, found := slices.BinarySearchFunc(p.root, key, func(s shard, key string) int { return strings.Compare(s.start, key) })
	if !found {
		i--
	}
	return p.root[i:]
}

// lookup returns the entry of a key, as it is kept; nil if there is none.
func (p *pool) lookup(ctx context.Context, key string) ([]byte, error) {
	for range 100 {
		sh := p.shards(key)[0]
		values, err := call(ctx, p, "look up", func(s *slot) (map[string][]byte, error) {
			op := rados.CreateReadOp()
			defer op.Release()
			step := op.GetOmapValuesByKeys([]string{stateKey, key})
			if err := op.Operate(s.index, sh.object, rados.OperationNoFlag); err != nil {
				return nil, err
			}
			values := map[string][]byte{}
			for {
				kv, err := step.Next()
				if err != nil {
					return nil, err
				}
				if kv == nil {
					return values, nil
				}
				values[kv.Key] = kv.Value
			}
		})
		if ok, err := p.current(ctx, sh, values[stateKey], err); err != nil {
			return nil, err
		} else if ok {
			return values[key], nil
		}
	}
	return nil, fmt.Errorf("%w all the time", errMoved)
}

// current tells whether what was read in a shard is valid: it must be open. If
// not, it finishes a split and reads the root again.
func (p *pool) current(ctx context.Context, sh shard, state []byte, err error) (bool, error) {
	switch {
	case code(err) == eNoEntry:
		return false, p.readRoot(ctx)
	case err != nil:
		return false, err
	case string(state) == string(stateOpen):
		return true, nil
	}
	return false, p.finishSplit(ctx, sh.object, state)
}

// cas sets the entry of a key to new, or removes it if that is nil, if it is
// old; nil is absent. The notes are set with it. If the entry is another one,
// or is now elsewhere, the error is errMoved.
func (p *pool) cas(ctx context.Context, key string, old, new []byte, notes map[string][]byte) error {
	sh := p.shards(key)[0]
	set := map[string][]byte{}
	for k, v := range notes {
		set[k] = v
	}
	if new != nil {
		set[key] = new
	}
	err := p.change(ctx, "set entry", sh.object, map[string][]byte{stateKey: stateOpen, key: old}, set, func(op *rados.WriteOp) {
		if new == nil {
			op.RmOmapKeys([]string{key})
		}
	})
	if err == nil && old == nil {
		p.grown(ctx, sh)
	}
	return uncertain(err)
}

// change sets keys of an object of the index, if others are as expected.
func (p *pool) change(ctx context.Context, name, object string, expected, set map[string][]byte, more func(*rados.WriteOp)) error {
	op := rados.CreateWriteOp()
	op.AssertExists()
	in := expect(expected)
	op.Exec("cmpomap", "cmp_vals", in)
	if more != nil {
		more(op)
	}
	if len(set) > 0 {
		op.SetOmap(set)
	}
	_, err := p.write(ctx, name, op, index, object)
	if c := code(err); c == eCanceled || c == eNoEntry {
		return errMoved
	}
	return err
}

// readOmap reads the shard's state and its next keys, at most limit or page of
// them, in one operation. More tells whether there are others.
func (p *pool) readOmap(ctx context.Context, name, object, after, prefix string, limit int) (state []byte, kvs []rados.OmapKeyValue, more bool, err error) {
	type read struct {
		state []byte
		kvs   []rados.OmapKeyValue
		more  bool
	}
	r, err := call(ctx, p, name, func(s *slot) (r read, err error) {
		op := rados.CreateReadOp()
		defer op.Release()
		own := op.GetOmapValuesByKeys([]string{stateKey})
		step := op.GetOmapValues(after, prefix, uint64(min(limit, page)))
		if err := op.Operate(s.index, object, rados.OperationNoFlag); err != nil {
			return r, err
		}
		if kv, err := own.Next(); err != nil {
			return r, err
		} else if kv != nil {
			r.state = kv.Value
		}
		r.more = step.More()
		for {
			kv, err := step.Next()
			if err != nil || kv == nil {
				return r, err
			}
			r.kvs = append(r.kvs, *kv)
		}
	})
	return r.state, r.kvs, r.more, err
}
