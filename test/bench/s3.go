package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/store"
	s3store "github.com/distci/distci/lib/store/s3"
	s3test "github.com/distci/distci/test/s3"
)

// The rows of S3 are measured on Ceph's gateway, which is started for them, and
// are left out where it is not installed. What they are compared with is the
// library's own way to do the same, on the same server, in turns.

// s3rig is a store, and the same bucket without it.
type s3rig struct {
	*bench
	store.Store
	api    *minio.Core
	bucket string
	err    error // the first
}

func s3rows(b *bench) (err error) {
	h := &host{}
	defer h.end()
	defer func() {
		switch p := recover().(type) {
		case nil:
		case stopped:
			var skipped skip
			if err = p.error; errors.As(err, &skipped) {
				fmt.Fprintln(os.Stderr, "bench:", err)
				err = nil
			}
		default:
			panic(p)
		}
	}()
	server := s3test.Ceph(h)
	st, err := s3store.Open(context.Background(), server.Fresh(""))
	if err != nil {
		return err
	}
	defer st.Close()
	r := &s3rig{bench: b, Store: st, api: server.Client(h), bucket: server.Bucket}
	for _, measure := range []func(ctx context.Context){r.large, r.small, r.log, r.listing} {
		if measure(context.Background()); r.err != nil {
			return r.err
		}
	}
	return nil
}

// in measures how long one of several things takes, at most some at a time;
// the result is that many a second.
func (r *s3rig) in(times, atATime int, do func(i int) error) float64 {
	var g errgroup.Group
	g.SetLimit(atATime)
	from := time.Now()
	for i := range times {
		g.Go(func() error { return do(i) })
	}
	if err := g.Wait(); err != nil && r.err == nil {
		r.err = err
	}
	return float64(times) / time.Since(from).Seconds()
}

// turns measures two things in turns, and takes the median of each.
func (r *s3rig) turns(ours, peer func(turn int) float64) (float64, float64) {
	var a, b []float64
	for turn := range 5 {
		a, b = append(a, ours(turn)), append(b, peer(turn))
	}
	return quantile(a, 0.5), quantile(b, 0.5)
}

func (r *s3rig) plainPut(ctx context.Context, name string, p []byte) error {
	_, err := r.api.Client.PutObject(ctx, r.bucket, name, bytes.NewReader(p), int64(len(p)), minio.PutObjectOptions{PartSize: 8 << 20, NumThreads: 3})
	return err
}

func (r *s3rig) plainGet(ctx context.Context, name string, offset, n int64) error {
	var o minio.GetObjectOptions
	if err := o.SetRange(offset, offset+n-1); err != nil {
		return err
	}
	body, err := r.api.Client.GetObject(ctx, r.bucket, name, o)
	if err != nil {
		return err
	}
	return drain(body, n)
}

func (r *s3rig) get(ctx context.Context, key string, offset, n int64) error {
	body, _, err := r.Get(ctx, key, offset, n)
	if err != nil {
		return err
	}
	return drain(body, n)
}

func drain(body io.ReadCloser, n int64) error {
	defer body.Close()
	if got, err := io.Copy(io.Discard, body); err != nil || got != n {
		return fmt.Errorf("read %d bytes of %d: %w", got, n, err)
	}
	return nil
}

func noise(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(p)
	return p
}

// large moves objects of 64 MiB, one at a time, its parts at most three.
func (r *s3rig) large(ctx context.Context) {
	const size = 64 << 20
	p := noise(size)
	atLeast := func(bar float64) func(float64, float64) bool {
		return func(_, ratio float64) bool { return ratio >= bar }
	}
	ours, peer := r.turns(func(int) float64 {
		return size / 1e6 * r.in(1, 1, func(int) error { _, err := r.Put(ctx, "large", bytes.NewReader(p)); return err })
	}, func(int) float64 {
		return size / 1e6 * r.in(1, 1, func(int) error { return r.plainPut(ctx, "plain/large", p) })
	})
	r.print("s3: upload of 64 MiB", ours, "MB/s", "PutObject", peer, "≥ 0.8 ×", atLeast(0.8))
	ours, peer = r.turns(func(int) float64 {
		return size / 1e6 * r.in(1, 1, func(int) error { return r.get(ctx, "large", 0, size) })
	}, func(int) float64 {
		return size / 1e6 * r.in(1, 1, func(int) error { return r.plainGet(ctx, "plain/large", 0, size) })
	})
	r.print("s3: download of 64 MiB", ours, "MB/s", "GetObject", peer, "≥ 0.8 ×", atLeast(0.8))
	at := func(i int) int64 { return int64(i) * 7919 % 1000 * 65_000 }
	ours, peer = r.turns(func(int) float64 {
		return 1000 / r.in(50, 1, func(i int) error { return r.get(ctx, "large", at(i), 64<<10) })
	}, func(int) float64 {
		return 1000 / r.in(50, 1, func(i int) error { return r.plainGet(ctx, "plain/large", at(i), 64<<10) })
	})
	r.print("s3: read of 64 KiB somewhere in 64 MiB", ours, "ms", "GetObject with a range", peer, "", nil)
}

