// Package s3 is a store in a bucket of an S3 server: Amazon's, Ceph's gateway,
// MinIO and others, if they have conditional puts.
//
// Below the URL's prefix the bucket holds
//
//	distci-store     the marker: "distci-store FORMAT"
//	o/KEY            an object's head, see head.go
//	d/KEY/~NAME      immutable data that heads refer to
//
// The head decides. It is one small S3 object that holds the object's last
// bytes itself and names the data that comes before them, so everything that
// changes an object is one put of its head: unconditional (Put), on condition
// that there is none (Create, If-None-Match: *), or that it is still the one
// that was read (Swap and Append, If-Match: ETag). Each head has a random name
// of its own in it, so no two have the same ETag, and a writer that lost an
// answer can look whether the head is its own.
//
// A small object is its head and nothing else. Data of larger ones is written
// first, under a new name; if its writer is killed, or if the object is
// replaced, it is garbage, which Sweep removes. Nothing that a head refers to
// is ever changed.
//
// A server without conditional puts is refused: without them there is no way
// by which writers could agree that survives one that is paused at the wrong
// moment. Open tries it out, as servers that lack them take no notice.
//
// It is no [store.Remover], though Amazon's servers delete on a condition (If-Match)
// too. Others take no notice of it (Ceph's gateway) or compare first and delete
// afterwards, so that a put in between is lost (versitygw 1.8: 10 of 400 that
// raced), which cannot be found out by trying. [store.Remove] needs conditional
// puts only, which all of them have.
package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

const (
	marker = "distci-store"
	format = 1
)

// bucket is a store in a bucket.
type bucket struct {
	api       *minio.Core
	transport *transport
	name      string // of the bucket
	prefix    string // "", or ends in "/"
	patience  time.Duration
	digests   bool      // an ETag is the MD5 of what was put, which keys of the server's can change
	buffers   sync.Pool // of *[]byte, partSize long

	mu    sync.Mutex
	heads map[string]*head // the last heads that Append wrote
}

// Open opens the store at a URL; see [ParseURL] for its form. The bucket must
// exist. What it holds below the prefix must be a store of this kind or
// nothing.
func Open(ctx context.Context, url string) (store.Store, error) {
	a, err := ParseURL(url)
	if err != nil {
		return nil, err
	}
	creds, err := a.credentials()
	if err != nil {
		return nil, err
	}
	s, err := connect(a, creds)
	if err != nil {
		return nil, err
	}
	if err := s.settle(ctx); err != nil {
		s.Close()
		return nil, kind(fmt.Errorf("store/s3: open bucket %s at %s: %w", a.Bucket, a.Endpoint, translate(err)))
	}
	return s, nil
}

func connect(a Address, creds *credentials.Credentials) (*bucket, error) {
	t, err := newTransport(a, creds)
	if err != nil {
		return nil, err
	}
	lookup := minio.BucketLookupPath
	if a.VirtualHost {
		lookup = minio.BucketLookupDNS
	}
	api, err := minio.NewCore(a.Host, &minio.Options{
		Creds: creds, Secure: a.Secure, Transport: t, Region: a.Region, BucketLookup: lookup,
		MaxRetries: 1, // what may be tried again, and what it then means, is decided here
	})
	if err != nil {
		return nil, fault.Errorf(fault.Config, "store/s3: open bucket %s at %s: %w", a.Bucket, a.Endpoint, err)
	}
	s := &bucket{api: api, transport: t, name: a.Bucket, patience: a.Timeout, heads: map[string]*head{}}
	if a.Prefix != "" {
		s.prefix = a.Prefix + "/"
	}
	s.buffers.New = func() any { b := make([]byte, partSize); return &b }
	return s, nil
}

