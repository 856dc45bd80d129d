package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/distci/distci/lib/api/client"
)

// byteCount counts what is written to it.
type byteCount struct{ n int64 }

func (c *byteCount) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// logs measures lines of 1 KiB from a step to a follower, and how fast a few
// lines of a log of millions are found.
func logs(b *bench) error {
	c, err := b.frontend()
	if err != nil {
		return err
	}
	if _, err := b.worker(); err != nil {
		return err
	}
	size := int64(b.some(200, 2)) << 20
	data := filepath.Join(b.dir, "data")
	if err := exec.Command("sh", "-c", fmt.Sprintf("yes $(head -c 1023 /dev/zero | tr '\\0' x) | head -c %d >%s", size, data)).Run(); err != nil {
		return err
	}
	if err := b.job(c, "loud", "cat "+data); err != nil {
		return err
	}
	if err := b.job(c, "long", "seq 5000000"); err != nil {
		return err
	}
	var ours, floor []float64
	for range 3 {
		from := time.Now()
		n, err := c.Trigger(context.Background(), "loud")
		if err != nil {
			return err
		}
		got := &byteCount{}
		if err := c.Follow(context.Background(), "loud", n, 0, got); err != nil {
			return err
		}
		if got.n < size {
			return fmt.Errorf("%d of %d bytes arrived", got.n, size)
		}
		ours = append(ours, float64(size)/time.Since(from).Seconds())
		from = time.Now()
		if err := exec.Command("sh", "-c", fmt.Sprintf("cat %s | cat >%s/copy && sync %s/copy && cat %s/copy | cat >/dev/null", data, b.dir, b.dir, b.dir)).Run(); err != nil {
			return err
		}
		floor = append(floor, float64(size)/time.Since(from).Seconds())
	}
	const against = "cat | cat >file, fsync, cat | cat"
	b.print("lines of 1 KiB, from a step through the store to a follower", quantile(ours, 0.5)/1024, "lines/s", against, quantile(floor, 0.5)/1024, "", nil)
	b.print("the same in bytes", quantile(ours, 0.5)/1e6, "MB/s", against, quantile(floor, 0.5)/1e6, "", nil)
	if b.short {
		return nil // they need their millions of lines
	}
	return lineRanges(b, c)
}

// lineRanges measures ranges of lines against the same bytes.
func lineRanges(b *bench, c *client.Client) error {
	ctx := context.Background()
	n, err := c.Trigger(ctx, "long")
	if err != nil {
		return err
	}
	if _, err := finish(c, "long", n); err != nil {
		return err
	}
	list, err := c.Logs(ctx, "long", n, "")
	if err != nil {
		return err
	}
	i := 0
	for i < len(list.Logs) && list.Logs[i].Size < 30e6 {
		i++
	}
	if i == len(list.Logs) {
		return errors.New("there is no log of millions of lines")
	}
	rows := []struct {
		name string
		read func(k int64) error
		want int64
		took []float64
	}{
		{name: "10 lines in the middle of 5,000,000, p50", want: 70},
		{name: "the last 10 of 5,000,000 lines, p50", want: 10},
		{name: "64 KiB of the log", want: 64 << 10},
	}
	var got byteCount
	rows[0].read = func(k int64) error {
		return c.StepLines(ctx, "long", n, list.Logs[i].Step, client.Lines{From: 1_000_000 + 30_000*k, To: 1_000_009 + 30_000*k}, &got)
	}
	rows[1].read = func(int64) error {
		return c.StepLines(ctx, "long", n, list.Logs[i].Step, client.Lines{Tail: 10}, &got)
	}
	rows[2].read = func(k int64) error { return c.LogRange(ctx, "long", n, list.Logs[i].Name, 300_000*k, 64<<10, &got) }
	for k := range int64(100) {
		for j := range rows {
			got.n = 0
			from := time.Now()
			if err := rows[j].read(k); err != nil {
				return err
			}
			rows[j].took = append(rows[j].took, ms(from, time.Now()))
			if got.n < rows[j].want {
				return fmt.Errorf("%s: %d bytes", rows[j].name, got.n)
			}
		}
	}
	floor := quantile(rows[2].took, 0.5)
	for _, r := range rows[:2] {
		b.print(r.name, quantile(r.took, 0.5), "ms", rows[2].name, floor, "", nil)
	}
	return nil
}
