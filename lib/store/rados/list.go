//go:build ceph && cgo

package rados

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/ceph/go-ceph/rados"
	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/store"
)

const defaultLimit = 1000

// List implements [store.Store].
func (p *pool) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	infos, err := p.list(ctx, prefix, after, limit)
	return infos, failed("list", prefix, err)
}

func (p *pool) list(ctx context.Context, prefix, after string, limit int) (infos []store.Info, err error) {
	limit = pageSize(limit)
	for len(infos) < limit {
		var kvs []rados.OmapKeyValue
		more := true
		for more && len(kvs) < limit-len(infos) {
			var got []rados.OmapKeyValue
			if got, more, err = p.scan(ctx, prefix, after, limit-len(infos)-len(kvs)); err != nil {
				return nil, err
			}
			kvs = append(kvs, got...)
			if len(got) > 0 {
				after = got[len(got)-1].Key
			}
		}
		some, err := p.describeAll(ctx, kvs)
		if err != nil {
			return nil, err
		}
		infos = append(infos, some...)
		if !more {
			break
		}
	}
	return infos, nil
}

// describeAll makes infos of entries. It asks for their tails; what has been
// deleted meanwhile is left out.
func (p *pool) describeAll(ctx context.Context, kvs []rados.OmapKeyValue) ([]store.Info, error) {
	objects := make([]object, len(kvs))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(inFlight / 2)
	for i, kv := range kvs {
		e, err := decodeEntry(kv.Value)
		if err != nil {
			g.Wait()
			return nil, fmt.Errorf("%s: %w", kv.Key, err)
		}
		if e.tail == "" {
			objects[i] = object{entry: e}
			continue
		}
		g.Go(func() (err error) {
			objects[i], err = p.complete(gctx, kv.Value)
			if code(err) == eNoEntry {
				objects[i], err = p.object(gctx, kv.Key)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	infos := make([]store.Info, 0, len(kvs))
	for i, o := range objects {
		if o.entry != nil {
			infos = append(infos, describe(kvs[i].Key, o.entry, o.tail))
		}
	}
	return infos, nil
}

// scan returns the next entries with the prefix whose keys are greater than
// after, in order, at most limit or page, and whether there may be more. It returns at least one
// unless there are none.
func (p *pool) scan(ctx context.Context, prefix, after string, limit int) ([]rados.OmapKeyValue, bool, error) {
	if strings.ContainsRune(prefix+after, 0) { // librados would end them there
		return nil, false, nil
	}
	at := max(prefix, after) // the shard to look into has this key
	for tries := 0; tries < 100; {
		shards := p.shards(at)
		state, kvs, more, err := p.readOmap(ctx, "scan", shards[0].object, max(after, firstKey), prefix, limit)
		if ok, err := p.current(ctx, shards[0], state, err); err != nil {
			return nil, false, err
		} else if !ok {
			tries++
			continue
		}
		for len(kvs) > 0 && kvs[0].Key < firstKey { // the prefix is one of our own names
			kvs = kvs[1:]
		}
		if len(shards) > 1 && !more {
			next := shards[1].start
			more = strings.HasPrefix(next, prefix) || next < prefix
			at = next
		}
		if len(kvs) > 0 || !more {
			return kvs, more, nil
		}
	}
	return nil, false, fmt.Errorf("%w all the time", errMoved)
}

// Folders implements [store.Store].
func (p *pool) Folders(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	parts, err := p.folders(ctx, prefix, after, limit)
	return parts, failed("list the folders of", prefix, err)
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// folders walks through the keys. Their order is not that of the parts: "a-b/"
// is before "a/", as "-" is before "/", but "a" is before "a-b". So whenever a
// part is found, those that it begins with are looked for at once.
func (p *pool) folders(ctx context.Context, prefix, after string, limit int) (parts []string, err error) {
	limit = pageSize(limit)
	seen := map[string]bool{}
	add := func(part string) error {
		if !seen[part] && part > after {
			parts = append(parts, part)
			seen[part] = true
		}
		if len(parts) == limit {
			return errEnough
		}
		return nil
	}
	found := func(part string) error {
		for i, c := range []byte(part) {
			if c >= '/' || i == 0 || seen[part[:i]] {
				continue
			}
			// What is looked for once is not looked for again, as that is in seen.
			begin := part[:i]
			if begin <= after {
				continue
			}
			kvs, _, err := p.scan(ctx, prefix+begin+"/", "", 1)
			if err != nil {
				return err
			}
			if len(kvs) == 0 {
				seen[begin] = true
			} else if err := add(begin); err != nil {
				return err
			}
		}
		return add(part)
	}
	at := ""
	if after != "" {
		at = prefix + after
	}
	for more := true; more; {
		var kvs []rados.OmapKeyValue
		if kvs, more, err = p.scan(ctx, prefix, at, page); err != nil {
			return nil, err
		}
		last := ""
		for _, kv := range kvs {
			at = kv.Key
			part, _, ok := strings.Cut(kv.Key[len(prefix):], "/")
			if !ok || part == last {
				continue
			}
			last = part
			if err := found(part); err == errEnough {
				return parts, nil
			} else if err != nil {
				return nil, err
			}
		}
		if last != "" && strings.HasPrefix(at, prefix+last+"/") {
			at = prefix + last + "/~" // behind all of the folder that the page ended in
		}
	}
	return parts, nil
}

func pageSize(limit int) int {
	if limit <= 0 {
		return defaultLimit
	}
	return limit
}
