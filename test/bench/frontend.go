package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// frontends measures what one frontend takes: the requests that people and
// programs make all day, and many who follow logs.
func frontends(b *bench) error {
	if err := commonReads(b); err != nil {
		return err
	}
	n := b.some(1000, 50)
	if err := crowds(b, n, 1, 100*time.Millisecond, b.some(60, 10)); err != nil {
		return err
	}
	return crowds(b, n, n, time.Second, b.some(5, 2))
}

// apart is a part of the measurement that has a cluster of its own.
func (b *bench) apart(name string) (*bench, error) {
	dir := filepath.Join(b.dir, name)
	return &bench{dir: dir, coord: "local:" + dir + "/coord.db", label: b.label, short: b.short}, os.Mkdir(dir, 0o700)
}

const (
	readers   = 8 // connections
	stepLog   = "0000.01"
	readSize  = 1 << 20  // of a log
	readPiece = 64 << 10 // of it that is asked for
)

// filled is a frontend with jobs, each with so many builds. Some jobs' first
// builds have a log.
type filled struct {
	url          string
	jobs, builds int
	logged       int // every so many jobs
	http         *http.Client
}

func fill(b *bench, jobs, builds int) (*filled, error) {
	if err := fillJobs(b, jobs, builds); err != nil {
		return nil, err
	}
	f := &filled{jobs: jobs, builds: builds, logged: max(1, jobs/16), http: &http.Client{
		Transport: &http.Transport{MaxConnsPerHost: readers, MaxIdleConnsPerHost: readers, DisableCompression: true}}}
	cl, err := b.open()
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	text := bytes.Repeat([]byte("a line of a log that is about as long as such lines are, more or less\n"), readSize/64)[:readSize]
	for i := 0; i < jobs; i += f.logged {
		l := cl.Repo.NewLog(context.Background(), jobName(i), 1, "0", 1)
		_, err := l.Write(text)
		if err := errors.Join(err, l.Close()); err != nil {
			return nil, err
		}
	}
	if _, err = b.frontend(); err != nil {
		return nil, err
	}
	f.url, err = b.url()
	return f, err
}

func (f *filled) String() string {
	if f.jobs == 1 {
		return fmt.Sprintf("one job, builds: %d", f.builds)
	}
	return fmt.Sprintf("%d jobs with %d builds each", f.jobs, f.builds)
}

func (f *filled) job() string   { return "/jobs/" + jobName(rand.IntN(f.jobs)) }
func (f *filled) build() string { return fmt.Sprintf("%s/builds/%d", f.job(), 1+rand.IntN(f.builds)) }
func (f *filled) log() string {
	return fmt.Sprintf("/jobs/%s/builds/1/logs/%s", jobName(rand.IntN((f.jobs+f.logged-1)/f.logged)*f.logged), stepLog)
}

// reading is a request.
type reading struct {
	name string
	path func(f *filled) string
	part bool // a piece of what is there is asked for
}

// ask makes one request.
func (f *filled) ask(r reading) error {
	req, err := http.NewRequest("GET", f.url+r.path(f), nil)
	if err != nil {
		return err
	}
	want := http.StatusOK
	if r.part {
		at := rand.IntN(readSize - readPiece)
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, at+readPiece-1))
		want = http.StatusPartialContent
	}
	resp, err := f.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || resp.StatusCode != want || r.part && n != readPiece {
		return errors.Join(fmt.Errorf("%s: status %d, %d bytes", req.URL, resp.StatusCode, n), err)
	}
	return nil
}

// reads is what came of some rounds of requests.
type reads struct{ rates, p99s []float64 }