// settle finds the marker or makes it, and tries out conditional puts on it.
func (s *bucket) settle(ctx context.Context) error {
	text := fmt.Appendf(nil, "%s %d\n", marker, format)
	etag, err := s.readMarker(ctx)
	if errors.Is(err, store.ErrNotFound) {
		if err = s.isEmpty(ctx); err != nil {
			return err
		}
		if _, err = s.tryPut(ctx, marker, text, condition{absent: true}); refused(err) {
			err = nil // another process was faster
		}
		if err == nil {
			etag, err = s.readMarker(ctx)
		}
	}
	if err != nil {
		return err
	}
	s.digests = etag == digest(text)
	try := func(c condition) (bool, error) {
		err := s.retry(ctx, func() error { // others may be trying it out too
			_, err := s.tryPut(ctx, marker, text, c)
			return err
		})
		if refused(err) || status(err) == http.StatusNotImplemented {
			return false, nil
		}
		return err == nil, err
	}
	// It must refuse two, and grant the third in one of the two spellings.
	for _, c := range []condition{{absent: true}, {etag: strings.Repeat("0", 32)}} {
		if done, err := try(c); done || err != nil {
			return noConditions(done, err)
		}
	}
	if done, err := try(condition{etag: etag}); done || err != nil {
		return err
	}
	s.transport.bare.Store(true)
	if done, err := try(condition{etag: strings.Repeat("0", 32)}); done || err != nil {
		return noConditions(done, err)
	}
	done, err := try(condition{etag: etag})
	return noConditions(!done, err)
}

func noConditions(without bool, err error) error {
	if err == nil && without {
		return fault.Errorf(fault.Config, "the server has no conditional puts (If-None-Match: * and If-Match), without which writers overwrite each other unnoticed: use one that has")
	}
	return err
}

// readMarker checks the marker and returns its ETag.
func (s *bucket) readMarker(ctx context.Context) (string, error) {
	b, info, err := s.fetch(ctx, marker, 0, 1000)
	if err != nil {
		return "", err
	}
	text, ok := strings.CutPrefix(string(b), marker+" ")
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if !ok || err != nil || n < 1 {
		return "", fault.Errorf(fault.Config, "%s is not the marker of a store", s.prefix+marker)
	}
	if n > format {
		return "", fault.Errorf(fault.Config, "the store has format %d, this program knows formats up to %d: use a newer program", n, format)
	}
	return info.ETag, nil
}

// isEmpty refuses a place that is in use for other things.
func (s *bucket) isEmpty(ctx context.Context) error {
	for o, err := range s.each(ctx, "", "", 1) {
		if err != nil {
			return err
		}
		if o.Key != marker { // another process was faster
			return fault.Errorf(fault.Config, "it is not a store and not empty (it holds %q): give an empty or a new prefix", o.Key)
		}
	}
	return nil
}

// Close implements [store.Store].
func (s *bucket) Close() error {
	s.transport.base.CloseIdleConnections()
	return nil
}

// condition is that of a put. At most one of its fields is set.
type condition struct {
	etag   string // what is there has this ETag
	absent bool   // nothing is there
}

// tryPut puts a small object, once.
func (s *bucket) tryPut(ctx context.Context, name string, p []byte, c condition) (minio.UploadInfo, error) {
	o := minio.PutObjectOptions{DisableContentSha256: true, ContentType: "application/octet-stream"}
	if c.absent {
		o.SetMatchETagExcept("*")
	}
	if c.etag != "" {
		o.SetMatchETag(c.etag)
	}
	md5, sha := digests(p)
	return s.api.PutObject(ctx, s.name, s.prefix+name, bytes.NewReader(p), int64(len(p)), md5, sha, o)
}

// fetch reads at most n bytes of an object of the server's from offset on; of
// an empty object offset must be 0. It is tried again as long as there is hope.
func (s *bucket) fetch(ctx context.Context, name string, offset, n int64) (p []byte, info minio.ObjectInfo, err error) {
	err = s.retry(ctx, func() error {
		var body io.ReadCloser
		if body, info, err = s.open(ctx, name, offset, n); err != nil {
			return err
		}
		defer body.Close()
		p, err = io.ReadAll(body)
		return err
	})
	return p, info, err
}

// open is fetch for a stream, and once.
func (s *bucket) open(ctx context.Context, name string, offset, n int64) (io.ReadCloser, minio.ObjectInfo, error) {
	var o minio.GetObjectOptions
	if n >= 0 {
		if err := o.SetRange(offset, offset+n-1); err != nil {
			return nil, minio.ObjectInfo{}, err
		}
	}
	body, info, _, err := s.api.GetObject(ctx, s.name, s.prefix+name, o)
	if absent(err) {
		err = store.ErrNotFound
	}
	return body, info, err
}
