package s3

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/distci/distci/lib/store"
)

var _ store.Sweeper = (*bucket)(nil)

// Sweep implements [store.Sweeper]: it removes data that no head names, and
// uploads that nobody has completed. Data that was replaced is kept until its
// successor is older than grace, for those who still read it.
func (s *bucket) Sweep(ctx context.Context, grace time.Duration, dryRun bool) (swept store.Swept, err error) {
	if _, err := s.readMarker(ctx); err != nil { // and so the server's clock is known
		return swept, failed("sweep", "", err)
	}
	before := s.transport.now().Add(-grace)
	err = s.sweepData(ctx, before, dryRun, &swept)
	if err == nil {
		err = s.sweepUploads(ctx, before, dryRun, &swept)
	}
	return swept, failed("sweep", "", err)
}

func (s *bucket) sweepData(ctx context.Context, before time.Time, dryRun bool, swept *store.Swept) error {
	for o, err := range s.each(ctx, "d/", "", 1000) {
		if err != nil {
			return err
		}
		key, name, ok := cutLast(strings.TrimPrefix(o.Key, "d/"), "/~")
		if !ok || store.CheckKey(key) != nil || !o.LastModified.Before(before) {
			continue
		}
		// The head is read after the listing: what is older than grace and is
		// not in it now will never be.
		used, err := s.inUse(ctx, key, name, before)
		if err != nil {
			return err
		}
		if used {
			continue
		}
		if !dryRun {
			if err := s.retry(ctx, func() error { return s.remove(ctx, o.Key) }); err != nil {
				return err
			}
		}
		swept.Objects++
		swept.Bytes += o.Size
	}
	return nil
}

// inUse tells whether a head names the data, or may have done so not long ago.
func (s *bucket) inUse(ctx context.Context, key, name string, before time.Time) (bool, error) {
	h, err := s.readHead(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, p := range h.pieces {
		if p.name == name {
			return true, nil
		}
	}
	return !h.modified.Before(before), nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// sweepUploads aborts uploads that were begun before that time.
func (s *bucket) sweepUploads(ctx context.Context, before time.Time, dryRun bool, swept *store.Swept) error {
	keyMarker, idMarker := "", ""
	for {
		var page minio.ListMultipartUploadsResult
		err := s.retry(ctx, func() (err error) {
			page, err = s.api.ListMultipartUploads(ctx, s.name, s.prefix+"d/", keyMarker, idMarker, "", 1000)
			return err
		})
		if err != nil {
			return err
		}
		for _, u := range page.Uploads {
			if !strings.HasPrefix(u.Key, s.prefix+"d/") || !u.Initiated.Before(before) {
				continue
			}
			size, err := s.uploaded(ctx, u.Key, u.UploadID)
			if err == nil && !dryRun {
				err = s.retry(ctx, func() error { return s.api.AbortMultipartUpload(ctx, s.name, u.Key, u.UploadID) })
			}
			if absent(err) {
				continue // another sweep was faster
			}
			if err != nil {
				return err
			}
			swept.Objects++
			swept.Bytes += size
		}
		if !page.IsTruncated || page.NextKeyMarker == "" {
			return nil
		}
		keyMarker, idMarker = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// uploaded is the number of bytes that an upload holds.
func (s *bucket) uploaded(ctx context.Context, name, id string) (size int64, err error) {
	for marker := 0; ; {
		var page minio.ListObjectPartsResult
		err := s.retry(ctx, func() (err error) {
			page, err = s.api.ListObjectParts(ctx, s.name, name, id, marker, 1000)
			return err
		})
		if err != nil {
			return 0, err
		}
		for _, p := range page.ObjectParts {
			size += p.Size
		}
		if !page.IsTruncated || page.NextPartNumberMarker <= marker {
			return size, nil
		}
		marker = page.NextPartNumberMarker
	}
}
