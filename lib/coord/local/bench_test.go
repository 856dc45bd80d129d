package local

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/coord"
)

func open(b testing.TB) coord.Conn {
	b.Helper()
	c, err := Open(context.Background(), filepath.Join(b.TempDir(), "c", "coord.db"), Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return c
}

// cpu reports the processor time of one iteration, of which the disk has none.
func cpu(b *testing.B, run func()) {
	var before, after unix.Rusage
	unix.Getrusage(unix.RUSAGE_SELF, &before)
	run()
	unix.Getrusage(unix.RUSAGE_SELF, &after)
	used := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
	b.ReportMetric(float64(used)/float64(b.N)/1000, "cpu-µs/op")
}

// BenchmarkTxn is the shape of a claim: one node goes, two come, one is set.
func BenchmarkTxn(b *testing.B) {
	c, ctx := open(b), context.Background()
	data := make([]byte, 300)
	if _, err := c.Txn(ctx, coord.Create("/q", nil), coord.Create("/t", data)); err != nil {
		b.Fatal(err)
	}
	i := 0
	cpu(b, func() {
		for b.Loop() {
			ops := []coord.Op{
				coord.Create(fmt.Sprintf("/q/run-%09d", i), data),
				coord.CreateEphemeral(fmt.Sprintf("/q/claim-%09d", i), nil),
				coord.Set("/t", data, coord.AnyVersion),
				coord.Check("/q", coord.AnyVersion),
			}
			if i > 0 {
				ops[3] = coord.Delete(fmt.Sprintf("/q/run-%09d", i-1), 0)
			}
			if _, err := c.Txn(ctx, ops...); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
}

func BenchmarkGet(b *testing.B) {
	c, ctx := open(b), context.Background()
	if _, err := c.Txn(ctx, coord.Create("/t", make([]byte, 300))); err != nil {
		b.Fatal(err)
	}
	cpu(b, func() {
		for b.Loop() {
			if _, _, err := c.Get(ctx, "/t"); err != nil {
				b.Fatal(err)
			}
		}
	})
}
