package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/ticket"
)

// milliseconds between two times.
func ms(from, to time.Time) float64 { return float64(to.Sub(from).Microseconds()) / 1000 }

// forkExec is the floor of a no-op step: what the tool costs by itself.
func forkExec(b *bench, n int) (float64, error) {
	var times []float64
	for range n {
		cmd := exec.Command(program("distci-exec"), "--workspace", b.dir)
		cmd.Env, cmd.Stdin = b.env(), strings.NewReader(`{"type":"execute-shell","params":{"script":":"}}`)
		from := time.Now()
		if err := cmd.Run(); err != nil {
			return 0, err
		}
		times = append(times, ms(from, time.Now()))
	}
	return quantile(times, 0.5), nil
}

// execRate is the floor of many no-op steps: the tool alone, as many at a time
// as there are slots, a second.
func execRate(b *bench, slots, each int) (float64, error) {
	var g errgroup.Group
	from := time.Now()
	for range slots {
		g.Go(func() error {
			_, err := forkExec(b, each)
			return err
		})
	}
	err := g.Wait()
	return float64(slots*each) / time.Since(from).Seconds(), err
}

// steps measures no-op steps through a real frontend and real workers.
func steps(b *bench) error {
	ctx := context.Background()
	c, err := b.frontend()
	if err != nil {
		return err
	}
	if _, err := b.worker(); err != nil {
		return err
	}
	var latency []float64
	for i := range 220 {
		from := time.Now()
		t := ticket.New("execute-shell", "execute_shell_v1")
		t.Params = json.RawMessage(`{"script":":"}`)
		posted, err := c.PostTask(ctx, t)
		if err != nil {
			return err
		}
		for {
			t, err := c.Task(ctx, posted.ID)
			if err != nil {
				return err
			}
			if t.Status == ticket.Complete {
				if t.Result != ticket.Success {
					return fmt.Errorf("%s: %s", t.Result, t.Error)
				}
				if i >= 20 { // the first ones warm up
					latency = append(latency, ms(from, *t.Ended))
				}
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if err := c.DeleteTask(ctx, posted.ID); err != nil {
			return err
		}
	}
	floor, err := forkExec(b, 50)
	if err != nil {
		return err
	}
	b.print("no-op step, posted to committed, p50", quantile(latency, 0.5), "ms", "distci-exec alone, p50", floor, "< 10 ms", func(v, _ float64) bool { return v < 10 })
	b.print("no-op step, posted to committed, p99", quantile(latency, 0.99), "ms", "distci-exec alone, p50", floor, "", nil)

	if _, err := b.worker("--jobs", "2"); err != nil {
		return err
	}
	if err := b.job(c, "noop", ":", ":", ":", ":", ":", ":", ":", ":", ":", ":"); err != nil {
		return err
	}
	const builds = 60
	from := time.Now()
	for range builds {
		if _, err := c.Trigger(ctx, "noop"); err != nil {
			return err
		}
	}
	for n := range builds {
		if _, err := finish(c, "noop", ticket.Number(n+1)); err != nil {
			return err
		}
	}
	rate := builds * 10 / time.Since(from).Seconds()
	alone, err := execRate(b, 3, 100)
	if err != nil {
		return err
	}
	b.print("no-op steps, builds of ten, two worker processes, three slots", rate, "1/s", "distci-exec alone, three at a time", alone, "> 300 /s", func(v, _ float64) bool { return v > 300 })
	return nil
}

// triggers measures how fast builds are begun.
func triggers(b *bench) error {
	c, err := b.frontend()
	if err != nil {
		return err
	}
	if err := b.job(c, "noop", ":"); err != nil {
		return err
	}
	const n = 500
	from := time.Now()
	for range n {
		if _, err := c.Trigger(context.Background(), "noop"); err != nil {
			return err
		}
	}
	rate := n / time.Since(from).Seconds()
	floor, err := fsyncs(b, n)
	if err != nil {
		return err
	}
	b.print("triggers, one client", rate, "1/s", "write + fsync of 4 KiB", floor, "", nil)
	return nil
}

// fsyncs is the floor of what is durable: small writes a second.
func fsyncs(b *bench, n int) (float64, error) {
	f, err := os.Create(filepath.Join(b.dir, "fsync"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	from := time.Now()
	for range n {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(from).Seconds(), nil
}

// console measures a step that prints much.
func console(b *bench) error {
	c, err := b.frontend()
	if err != nil {
		return err
	}
	if _, err := b.worker(); err != nil {
		return err
	}
	const size = 400 << 20
	data := filepath.Join(b.dir, "data")
	if err := exec.Command("sh", "-c", fmt.Sprintf("yes 'a line of a log that is about as long as such lines are, more or less' | head -c %d >%s", size, data)).Run(); err != nil {
		return err
	}
	if err := b.job(c, "loud", "cat "+data); err != nil {
		return err
	}
	var ours, floor []float64
	for n := range 3 {
		if _, err := c.Trigger(context.Background(), "loud"); err != nil {
			return err
		}
		s, err := finish(c, "loud", ticket.Number(n+1))
		if err != nil {
			return err
		}
		t := s.Tasks["0"]
		ours = append(ours, size/1e6/t.Ended.Sub(*t.Started).Seconds())
		from := time.Now()
		if err := exec.Command("sh", "-c", fmt.Sprintf("cat %s | cat >%s/copy && sync %s/copy", data, b.dir, b.dir)).Run(); err != nil {
			return err
		}
		floor = append(floor, size/1e6/time.Since(from).Seconds())
	}
	b.print("console through distci-claim to the store", quantile(ours, 0.5), "MB/s", "cat | cat >file, fsync", quantile(floor, 0.5), "> 100 MB/s", func(v, _ float64) bool { return v > 100 })
	return nil
}

// follow measures when a line that a step prints is seen by a follower.
func follow(b *bench) error {
	c, err := b.frontend()
	if err != nil {
		return err
	}
	if _, err := b.worker(); err != nil {
		return err
	}
	if err := b.job(c, "clock", "for i in $(seq 200); do date +%s%N; sleep 0.02; done"); err != nil {
		return err
	}
	n, err := c.Trigger(context.Background(), "clock")
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := c.Follow(context.Background(), "clock", n, 0, w)
		w.CloseWithError(err)
		done <- err
	}()
	var late []float64
	for lines := bufio.NewScanner(r); lines.Scan(); {
		if ns, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
			late = append(late, ms(time.Unix(0, ns), time.Now()))
		}
	}
	if err := <-done; err != nil {
		return err
	}
	if len(late) != 200 {
		return fmt.Errorf("%d of 200 lines arrived", len(late))
	}
	b.print("a line printed to seen by a follower, p50", quantile(late, 0.5), "ms", "", 0, "", nil)
	b.print("a line printed to seen by a follower, p99", quantile(late, 0.99), "ms", "", 0, "< 300 ms", func(v, _ float64) bool { return v < 300 })
	return nil
}

// idle measures a worker that waits for tickets.
func idle(b *bench) error {
	if _, err := b.frontend(); err != nil {
		return err
	}
	w, err := b.worker()
	if err != nil {
		return err
	}
	time.Sleep(3 * time.Second) // start-up is not idleness
	const seconds = 20
	before, err := cpuTime(w.Process.Pid)
	if err != nil {
		return err
	}
	time.Sleep(seconds * time.Second)
	after, err := cpuTime(w.Process.Pid)
	if err != nil {
		return err
	}
	rss, err := resident(w.Process.Pid)
	if err != nil {
		return err
	}
	b.print("idle worker, resident memory", rss/1024, "MB", "", 0, "< 25 MB", func(v, _ float64) bool { return v < 25 })
	b.print("idle worker, of one core", 100*(after-before).Seconds()/seconds, "%", "", 0, "< 0.1 %", func(v, _ float64) bool { return v < 0.1 })
	return nil
}

// resident is the memory of a process, in KiB.
func resident(pid int) (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for _, l := range strings.Split(string(status), "\n") {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "VmRSS:" {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, fmt.Errorf("process %d has no memory", pid)
}

// cpuTime is the CPU time of all threads of a process, to the nanosecond: the
// hundredths of a second in its stat are too coarse for one that idles.
func cpuTime(pid int) (time.Duration, error) {
	return cpuTimeOf(pid, func(string) bool { return true })
}

// cpuTimeOf is the CPU time of those threads whose names are wanted.
func cpuTimeOf(pid int, wanted func(thread string) bool) (time.Duration, error) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, t := range threads {
		dir := fmt.Sprintf("/proc/%d/task/%s/", pid, t.Name())
		name, err := os.ReadFile(dir + "comm")
		if err != nil { // it has ended
			continue
		}
		if !wanted(string(name)) {
			continue
		}
		b, err := os.ReadFile(dir + "schedstat")
		if err != nil {
			continue
		}
		ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += ns
	}
	return time.Duration(sum), nil
}
