//go:build ceph && cgo

package rados

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/ceph/go-ceph/rados"

	"github.com/distci/distci/lib/fault"
)

// A split replaces a shard by two new ones. Its steps may be done by anybody,
// again, and by several at once:
//
//  1. The state of the shard becomes "split NEW1 NEW2 KEY": nothing in it
//     changes from now on, and whoever needs it does the other steps first.
//  2. NEW1 and NEW2 are made in the state "filling" and get the keys below KEY
//     and the others; what is copied is set only while they are in that state.
//  3. NEW1 and NEW2 become "open".
//  4. The root names them instead of the shard, if it names that.
//  5. The shard is emptied and becomes "moved". It is not removed: somebody who
//     still does step 2 of an older split could make it again. Sweep does it.
const splitPrefix = "split "

// grown is called when a shard has got a key. Now and then it counts them,
// since nobody else does, and splits the shard if there are too many. That may
// fail: the next one will find it.
func (p *pool) grown(ctx context.Context, sh shard) {
	if rand.IntN(max(1, p.shardLimit/256)) != 0 {
		return
	}
	var keys []string
	for after, more := firstKey, true; more; {
		var kvs []rados.OmapKeyValue
		var err error
		if _, kvs, more, err = p.readOmap(ctx, "count", sh.object, after, "", page); err != nil {
			return
		}
		for _, kv := range kvs {
			after = kv.Key
			keys = append(keys, kv.Key)
		}
	}
	if len(keys) <= p.shardLimit || len(keys) < 2 {
		return
	}
	state := []byte(splitPrefix + newID() + " " + newID() + " " + keys[len(keys)/2])
	err := p.change(ctx, "seal shard", sh.object, map[string][]byte{stateKey: stateOpen}, map[string][]byte{stateKey: state}, nil)
	if err == nil {
		p.finishSplit(ctx, sh.object, state)
	}
}

// finishSplit does what is left of a split, if there is one, and reads the
// root again.
func (p *pool) finishSplit(ctx context.Context, object string, state []byte) error {
	if err := p.readRoot(ctx); err != nil {
		return err
	}
	text, ok := strings.CutPrefix(string(state), splitPrefix)
	if !ok {
		if string(state) == string(stateMoved) {
			return nil
		}
		return fault.Errorf(fault.Internal, "shard %s of the index is in the state %.40q", object, state)
	}
	start, found := "", false
	p.mu.Lock()
	for _, sh := range p.root {
		if sh.object == object {
			start, found = sh.start, true
		}
	}
	p.mu.Unlock()
	if found {
		f := strings.SplitN(text, " ", 3)
		if len(f) != 3 {
			return fault.Errorf(fault.Internal, "shard %s of the index is in the state %.40q", object, state)
		}
		low, high, mid := f[0], f[1], f[2]
		for _, to := range []string{low, high} {
			if err := p.fill(ctx, object, to, func(key string) bool { return (key < mid) == (to == low) }); err != nil {
				return p.elsewhere(ctx, err)
			}
		}
		err := p.change(ctx, "set root", rootObject, map[string][]byte{startPrefix + start: []byte(object)},
			map[string][]byte{startPrefix + start: []byte(low), startPrefix + mid: []byte(high)}, nil)
		if err != nil {
			return p.elsewhere(ctx, err)
		}
	}
	err := p.change(ctx, "empty shard", object, map[string][]byte{stateKey: state}, map[string][]byte{stateKey: stateMoved}, func(op *rados.WriteOp) { op.CleanOmap() })
	if err != nil {
		return p.elsewhere(ctx, err)
	}
	return p.readRoot(ctx)
}

// elsewhere is for the error of a step: that somebody else did it is none.
func (p *pool) elsewhere(ctx context.Context, err error) error {
	if errors.Is(err, errMoved) || code(err) == eNoEntry {
		return p.readRoot(ctx)
	}
	return fmt.Errorf("split a shard of the index: %w", err)
}

// fill makes the shard to and copies keys of from into it.
func (p *pool) fill(ctx context.Context, from, to string, belongs func(key string) bool) error {
	op := rados.CreateWriteOp()
	op.Create(rados.CreateExclusive)
	op.SetOmap(map[string][]byte{stateKey: stateFilling})
	if _, err := p.write(ctx, "make shard", op, index, to); err != nil && code(err) != eExists {
		return err
	}
	filling := map[string][]byte{stateKey: stateFilling}
	for after, more := stateKey, true; more; {
		state, kvs, m, err := p.readOmap(ctx, "copy from", from, after, "", page)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(state), splitPrefix) {
			return errMoved
		}
		more = m
		set := map[string][]byte{}
		for _, kv := range kvs {
			after = kv.Key
			if belongs(kv.Key) {
				set[kv.Key] = kv.Value
			}
		}
		if len(set) == 0 {
			continue
		}
		if err := p.change(ctx, "copy to", to, filling, set, nil); errors.Is(err, errMoved) {
			return nil // it is open
		} else if err != nil {
			return err
		}
	}
	err := p.change(ctx, "open shard", to, filling, map[string][]byte{stateKey: stateOpen}, nil)
	if errors.Is(err, errMoved) {
		return nil
	}
	return err
}
