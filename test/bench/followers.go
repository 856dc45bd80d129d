package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

// live are logs of steps that run, to which lines are added. They go straight
// into the store: what a worker keeps back to send it together is no matter of
// the frontend.
type live struct {
	cl    *cluster.Cluster
	url   string
	pid   int // of the frontend
	size  []int64
	lines []int // of each
	http  *http.Client
}

const liveJob = "live"

// begin makes a build with a step that this process has claimed, and its log.
func (l *live) begin(ctx context.Context) error {
	n := ticket.Number(len(l.size) + 1)
	t := ticket.New("execute-shell", "bench")
	t.JobID, t.BuildNumber, t.Step = liveJob, n, "0"
	running, now := *t, time.Now().UTC()
	running.Status, running.Attempt = ticket.Running, 1
	state, err := json.Marshal(&build.State{Status: build.Running, Created: &now, Tasks: map[string]*ticket.Ticket{"0": &running}})
	if err != nil {
		return err
	}
	q := l.cl.Repo.Queue()
	if err := q.Post(ctx, t, coord.Create(fmt.Sprintf("/builds/%s:%d", liveJob, n), state)); err != nil {
		return err
	}
	c, err := q.Claim(ctx, []string{"bench"}, "bench", nil)
	if err != nil {
		return err
	}
	if c == nil || c.Ticket.ID != t.ID {
		return errors.New("another ticket is in the queue")
	}
	l.size, l.lines = append(l.size, 0), append(l.lines, 0)
	return l.line(ctx, len(l.size)-1)
}

// line adds a line to a log: the time, in nanoseconds.
func (l *live) line(ctx context.Context, i int) error {
	text := fmt.Appendf(nil, "%d\n", time.Now().UnixNano())
	if err := l.cl.Store.Append(ctx, repo.BuildPrefix(liveJob, ticket.Number(i+1))+repo.LogName("0", 1), l.size[i], text); err != nil {
		return err
	}
	l.size[i] += int64(len(text))
	l.lines[i]++
	return nil
}

// follow follows a log as the page of a build does, and returns how late its
// next lines came. It tells when it has the last line that was there before,
// and when it has those; then it stays until ctx is done.
func (l *live) follow(ctx context.Context, i, lines int, told chan<- error) []float64 {
	var late []float64
	err := func() error {
		req, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s/ui/jobs/%s/builds/%d/logs/%s?follow=%d", l.url, liveJob, i+1, stepLog, l.lines[i]), nil)
		if err != nil {
			return err
		}
		req.Header.Set("Accept", "text/event-stream")
		resp, err := l.http.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: status %d", req.URL, resp.StatusCode)
		}
		ready := false
		s := bufio.NewScanner(resp.Body)
		for len(late) < lines && s.Scan() {
			_, text, _ := strings.Cut(s.Text(), `class="t">`)
			text, _, ok := strings.Cut(text, "</span>")
			ns, err := strconv.ParseInt(text, 10, 64)
			switch {
			case !ok || err != nil: // no line
			case !ready:
				ready = true
				told <- nil
			default:
				late = append(late, ms(time.Unix(0, ns), time.Now()))
			}
		}
		if len(late) < lines {
			return errors.Join(fmt.Errorf("%s: it ended after %d of %d lines", req.URL, len(late), lines), s.Err())
		}
		told <- nil
		<-ctx.Done()
		return nil
	}()
	if err != nil {
		told <- err
	}
	return late
}

// audience is what came of followers.
type audience struct {
	late   [][]float64 // of each, by line, in ms
	memory float64     // by which the frontend has grown, in KiB
	reads  float64     // of the store by the frontend, a second
	cpu    float64     // of the frontend, of one core
}

// every is how late each line was for the followers as f sees them.
func (a *audience) every(f func(late []float64) float64) []float64 {
	var all []float64
	for line := range a.late[0] {
		var of []float64
		for _, late := range a.late {
			of = append(of, late[line])
		}
		all = append(all, f(of))
	}
	return all
}