// load makes requests over all connections for a while.
func (f *filled) load(r reading, d time.Duration, got *reads) error {
	var g errgroup.Group
	late := make([][]float64, readers)
	from := time.Now()
	for i := range readers {
		g.Go(func() error {
			for time.Since(from) < d {
				begun := time.Now()
				if err := f.ask(r); err != nil {
					return err
				}
				late[i] = append(late[i], ms(begun, time.Now()))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	all := slices.Concat(late...)
	got.rates = append(got.rates, float64(len(all))/time.Since(from).Seconds())
	got.p99s = append(got.p99s, quantile(all, 0.99))
	return nil
}

// commonReads measures requests to frontends with much in their stores, against
// ones with little. Against one job with one build if the reply is as long then,
// else against a store that has little more than the reply.
func commonReads(b *bench) error {
	var many, few, deep, one *filled
	for _, s := range []struct {
		to           **filled
		jobs, builds int
	}{{&many, b.some(webJobs, 200), webBuilds}, {&few, 100, 60}, {&deep, 1, b.some(10_000, 200)}, {&one, 1, 1}} {
		part, err := b.apart(fmt.Sprintf("jobs-%d-%d", s.jobs, s.builds))
		if err != nil {
			return err
		}
		defer part.close()
		if *s.to, err = fill(part, s.jobs, s.builds); err != nil {
			return err
		}
	}
	cctray := reading{name: "/cctray.xml", path: func(*filled) string { return "/cctray.xml" }}
	if err := firstMonitor(b, cctray, many, one); err != nil {
		return err
	}
	builds := reading{name: "/jobs/ID/builds?limit=50", path: func(f *filled) string { return f.job() + "/builds?limit=50" }}
	const thrice = "p99 <= 3 x"
	noMore := func(_, ratio float64) bool { return ratio <= 3 }
	for _, m := range []struct {
		of, against *filled
		reading
		bar string
		met func(v, ratio float64) bool
	}{
		{many, few, reading{name: "/jobs?limit=100", path: func(*filled) string { return "/jobs?limit=100" }}, thrice, noMore},
		{many, one, reading{name: "/jobs/ID", path: (*filled).job}, thrice, noMore},
		{many, one, builds, thrice, noMore},
		{deep, few, builds, thrice, noMore},
		{many, one, reading{name: "/jobs/ID/builds/N", path: (*filled).build}, thrice, noMore},
		{many, one, reading{name: "64 KiB of a log", path: (*filled).log, part: true}, thrice, noMore},
		{many, one, reading{name: "/queue", path: func(*filled) string { return "/queue" }}, thrice, noMore},
		// It tells of all jobs.
		{many, one, cctray, "p99 < 1000 ms", func(v, _ float64) bool { return v < 1000 }},
	} {
		var ours, theirs reads
		for _, f := range []*filled{m.of, m.against} { // connections are made, and caches warm
			if err := f.load(m.reading, 50*time.Millisecond, &reads{}); err != nil {
				return err
			}
		}
		for range 3 { // in turn: what else the machine does meets both
			d := time.Duration(b.some(500, 100)) * time.Millisecond
			if err := errors.Join(m.of.load(m.reading, d, &ours), m.against.load(m.reading, d, &theirs)); err != nil {
				return err
			}
		}
		name := fmt.Sprintf("%s: GET %s, %d connections", m.of, m.name, readers)
		b.print(name, quantile(ours.rates, 0.5), "1/s", m.against.String(), quantile(theirs.rates, 0.5), "", nil)
		b.print(name+", p99", quantile(ours.p99s, 0.5), "ms", m.against.String(), quantile(theirs.p99s, 0.5), m.bar, m.met)
	}
	return nil
}

// firstMonitor measures a monitor's first look at all jobs.
func firstMonitor(b *bench, r reading, many, one *filled) error {
	var took []float64
	for _, f := range []*filled{many, one} {
		from := time.Now()
		if err := f.ask(r); err != nil {
			return err
		}
		took = append(took, ms(from, time.Now()))
	}
	b.print(fmt.Sprintf("%s: GET %s, nobody has asked before", many, r.name), took[0], "ms", one.String(), took[1], "", nil)
	return nil
}
