package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store/rados"
	"github.com/distci/distci/lib/ticket"
	s3test "github.com/distci/distci/test/s3"
)

// open opens the measurement's coordination and store.
func (b *bench) open() (*cluster.Cluster, error) {
	return cluster.Open(context.Background(), cluster.Options{Coord: b.coord, Store: b.address()})
}

// storeRows measures the same of each store: in a folder, in Ceph with one OSD
// and in its S3, which are started for it; what is not installed is left out.
func storeRows(b *bench) (err error) {
	if err := b.throughStore("folder", ""); err != nil {
		return err
	}
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
	if rados.Available {
		if err := b.throughStore("Ceph", server.Cluster.Address("stores")); err != nil {
			return err
		}
	}
	return b.throughStore("S3", server.Fresh(""))
}

// throughStore measures the whole path through a store, by real programs.
func (b *bench) throughStore(name, address string) error {
	for _, m := range []measurement{{"logs", logs}, {"follow", follow}, {"handover", handover}, {"ranges", ranges}, {"builds", manyBuilds}} {
		dir := filepath.Join(b.dir, name+"-"+m.name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		one := &bench{dir: dir, coord: "local:" + dir + "/coord.db", store: address, label: name + ": ", short: b.short}
		err := m.run(one)
		one.close()
		if err != nil {
			return fmt.Errorf("%s: %s: %w", name, m.name, err)
		}
	}
	return nil
}

// ranges measures reading 64 KiB out of an object.
func ranges(b *bench) error {
	cl, err := b.open()
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx := context.Background()
	const part = 64 << 10
	size := int64(b.some(64, 8)) << 20
	if _, err := cl.Store.Put(ctx, "ranges", strings.NewReader(strings.Repeat("x", int(size)))); err != nil {
		return err
	}
	var late []float64
	for i := range int64(b.some(1000, 50)) {
		from := time.Now()
		body, _, err := cl.Store.Get(ctx, "ranges", i*7919*part%(size-part), part)
		if err != nil {
			return err
		}
		if err := drain(body, part); err != nil {
			return err
		}
		late = append(late, ms(from, time.Now()))
	}
	b.print("64 KiB out of an object, p50", quantile(late, 0.5), "ms", "p99", quantile(late, 0.99), "", nil)
	return nil
}

// manyBuilds measures the list of a job's 10,000 finished builds, and its end,
// as people look at it.
func manyBuilds(b *bench) error {
	ctx := context.Background()
	cl, err := b.open()
	if err != nil {
		return err
	}
	defer cl.Close()
	c, err := b.frontend()
	if err != nil {
		return err
	}
	if err := b.job(c, "many", "true"); err != nil {
		return err
	}
	n := b.some(10_000, 100)
	const record = `{"status":"complete","result":"success","tasks":{}}`
	err = together(n, 16, func(i int) error {
		_, err := cl.Store.Put(ctx, repo.BuildPrefix("many", ticket.Number(i+1))+repo.NameState, strings.NewReader(record))
		return err
	})
	if err == nil {
		err = cl.Repo.RaiseNumber(ctx, "many", ticket.Number(n))
	}
	if err != nil {
		return err
	}
	var all, plain []float64
	for range 5 {
		from := time.Now()
		numbers, err := c.Builds(ctx, "many")
		if err != nil || len(numbers) != n {
			return fmt.Errorf("%d of %d builds: %w", len(numbers), n, err)
		}
		all = append(all, ms(from, time.Now()))
		from = time.Now()
		count := 0
		for after := ""; ; {
			infos, err := cl.Store.List(ctx, "builds/many/", after, 0)
			if err != nil {
				return err
			}
			if len(infos) == 0 {
				break
			}
			count, after = count+len(infos), infos[len(infos)-1].Key
		}
		if count != n {
			return fmt.Errorf("%d of %d objects", count, n)
		}
		plain = append(plain, ms(from, time.Now()))
	}
	b.print(fmt.Sprintf("%d builds listed over REST, p50", n), quantile(all, 0.5), "ms", "their objects listed by the store", quantile(plain, 0.5), "", nil)
	return nil
}
