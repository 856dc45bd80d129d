package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/chromedp/chromedp"
	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/chromium"
)

const (
	webJobs   = 10_000
	webBuilds = 10 // of each
)

// pages measures what people wait for: the first page with many jobs, and a
// build with a long log in a browser.
func pages(b *bench) error {
	c, err := b.frontend()
	if err != nil {
		return err
	}
	url, err := b.url()
	if err != nil {
		return err
	}
	empty, err := getPages(400, 20*time.Millisecond, func() string { return url + "/ui/" })
	if err != nil {
		return err
	}
	if err := longLogs(b, c, url); err != nil {
		return err
	}
	if err := fillJobs(b, webJobs, webBuilds); err != nil {
		return err
	}
	// A frontend that has just been started remembers nothing.
	if err := os.Remove(filepath.Join(b.dir, "port")); err != nil {
		return err
	}
	if _, err := b.frontend(); err != nil {
		return err
	}
	if url, err = b.url(); err != nil {
		return err
	}
	first, err := getPages(1, 0, func() string { return url + "/ui/" })
	if err != nil {
		return err
	}
	full, err := getPages(400, 20*time.Millisecond, func() string { return url + "/ui/" })
	if err != nil {
		return err
	}
	any, err := getPages(400, 20*time.Millisecond, func() string { return fmt.Sprintf("%s/ui/?page=%d", url, 1+rand.IntN(webJobs/50)) })
	if err != nil {
		return err
	}
	name := fmt.Sprintf("first page, %d jobs with %d builds each", webJobs, webBuilds)
	b.print(name+", p50", quantile(full.ms, 0.5), "ms", "an empty store", quantile(empty.ms, 0.5), "", nil)
	b.print(name+", p99", quantile(full.ms, 0.99), "ms", "an empty store", quantile(empty.ms, 0.99), "< 200 ms", func(v, _ float64) bool { return v < 200 })
	b.print(name+", nobody has looked before", first.ms[0], "ms", "an empty store, p50", quantile(empty.ms, 0.5), "", nil)
	b.print("any page of them, p50", quantile(any.ms, 0.5), "ms", "an empty store", quantile(empty.ms, 0.5), "", nil)
	b.print("any page of them, p99", quantile(any.ms, 0.99), "ms", "an empty store", quantile(empty.ms, 0.99), "", nil)
	b.print("the first page, as it is sent", full.kib, "KiB", "an empty store", empty.kib, "", nil)
	return nil
}

// got is how long answers took, and how large they were.
type got struct {
	ms  []float64
	kib float64
}

// getPages asks for pages, as a browser without them does.
func getPages(n int, pause time.Duration, url func() string) (*got, error) {
	var g got
	for range n {
		req, err := http.NewRequest("GET", url(), nil)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", "text/html")
		req.Header.Set("Accept-Encoding", "gzip") // and it stays compressed
		from := time.Now()
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		size, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			return nil, fmt.Errorf("%s: status %d, %w", req.URL, resp.StatusCode, err)
		}
		g.ms = append(g.ms, ms(from, time.Now()))
		g.kib = float64(size) / 1024
		time.Sleep(pause) // so that what is remembered grows old on the way
	}
	return &g, nil
}

// jobName is what fillJobs calls the i-th job.
func jobName(i int) string { return fmt.Sprintf("job-%05d", i) }

