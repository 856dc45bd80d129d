package s3

import (
	"context"
	"errors"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/store"
)

// each lists the server's objects whose names begin with prefix and come after
// another, in the order of their names, which are told without the store's own
// prefix. Up to max of them are asked for at once.
func (s *bucket) each(ctx context.Context, prefix, after string, max int) iter.Seq2[minio.ObjectInfo, error] {
	return s.list(ctx, minio.ListObjectsOptions{Prefix: prefix, StartAfter: after, MaxKeys: max, Recursive: true})
}

// list is each with more options. If folders are asked for, some may come
// twice.
func (s *bucket) list(ctx context.Context, o minio.ListObjectsOptions) iter.Seq2[minio.ObjectInfo, error] {
	owner := false
	o.FetchOwner = &owner
	o.Prefix = s.prefix + o.Prefix
	if o.StartAfter != "" {
		o.StartAfter = s.prefix + o.StartAfter
	}
	if o.MaxKeys > 1000 {
		o.MaxKeys = 1000
	}
	return func(yield func(minio.ObjectInfo, error) bool) {
		started := time.Now()
		for try := 0; ; try++ {
			var broken error
			for info := range s.api.ListObjectsIter(ctx, s.name, o) {
				if broken = info.Err; broken != nil {
					break
				}
				if o.Recursive { // with folders, what a page holds is not in one order
					o.StartAfter = info.Key
				}
				info.Key = strings.TrimPrefix(info.Key, s.prefix)
				if !yield(info, nil) {
					return
				}
				try, started = 0, time.Now()
			}
			if broken == nil {
				return
			}
			if ctx.Err() != nil || !temporary(broken) || !s.pause(ctx, try, started) {
				yield(minio.ObjectInfo{}, broken)
				return
			}
		}
	}
}

// List implements [store.Store].
func (s *bucket) List(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	infos, err := s.listKeys(ctx, prefix, after, limit)
	return infos, failed("list", prefix, err)
}

func (s *bucket) listKeys(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	if limit <= 0 {
		limit = 1000
	}
	if !begins(prefix) || !strings.HasPrefix(after, prefix) && after > prefix {
		return nil, ctx.Err()
	}
	if !strings.HasPrefix(after, prefix) {
		after = ""
	}
	var infos []store.Info
	for len(infos) < limit {
		want := min(limit-len(infos), 1000)
		page, err := s.page(ctx, prefix, after, want)
		if err != nil {
			return nil, err
		}
		full := len(page) == want
		if full {
			after = page[want-1].Key
		}
		page = slices.DeleteFunc(page, func(i store.Info) bool { return i.Version == "" })
		if infos = append(infos, page...); !full {
			break
		}
	}
	return infos, nil
}

// page lists at most limit keys. One that was deleted meanwhile has no version.
func (s *bucket) page(ctx context.Context, prefix, after string, limit int) ([]store.Info, error) {
	infos := make([]store.Info, 0, limit)
	group, asking := errgroup.WithContext(ctx)
	group.SetLimit(16)
	start := ""
	if after != "" {
		start = headName(after)
	}
	var failure error
	for o, err := range s.each(ctx, headName(prefix), start, limit) {
		if err != nil {
			failure = err
			break
		}
		key := strings.TrimPrefix(o.Key, headName(""))
		infos = append(infos, store.Info{Key: key, Size: o.Size - int64(prologue), Version: strings.Trim(o.ETag, `"`), Modified: when(o)})
		info := &infos[len(infos)-1]
		if o.Size < int64(prologue) || store.CheckKey(key) != nil {
			info.Version = "" // not of this store
		} else if o.Size%step == 0 { // perhaps it has a table
			group.Go(func() error {
				var err error
				*info, err = s.statHead(asking, key)
				if errors.Is(err, store.ErrNotFound) {
					*info, err = store.Info{Key: key}, nil
				}
				return err
			})
		}
		if len(infos) == cap(infos) {
			break
		}
	}
	if err := group.Wait(); failure == nil {
		failure = err
	}
	return infos, failure
}

// Folders implements [store.Store].
func (s *bucket) Folders(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	parts, err := s.folders(ctx, prefix, after, limit)
	return parts, failed("list folders of", prefix, err)
}

// folders goes by the server's order, which is that of "PART/": so "a-b" comes
// before "a", and what comes before its place is looked up.
func (s *bucket) folders(ctx context.Context, prefix, after string, limit int) ([]string, error) {
	if limit <= 0 {
		limit = 1000
	}
	if !begins(prefix) {
		return nil, ctx.Err()
	}
	var parts []string
	seen := map[string]bool{}
	start := ""
	if after != "" {
		start = headName(prefix + after) // what is greater than after is greater with a "/" too
	}
	for o, err := range s.list(ctx, minio.ListObjectsOptions{Prefix: headName(prefix), StartAfter: start}) {
		if err != nil {
			return nil, err
		}
		part, isFolder := strings.CutSuffix(strings.TrimPrefix(o.Key, headName(prefix)), "/")
		if !isFolder || part <= after || store.CheckKey(part) != nil || seen[part] {
			continue
		}
		seen[part] = true
		if parts = append(parts, part); len(parts) >= limit {
			break
		}
	}
	if len(parts) >= limit { // otherwise nothing is to come
		late, err := s.late(ctx, prefix, after, parts[len(parts)-1])
		if err != nil {
			return nil, err
		}
		parts = append(parts, late...)
	}
	slices.Sort(parts)
	return parts[:min(limit, len(parts))], nil
}

// late finds the folders that sort before last and that the server tells
// later: last begins with them, and goes on with less than a "/".
func (s *bucket) late(ctx context.Context, prefix, after, last string) (parts []string, err error) {
	for i := 1; i < len(last); i++ {
		part := last[:i]
		if last[i] >= '/' || part <= after {
			continue
		}
		for _, err := range s.each(ctx, headName(prefix+part+"/"), "", 1) {
			if err != nil {
				return nil, err
			}
			parts = append(parts, part)
			break
		}
	}
	return parts, nil
}

// begins tells whether a key can begin so.
func begins(prefix string) bool {
	return prefix == "" || store.CheckKey(prefix) == nil || strings.HasSuffix(prefix, "/") && store.CheckKey(prefix[:len(prefix)-1]) == nil
}
