package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/rados"
	cephtest "github.com/distci/distci/test/ceph"
)

// The rows of Ceph are measured on a cluster of one OSD, and on one of three
// with three copies, which are started for them, and are left out where Ceph
// or librados is not installed. All OSDs share this machine's processors and
// disk.

// pool is a store in a cluster, and what it is measured with.
type pool struct {
	*bench
	*cephtest.Cluster
	store store.Store
	osds  int
}

func cephRows(b *bench) error {
	if !rados.Available {
		fmt.Fprintln(os.Stderr, "bench: no rows of Ceph: this program was built without librados")
		return nil
	}
	for _, osds := range []int{1, 3} {
		err := withCeph(b, osds, func(p *pool) error {
			for _, measure := range []func(context.Context) error{p.artefacts, p.ranges, p.appends, p.lists} {
				if err := measure(context.Background()); err != nil {
					return err
				}
			}
			return nil
		})
		var skipped skip
		if errors.As(err, &skipped) {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return nil
		}
		if err != nil {
			return fmt.Errorf("%d OSDs: %w", osds, err)
		}
	}
	return nil
}

func withCeph(b *bench, osds int, measure func(p *pool) error) (err error) {
	h := &host{}
	defer h.end()
	defer func() {
		switch p := recover().(type) {
		case nil:
		case stopped:
			err = p.error
		default:
			panic(p)
		}
	}()
	c := cephtest.Start(h, cephtest.Options{OSDs: osds})
	s, err := rados.Open(c.Address("bench"))
	if err != nil {
		return err
	}
	defer s.Close()
	return measure(&pool{b, c, s, osds})
}

func (p *pool) row(name string, value float64, unit, against string, peer float64, bar string, met func(value, ratio float64) bool) {
	p.print(fmt.Sprintf("Ceph, %d OSD: %s", p.osds, name), value, unit, against, peer, bar, met)
}

