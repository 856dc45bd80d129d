package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/store"
)

const (
	// partSize is what is uploaded at once, and inFlight how many of them for
	// one object: an upload has (inFlight+1) × partSize bytes in memory.
	partSize = 8 << 20
	inFlight = 3
	// maxParts is S3's limit to the parts of one upload. An object that needs
	// more has several pieces.
	maxParts = 10_000
)

func dataName(key, name string) string { return "d/" + key + "/~" + name }

// upload stores what is left of r behind the bytes first, as new pieces. What
// it leaves behind when it fails is removed, as far as that can be done.
func (s *bucket) upload(ctx context.Context, key string, first []byte, r io.Reader) (pieces []piece, err error) {
	defer func() {
		if err != nil {
			s.discard(ctx, key, pieces)
			pieces = nil
		}
	}()
	r = io.MultiReader(bytes.NewReader(first), r)
	for {
		buf := s.buffers.Get().(*[]byte)
		n, err := fill(ctx, r, *buf)
		last := err == io.EOF
		if err != nil && !last {
			s.buffers.Put(buf)
			return pieces, err
		}
		if n == 0 {
			s.buffers.Put(buf)
			return pieces, nil
		}
		p := piece{name: randomName()}
		if last {
			p.size = int64(n)
			err = s.uploadWhole(ctx, key, p, (*buf)[:n])
			s.buffers.Put(buf)
		} else {
			p.size, last, err = s.uploadParts(ctx, key, p, buf, r)
		}
		if err != nil {
			return pieces, err
		}
		pieces = append(pieces, p)
		if last {
			return pieces, nil
		}
	}
}

// fill fills buf from the caller's reader. It ends with io.EOF if that ended,
// also where it filled some of it.
func fill(ctx context.Context, r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	if err != nil && err != io.EOF {
		return n, &sourceError{err}
	}
	if n == len(buf) {
		err = nil // an end is met again by the next call
	}
	return n, err
}

// uploadWhole stores a piece with one request. It may be repeated: nobody else
// has the name.
func (s *bucket) uploadWhole(ctx context.Context, key string, p piece, data []byte) error {
	return s.retry(ctx, func() error {
		_, err := s.tryPut(ctx, dataName(key, p.name), data, condition{})
		return err
	})
}

// uploadParts stores a piece that begins with a full buffer, which it takes,
// with a multipart upload. Last tells whether r has ended.
func (s *bucket) uploadParts(ctx context.Context, key string, p piece, buf *[]byte, r io.Reader) (size int64, last bool, err error) {
	name := s.prefix + dataName(key, p.name)
	var id string
	err = s.retry(ctx, func() (err error) {
		id, err = s.api.NewMultipartUpload(ctx, s.name, name, minio.PutObjectOptions{ContentType: "application/octet-stream"})
		return err
	})
	if err != nil {
		s.buffers.Put(buf)
		return 0, false, err
	}
	defer func() {
		if err != nil {
			s.abort(ctx, name, id)
		}
	}()
	var parts []*minio.CompletePart
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(inFlight)
	n := partSize
	for err == nil && n > 0 {
		part := &minio.CompletePart{PartNumber: len(parts) + 1}
		parts = append(parts, part)
		data, full := (*buf)[:n], buf
		size += int64(n)
		group.Go(func() (err error) {
			defer s.buffers.Put(full)
			part.ETag, err = s.uploadPart(sending, name, id, part.PartNumber, data)
			return err
		})
		if last || len(parts) == maxParts {
			break
		}
		buf = s.buffers.Get().(*[]byte)
		n, err = fill(sending, r, *buf)
		if err == io.EOF {
			err, last = nil, true
		}
		if n == 0 || err != nil {
			s.buffers.Put(buf)
		}
	}
	if failure := group.Wait(); failure != nil && (err == nil || !isSource(err)) {
		err = failure // the reason why filling was canceled
	}
	if err != nil {
		return size, last, err
	}
	return size, last, s.complete(ctx, name, id, parts, size)
}

func isSource(err error) bool {
	var source *sourceError
	return errors.As(err, &source)
}

func (s *bucket) uploadPart(ctx context.Context, name, id string, number int, data []byte) (etag string, err error) {
	md5, sha := digests(data)
	err = s.retry(ctx, func() error {
		part, err := s.api.PutObjectPart(ctx, s.name, name, id, number, bytes.NewReader(data), int64(len(data)),
			minio.PutObjectPartOptions{Md5Base64: md5, Sha256Hex: sha, DisableContentSha256: true})
		etag = part.ETag
		return err
	})
	return etag, err
}

// complete makes an object of the parts. If the answer to that is lost, the
// upload may be gone because the object is there.
func (s *bucket) complete(ctx context.Context, name, id string, parts []*minio.CompletePart, size int64) error {
	list := make([]minio.CompletePart, len(parts))
	for i, p := range parts {
		list[i] = *p
	}
	return s.retry(ctx, func() error {
		_, err := s.api.CompleteMultipartUpload(ctx, s.name, name, id, list, minio.PutObjectOptions{})
		if err == nil || ctx.Err() != nil {
			return err
		}
		if info, statErr := s.api.StatObject(ctx, s.name, name, minio.StatObjectOptions{}); statErr == nil {
			if info.Size == size {
				return nil
			}
			return fmt.Errorf("%w: of %d bytes the server kept %d", err, size, info.Size)
		}
		return err
	})
}

// abort gives an upload up. The caller's context may be done; what cannot be
// aborted now is garbage.
func (s *bucket) abort(ctx context.Context, name, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(s.patience, 10*time.Second))
	defer cancel()
	s.api.AbortMultipartUpload(ctx, s.name, name, id)
}

// discard removes pieces that no head names, or leaves them as garbage.
func (s *bucket) discard(ctx context.Context, key string, pieces []piece) {
	if len(pieces) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(s.patience, 10*time.Second))
	defer cancel()
	for _, p := range pieces {
		if err := s.remove(ctx, dataName(key, p.name)); err != nil && !errors.Is(err, store.ErrNotFound) {
			return
		}
	}
}

// remove deletes an object of the server's, whether it is there or not, once.
func (s *bucket) remove(ctx context.Context, name string) error {
	return s.api.RemoveObject(ctx, s.name, s.prefix+name, minio.RemoveObjectOptions{})
}