// fillJobs makes jobs with so many finished builds each. The records are written
// as the folder's store has them, without waiting for the disk.
func fillJobs(b *bench, jobs, builds int) error {
	ctx := context.Background()
	cl, err := cluster.Open(ctx, cluster.Options{Coord: b.coord, Store: "dir:" + b.dir + "/store", Session: time.Minute, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer cl.Close()
	put := func(key string, data []byte) error {
		path := filepath.Join(b.dir, "store", key)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o644)
	}
	now := time.Now().UTC().Truncate(time.Second)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range jobs {
		g.Go(func() error {
			id := jobName(i)
			if err := put(repo.JobKey(id), fmt.Appendf(nil, `{"job_id":%q,"tasks":[{"type":"execute-shell","params":{"script":"true"}}]}`, id)); err != nil {
				return err
			}
			for n := ticket.Number(1); n <= ticket.Number(builds); n++ {
				begun, ended := now.Add(-time.Duration(i)*time.Second), now.Add(-time.Duration(i)*time.Second+time.Duration(20+10*int(n))*time.Second)
				s := build.State{Status: build.Complete, Result: ticket.Success, Created: &begun, Ended: &ended, Cause: &build.Cause{Kind: "request", By: "bench"},
					Tasks: map[string]*ticket.Ticket{"0": {ID: ticket.NewID(), Type: "execute-shell", Status: ticket.Complete, Result: ticket.Success, Attempt: 1, Started: &begun, Ended: &ended}}}
				data, err := json.Marshal(&s)
				if err != nil {
					return err
				}
				if err := put(repo.BuildPrefix(id, n)+repo.NameState, data); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	const at = 100 // a transaction
	for i := 0; i < jobs; i += at {
		var ops []coord.Op
		for k := i; k < min(i+at, jobs); k++ {
			ops = append(ops, coord.Create("/jobs/"+jobName(k), []byte(strconv.Itoa(builds))))
		}
		if _, err := cl.Conn.Txn(ctx, ops...); err != nil {
			return err
		}
	}
	return nil
}

// longLogs measures the page of a build with 200,000 lines in a browser, against
// one with a hundred.
func longLogs(b *bench, c *client.Client, url string) error {
	ctx, closes, err := chromium.Open()
	if errors.Is(err, chromium.ErrNone) {
		fmt.Fprintf(os.Stderr, "bench: web: %v, the rows of the browser are left out\n", err)
		return nil
	} else if err != nil {
		return err
	}
	defer closes()
	if _, err := b.worker(); err != nil {
		return err
	}
	for id, lines := range map[string]int{"long": 200_000, "short": 100} {
		if err := b.job(c, id, fmt.Sprintf("seq -f 'line %%.0f: the quick brown fox jumps over the lazy dog' 1 %d", lines)); err != nil {
			return err
		}
		n, err := c.Trigger(context.Background(), id)
		if err != nil {
			return err
		}
		if _, err := finish(c, id, n); err != nil {
			return err
		}
	}
	var shown = map[string][]float64{}
	for range 10 {
		for _, id := range []string{"short", "long"} {
			v, err := visit(ctx, url+"/ui/jobs/"+id+"/builds/1")
			if err != nil {
				return err
			}
			shown[id] = append(shown[id], v)
		}
	}
	b.print("a build with 200,000 log lines in Chromium, opened to its first lines, p50", quantile(shown["long"], 0.5), "ms", "with 100 lines", quantile(shown["short"], 0.5), "< 1000 ms", func(v, _ float64) bool { return v < 1000 })
	var long struct{ Blocked, Longest, Lines float64 }
	raw, err := chromedp.Run(ctx, chromedp.Evaluate[string](scroll, chromedp.EvalAwaitPromise))
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(raw), &long); err != nil {
		return err
	}
	if long.Lines == 0 {
		return errors.New("web: there was nothing to scroll")
	}
	b.print("scrolling through them for 10 s: the main thread's longest task", long.Longest, "ms", "", 0, "< 200 ms", func(v, _ float64) bool { return v < 200 })
	b.print("scrolling through them for 10 s: of the time in tasks over 50 ms", 100*long.Blocked/10_000, "%", "", 0, "", nil)
	b.print("scrolling through them for 10 s: lines in the page at most", long.Lines, "lines", "", 0, "< 3000", func(v, _ float64) bool { return v < 3000 })
	return nil
}

// visit opens a page, and tells when its first lines were there.
func visit(ctx context.Context, page string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank"), chromedp.Navigate(page)); err != nil {
		return 0, err
	}
	// A line counts when it has been painted, with the first one in sight.
	return chromedp.Run(ctx, chromedp.Evaluate[float64](`new Promise((done) => {
		const look = () => {
			const first = document.querySelector(".lines li");
			if (first && first.getBoundingClientRect().height > 0) requestAnimationFrame(() => done(performance.now()));
			else requestAnimationFrame(look);
		};
		look();
	})`, chromedp.EvalAwaitPromise))
}

// scroll goes up and down for ten seconds, as fast as a person with a good wheel.
const scroll = `new Promise((done) => {
	let blocked = 0, longest = 0, lines = 0, down = 1;
	new PerformanceObserver((l) => { for (const e of l.getEntries()) { blocked += e.duration; longest = Math.max(longest, e.duration); } }).observe({ type: "longtask" });
	const end = performance.now() + 10000;
	const step = () => {
		scrollBy(0, down * 900);
		if (scrollY < 10) down = 1;
		if (scrollY + innerHeight > document.documentElement.scrollHeight - 10) down = -1;
		lines = Math.max(lines, document.querySelectorAll(".lines li").length);
		if (performance.now() < end) requestAnimationFrame(step);
		else setTimeout(() => done(JSON.stringify({ Blocked: blocked, Longest: longest, Lines: lines })), 300);
	};
	step();
})`