// gather has the logs followed by so many in turn, and adds so many lines to
// each, one of a log after the other, so that all of them have one in each
// interval. That files may be open for so many connections, Go sees to.
func (l *live) gather(followers, logs, lines int, interval time.Duration) (*audience, error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	before, err := resident(l.pid)
	if err != nil {
		return nil, err
	}
	a := &audience{late: make([][]float64, followers)}
	told := make(chan error, 3*followers)
	for i := range followers {
		wg.Go(func() { a.late[i] = l.follow(ctx, i%logs, lines, told) })
	}
	all := func(what string) error {
		patience := time.After(time.Minute)
		for n := range followers {
			select {
			case err := <-told:
				if err != nil {
					return err
				}
			case <-patience:
				return fmt.Errorf("%d of %d followers have %s", n, followers, what)
			}
		}
		return nil
	}
	if err := all("begun"); err != nil {
		return nil, err
	}
	reads, err := l.storeReads()
	if err != nil {
		return nil, err
	}
	cpu, err := cpuTime(l.pid)
	if err != nil {
		return nil, err
	}
	from := time.Now()
	tick := time.NewTicker(interval / time.Duration(logs))
	defer tick.Stop()
	for range lines {
		for i := range logs {
			<-tick.C
			if err := l.line(ctx, i); err != nil {
				return nil, err
			}
		}
	}
	if err := all("all lines"); err != nil {
		return nil, err
	}
	took := time.Since(from)
	cpuAfter, err := cpuTime(l.pid)
	if err != nil {
		return nil, err
	}
	readsAfter, err := l.storeReads()
	if err != nil {
		return nil, err
	}
	after, err := resident(l.pid)
	if err != nil {
		return nil, err
	}
	cancel()
	wg.Wait()
	a.memory, a.reads, a.cpu = after-before, (readsAfter-reads)/took.Seconds(), (cpuAfter-cpu).Seconds()/took.Seconds()
	return a, nil
}

// storeReads is how often the frontend has read the store, by its own metrics.
func (l *live) storeReads() (float64, error) {
	resp, err := l.http.Get(l.url + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	sum, found := 0.0, false
	s := bufio.NewScanner(resp.Body)
	for s.Scan() {
		for _, operation := range []string{"get", "stat", "list"} {
			if v, ok := strings.CutPrefix(s.Text(), `distci_store_operation_duration_seconds_count{operation="`+operation+`"} `); ok {
				n, err := strconv.ParseFloat(v, 64)
				if err != nil {
					return 0, err
				}
				sum, found = sum+n, true
			}
		}
	}
	if !found && s.Err() == nil {
		return 0, errors.New("the frontend does not say how often it has read the store")
	}
	return sum, s.Err()
}

// crowds measures followers of one log or of as many, against one follower.
func crowds(b *bench, followers, logs int, interval time.Duration, lines int) error {
	b, err := b.apart(fmt.Sprintf("live-%d", logs))
	if err != nil {
		return err
	}
	defer b.close()
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
	if err := b.job(c, liveJob, "true"); err != nil {
		return err
	}
	l := &live{cl: cl, pid: b.procs[0].Process.Pid, http: &http.Client{Transport: &http.Transport{DisableCompression: true}}}
	defer l.http.CloseIdleConnections()
	if l.url, err = b.url(); err != nil {
		return err
	}
	for range logs {
		if err := l.begin(ctx); err != nil {
			return err
		}
	}
	one, err := l.gather(1, 1, min(lines, 30), interval)
	if err != nil {
		return err
	}
	all, err := l.gather(followers, logs, lines, interval)
	if err != nil {
		return err
	}
	alone := quantile(one.late[0], 0.5)
	const against = "one follower of one log"
	who := fmt.Sprintf("%d followers of %d logs", followers, logs)
	room := 100.0 // KiB; more where each has a log of its own, which the frontend reads and watches
	if logs > 1 {
		room = 150
	}
	soon := func(v, _ float64) bool { return v < 500 }
	if logs == 1 {
		who = fmt.Sprintf("%d followers of one log", followers)
		last, median := all.every(slices.Max), all.every(func(late []float64) float64 { return quantile(late, 0.5) })
		b.print(who+", a line in the store to the median one, p50", quantile(median, 0.5), "ms", against+", p50", alone, "", nil)
		b.print(who+", a line in the store to the median one, p99", quantile(median, 0.99), "ms", against+", p50", alone, "", nil)
		b.print(who+", a line in the store to the last one, p50", quantile(last, 0.5), "ms", against+", p50", alone, "", nil)
		b.print(who+", a line in the store to the last one, p99", quantile(last, 0.99), "ms", against+", p50", alone, "< 500 ms", soon)
		b.print(who+", the frontend's reads of the store", all.reads, "1/s", against, one.reads, "<= 2 x", func(_, r float64) bool { return r <= 2 })
	} else {
		pairs := slices.Concat(all.late...)
		b.print(who+", a line in the store to its follower, p50", quantile(pairs, 0.5), "ms", against+", p50", alone, "", nil)
		b.print(who+", a line in the store to its follower, p99", quantile(pairs, 0.99), "ms", against+", p50", alone, "< 500 ms", soon)
		b.print(who+", the frontend's reads of the store, a log", all.reads/float64(logs), "1/s", against, one.reads, "<= 2 x", func(_, r float64) bool { return r <= 2 })
	}
	b.print(who+", the frontend, of one core", 100*all.cpu, "%", against, 100*one.cpu, "", nil)
	b.print(who+", the frontend's memory, a follower", all.memory/float64(followers), "KiB", "", 0, fmt.Sprintf("< %.0f KiB", room), func(v, _ float64) bool { return v < room })
	return nil
}