// small moves objects of 4 KiB, eight at a time.
func (r *s3rig) small(ctx context.Context) {
	const n, size, slots = 200, 4 << 10, 8
	p := noise(size)
	ours, peer := r.turns(func(turn int) float64 {
		return r.in(n, slots, func(i int) error {
			_, err := r.Put(ctx, fmt.Sprintf("small/%d-%d", turn, i), bytes.NewReader(p))
			return err
		})
	}, func(turn int) float64 {
		return r.in(n, slots, func(i int) error { return r.plainPut(ctx, fmt.Sprintf("plain/small/%d-%d", turn, i), p) })
	})
	r.print("s3: objects of 4 KiB put, 8 at a time", ours, "1/s", "PutObject", peer, "≥ 0.8 ×", func(_, ratio float64) bool { return ratio >= 0.8 })
	ours, peer = r.turns(func(turn int) float64 {
		return r.in(n, slots, func(i int) error { return r.get(ctx, fmt.Sprintf("small/%d-%d", turn, i), 0, size) })
	}, func(turn int) float64 {
		return r.in(n, slots, func(i int) error { return r.plainGet(ctx, fmt.Sprintf("plain/small/%d-%d", turn, i), 0, size) })
	})
	r.print("s3: objects of 4 KiB read, 8 at a time", ours, "1/s", "GetObject", peer, "≥ 0.8 ×", func(_, ratio float64) bool { return ratio >= 0.8 })
}

// log appends as a step's console does: one writer, as fast as it can.
func (r *s3rig) log(ctx context.Context) {
	for _, size := range []int{1 << 10, 64 << 10} {
		const n = 100
		p, key := noise(size), fmt.Sprintf("log/%d", size)
		ours, peer := r.turns(func(turn int) float64 {
			return r.in(n, 1, func(i int) error { return r.Append(ctx, key, int64(turn*n+i)*int64(size), p) })
		}, func(turn int) float64 {
			return r.in(n, 1, func(i int) error { return r.plainPut(ctx, fmt.Sprintf("plain/log/%d-%d", turn, i), p) })
		})
		r.print(fmt.Sprintf("s3: appends of %d KiB", size>>10), ours, "1/s", "PutObject of as much", peer, "", nil)
	}
}

// listing lists 10,000 objects.
func (r *s3rig) listing(ctx context.Context) {
	const n = 10_000
	for _, put := range []func(i int) error{
		func(i int) error {
			_, err := r.Put(ctx, fmt.Sprintf("list/%05d", i), bytes.NewReader([]byte("x")))
			return err
		},
		func(i int) error { return r.plainPut(ctx, fmt.Sprintf("plain/list/%05d", i), []byte("x")) },
	} {
		if r.in(n, 16, put); r.err != nil {
			return
		}
	}
	ours, peer := r.turns(func(int) float64 {
		return 1000 / r.in(1, 1, func(int) error {
			infos, err := r.List(ctx, "list/", "", n)
			if err == nil && len(infos) != n {
				err = fmt.Errorf("listed %d", len(infos))
			}
			return err
		})
	}, func(int) float64 {
		return 1000 / r.in(1, 1, func(int) error {
			for o := range r.api.ListObjectsIter(ctx, r.bucket, minio.ListObjectsOptions{Prefix: "plain/list/", Recursive: true}) {
				if o.Err != nil {
					return o.Err
				}
			}
			return nil
		})
	})
	r.print("s3: 10,000 objects listed", ours, "ms", "ListObjects", peer, "", nil)
}