// peer runs Ceph's own benchmark and returns a number that it prints.
func (p *pool) peer(label string, args ...string) (float64, error) {
	out, err := p.Rados(append([]string{"-p", cephtest.Pool, "-N", "peer", "bench"}, args...)...)
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(label) + `:\s+([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("rados bench %s does not tell %q:\n%s", strings.Join(args, " "), label, out)
	}
	return strconv.ParseFloat(m[1], 64)
}

// repeated is an endless source of the same 4 MiB, as that of rados bench.
type repeated struct {
	b  []byte
	at int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.b[r.at:])
	r.at = (r.at + n) % len(r.b)
	return n, nil
}

// artefacts measures a large object, up and down, with four chunks at a time,
// against rados bench with four.
func (p *pool) artefacts(ctx context.Context) error {
	const size, mib = 512 << 20, 1 << 20
	source := &repeated{b: make([]byte, 4<<20)}
	rand.NewChaCha8([32]byte{1}).Read(source.b)
	const write, read = "write", "seq"
	ours, peers := map[string][]float64{}, map[string][]float64{}
	for round := range 5 {
		from := time.Now()
		if _, err := p.store.Put(ctx, "artefact", io.LimitReader(source, size)); err != nil {
			return err
		}
		ours[write] = append(ours[write], size/mib/time.Since(from).Seconds())
		mbps, err := p.peer("Bandwidth (MB/sec)", "2", write, "-t", "4", "-b", "4194304", "--no-cleanup", "--run-name", "large")
		if err != nil {
			return err
		}
		peers[write] = append(peers[write], mbps)

		from = time.Now()
		r, _, err := p.store.Get(ctx, "artefact", 0, -1)
		if err != nil {
			return err
		}
		if n, err := io.Copy(sink{}, r); err != nil || n != size {
			return fmt.Errorf("read %d bytes: %w", n, err)
		}
		r.Close()
		ours[read] = append(ours[read], size/mib/time.Since(from).Seconds())
		if mbps, err = p.peer("Bandwidth (MB/sec)", "2", read, "-t", "4", "--run-name", "large"); err != nil {
			return err
		}
		peers[read] = append(peers[read], mbps)
		if err := p.store.Delete(ctx, "artefact"); err != nil {
			return err
		}
		if _, err := p.Rados("-p", cephtest.Pool, "-N", "peer", "cleanup", "--run-name", "large"); err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
	}
	for _, way := range []struct{ name, key string }{{"upload of 512 MiB", write}, {"download of 512 MiB", read}} {
		p.row(way.name, quantile(ours[way.key], 0.5), "MiB/s", "rados bench "+way.key+" -t 4", quantile(peers[way.key], 0.5),
			">= 0.8 × rados bench", func(_, ratio float64) bool { return ratio >= 0.8 })
	}
	return nil
}

// sink takes bytes, and none of the ways around Read.
type sink struct{}

func (sink) Write(p []byte) (int, error) { return len(p), nil }

// ranges measures reading 64 KiB out of a large object.
func (p *pool) ranges(ctx context.Context) error {
	const size, part = 64 << 20, 64 << 10
	if _, err := p.store.Put(ctx, "ranges", io.LimitReader(&repeated{b: make([]byte, 4<<20)}, size)); err != nil {
		return err
	}
	var times []float64
	for range 1000 {
		from := time.Now()
		r, _, err := p.store.Get(ctx, "ranges", rand.Int64N(size-part), part)
		if err != nil {
			return err
		}
		if n, err := io.Copy(sink{}, r); err != nil || n != part {
			return fmt.Errorf("read %d bytes: %w", n, err)
		}
		r.Close()
		times = append(times, ms(from, time.Now()))
	}
	if _, err := p.peer("Average IOPS", "2", "write", "-t", "8", "-b", strconv.Itoa(part), "--no-cleanup", "--run-name", "small"); err != nil {
		return err
	}
	seconds, err := p.peer("Average Latency(s)", "2", "rand", "-t", "1", "--run-name", "small")
	if err != nil {
		return err
	}
	p.row("64 KiB out of an object, p50", quantile(times, 0.5), "ms", "rados bench rand -t 1, average", seconds*1000, "", nil)
	return nil
}

// appends measures a log of short lines, each of which is safe when Append
// returns.
func (p *pool) appends(ctx context.Context) error {
	const n = 3000
	line := make([]byte, 1024)
	from := time.Now()
	for i := range n {
		if err := p.store.Append(ctx, "log", int64(i*len(line)), line); err != nil {
			return err
		}
	}
	rate := n / time.Since(from).Seconds()
	peer, err := p.peer("Average IOPS", "3", "write", "-t", "1", "-b", "1024", "--run-name", "lines")
	if err != nil {
		return err
	}
	p.row("appends of 1 KiB", rate, "/s", "rados bench write -b 1024 -t 1", peer, "", nil)
	return nil
}

// lists measures a list of 10,000 objects.
func (p *pool) lists(ctx context.Context) error {
	const n = 10_000
	from := time.Now()
	err := together(n, 16, func(i int) error {
		_, err := p.store.Put(ctx, fmt.Sprintf("list/%06d", i), strings.NewReader("x"))
		return err
	})
	if err != nil {
		return err
	}
	p.row("small objects put, 16 at a time", n/time.Since(from).Seconds(), "/s", "", 0, "", nil)
	var times []float64
	for range 5 {
		from = time.Now()
		count := 0
		for after := ""; ; {
			infos, err := p.store.List(ctx, "list/", after, 0)
			if err != nil {
				return err
			}
			if count += len(infos); len(infos) == 0 {
				break
			}
			after = infos[len(infos)-1].Key
		}
		if count != n {
			return fmt.Errorf("listed %d objects, want %d", count, n)
		}
		times = append(times, ms(from, time.Now()))
	}
	var peers []float64
	for range 3 {
		from = time.Now()
		if _, err := p.Rados("-p", cephtest.Pool, "-N", "bench.data", "ls"); err != nil {
			return err
		}
		peers = append(peers, ms(from, time.Now()))
	}
	p.row("list of 10,000 objects, p50", quantile(times, 0.5), "ms", "rados ls, without order", quantile(peers, 0.5), "", nil)
	return nil
}
