//go:build ceph && cgo

package rados

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	cephtest "github.com/distci/distci/test/ceph"
	"github.com/distci/distci/test/lab"
)

// TestFaults writes and reads while parts of a cluster of three die, and then
// all of it: nobody sees an error but one to try again, what was acknowledged
// is there, and nothing is there twice.
func TestFaults(t *testing.T) {
	c := cephtest.Start(t, cephtest.Options{OSDs: 3, Mons: 3})
	s, err := Open(c.Address("faults"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := &load{t: t, s: s}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var wg sync.WaitGroup
	for _, f := range []func(context.Context){l.appends, l.uploads, l.counts} {
		wg.Go(func() { f(ctx) })
	}
	l.goesOn("at first")

	c.Kill("osd.1")
	l.goesOn("with an OSD killed")
	c.StartDaemon("osd.1")
	l.goesOn("with the OSD back")

	leader := c.Leader()
	c.Kill(leader)
	l.goesOn("with the leading monitor killed")
	c.StartDaemon(leader)
	l.goesOn("with the monitor back")

	c.Pause("osd.2")
	l.goesOn("with an OSD frozen")
	c.Resume("osd.2")
	l.goesOn("with the OSD thawed")

	c.Kill()
	c.StartDaemon()
	l.goesOn("after a power cut of everything")

	stop()
	wg.Wait()
	l.check()
}

// load is what goes on while the cluster is hurt.
type load struct {
	t *testing.T
	s store.Store

	appended, uploaded, counted atomic.Int64 // successes
	again                       atomic.Int64 // errors after which it was tried again
}

// goesOn waits until each part of the load has got some more things done, of
// which none was begun before the call.
func (l *load) goesOn(when string) {
	l.t.Helper()
	for _, n := range []*atomic.Int64{&l.appended, &l.uploaded, &l.counted} {
		from := n.Load()
		lab.Until(l.t, when, func() bool { return l.t.Failed() || n.Load() > from+3 })
	}
	if l.t.Failed() {
		l.t.FailNow()
	}
}

// retry does f until it succeeds; an error that says not to is one.
func (l *load) retry(ctx context.Context, what string, f func() error) bool {
	for ctx.Err() == nil {
		err := f()
		if err == nil {
			return true
		}
		if ctx.Err() == nil && fault.Of(err) != fault.Temporary {
			l.t.Errorf("%s: %v (%s)", what, err, fault.Of(err))
			return false
		}
		l.again.Add(1)
	}
	return false
}

func line(n int64) string { return fmt.Sprintf("line %08d %s\n", n, strings.Repeat("x", 1000)) }

// appends writes a log, line by line, and repeats what it does not know.
func (l *load) appends(ctx context.Context) {
	offset := int64(0)
	for n := int64(0); ; n++ {
		b := []byte(line(n))
		if !l.retry(ctx, "append", func() error { return l.s.Append(ctx, "log", offset, b) }) {
			return
		}
		offset += int64(len(b))
		l.appended.Store(n + 1)
	}
}

func uploaded(n int64) []byte { return large(fmt.Sprintf("object %d;", n), chunkSize+int(n)*1000) }

// uploads writes objects and reads them and earlier ones.
func (l *load) uploads(ctx context.Context) {
	for n := int64(0); ; n++ {
		ok := l.retry(ctx, "put", func() error {
			_, err := l.s.Put(ctx, fmt.Sprint("object/", n%20), bytes.NewReader(uploaded(n)))
			return err
		})
		if !ok {
			return
		}
		l.uploaded.Store(n + 1)
		for _, k := range []int64{n, max(0, n-7)} {
			if !l.retry(ctx, "get", func() error { return l.is(ctx, fmt.Sprint("object/", k%20), uploaded(k)) }) {
				return
			}
		}
	}
}

// is checks what an object holds.
func (l *load) is(ctx context.Context, key string, want []byte) error {
	r, _, err := l.s.Get(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err == nil && !bytes.Equal(got, want) {
		l.t.Errorf("%s holds %d bytes %.20q, want %d bytes %.20q", key, len(got), got, len(want), want)
	}
	return err
}

// counts increments a number by compare and swap, as two writers. One that
// does not know whether it has done it reads the number, which tells.
func (l *load) counts(ctx context.Context) {
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b"} {
		wg.Go(func() {
			for n := 1; ; n++ {
				mark := fmt.Sprintf("%s%d;", name, n)
				ok := l.retry(ctx, "swap", func() error {
					for {
						was, info, err := store.ReadAll(ctx, l.s, "count")
						if err != nil && !errors.Is(err, store.ErrNotFound) {
							return err
						}
						if strings.Contains(string(was), mark) {
							return nil // what was unknown was done
						}
						_, err = l.s.Swap(ctx, "count", info.Version, strings.NewReader(string(was)+mark))
						if !errors.Is(err, store.ErrConflict) {
							return err
						}
					}
				})
				if !ok {
					return
				}
				l.counted.Add(1)
			}
		})
	}
	wg.Wait()
}

// check compares what is stored with what was acknowledged.
func (l *load) check() {
	ctx := l.t.Context()
	lines := l.appended.Load()
	got, _, err := store.ReadAll(ctx, l.s, "log")
	if err != nil {
		l.t.Fatal(err)
	}
	// The last line may have been appended without an answer.
	if have := int64(len(got) / len(line(0))); have != lines && have != lines+1 || len(got)%len(line(0)) != 0 {
		l.t.Errorf("the log has %d bytes, %d lines; %d were acknowledged", len(got), have, lines)
	}
	for n := int64(0); len(got) > 0; n++ {
		b := []byte(line(n))
		if !bytes.HasPrefix(got, b) {
			l.t.Fatalf("line %d of the log is %.40q", n, got)
		}
		got = got[len(b):]
	}
	count, _, err := store.ReadAll(ctx, l.s, "count")
	if err != nil {
		l.t.Fatal(err)
	}
	marks := strings.Split(strings.TrimSuffix(string(count), ";"), ";")
	seen := map[string]bool{}
	for _, m := range marks {
		if seen[m] {
			l.t.Errorf("%s was counted twice", m)
		}
		seen[m] = true
	}
	if n := l.counted.Load(); int64(len(marks)) < n || int64(len(marks)) > n+2 {
		l.t.Errorf("%d marks, %d were acknowledged", len(marks), n)
	}
	sweepAll(l.t, l.s.(*pool))
	l.t.Logf("%d lines, %d objects of 4 MiB, %d swaps; %d tried again", lines, l.uploaded.Load(), l.counted.Load(), l.again.Load())
}
