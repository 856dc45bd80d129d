//go:build ceph && cgo

package rados

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/distci/distci/lib/store"
	cephtest "github.com/distci/distci/test/ceph"
)

// killVar names the work of a process that is to kill itself: "WORK STEP
// ADDRESS". Each operation has two steps: before it and after it.
const killVar = "RADOS_KILL"

// large is an object of n bytes that says who wrote it.
func large(name string, n int) []byte { return bytes.Repeat([]byte(name), n/len(name)+1)[:n] }

const several = 2*chunkSize + 77 // bytes in three chunks

// work is what a process is killed in the middle of.
type work struct {
	name   string
	before func(ctx context.Context, p *pool) error // makes the old state
	do     func(ctx context.Context, p *pool) error
	old    []byte // nil: absent
	new    []byte
	limit  int // of a shard; 0: as usual
}

const target = "k/target"

func putOf(b []byte) func(context.Context, *pool) error {
	return func(ctx context.Context, p *pool) error {
		_, err := p.Put(ctx, target, bytes.NewReader(b))
		return err
	}
}

func appendOf(offset int, b []byte) func(context.Context, *pool) error {
	return func(ctx context.Context, p *pool) error { return p.Append(ctx, target, int64(offset), b) }
}

func all(steps ...func(context.Context, *pool) error) func(context.Context, *pool) error {
	return func(ctx context.Context, p *pool) error {
		for _, s := range steps {
			if err := s(ctx, p); err != nil {
				return err
			}
		}
		return nil
	}
}

func nothing(context.Context, *pool) error { return nil }

func deletes(ctx context.Context, p *pool) error { return p.Delete(ctx, target) }

var works = []work{
	{name: "put-new", before: nothing, do: putOf(large("new", several)), new: large("new", several)},
	{name: "put", before: putOf(large("old", several)), do: putOf(large("new", several)), old: large("old", several), new: large("new", several)},
	{name: "put-over-log", before: appendOf(0, []byte("log")), do: putOf([]byte("new")), old: []byte("log"), new: []byte("new")},
	{name: "create", before: nothing, new: []byte("new"), do: func(ctx context.Context, p *pool) error {
		_, err := p.Create(ctx, target, strings.NewReader("new"))
		return err
	}},
	{name: "swap", before: putOf([]byte("old")), old: []byte("old"), new: large("new", several), do: func(ctx context.Context, p *pool) error {
		info, err := p.Stat(ctx, target)
		if err == nil {
			_, err = p.Swap(ctx, target, info.Version, bytes.NewReader(large("new", several)))
		}
		return err
	}},
	{name: "append-first", before: nothing, do: appendOf(0, []byte("first")), new: []byte("first")},
	{name: "append", before: appendOf(0, []byte("old")), do: appendOf(3, []byte("new")), old: []byte("old"), new: []byte("oldnew")},
	{name: "append-to-put", before: putOf([]byte("old")), do: appendOf(3, []byte("new")), old: []byte("old"), new: []byte("oldnew")},
	{name: "append-roll", before: appendOf(0, large("old", roll)), do: appendOf(roll, []byte("new")), old: large("old", roll), new: append(large("old", roll), "new"...)},
	{name: "delete", before: putOf(large("old", several)), do: deletes, old: large("old", several)},
	{name: "delete-log", before: all(putOf([]byte("old")), appendOf(3, []byte("log"))), do: deletes, old: []byte("oldlog")},
	{name: "split", before: func(ctx context.Context, p *pool) error {
		for i := range 4 {
			if err := p.Append(ctx, fmt.Sprint("k/", i), 0, nil); err != nil {
				return err
			}
		}
		return nil
	}, do: putOf([]byte("new")), new: []byte("new"), limit: 4},
}

// killChild does a work and kills itself at a step of it.
func killChild(text string) {
	f := strings.SplitN(text, " ", 3)
	step, _ := strconv.ParseInt(f[1], 10, 64)
	w := works[slices.IndexFunc(works, func(w work) bool { return w.name == f[0] })]
	s, err := Open(f[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	p := s.(*pool)
	if w.limit > 0 {
		p.shardLimit = w.limit
	}
	var steps atomic.Int64
	p.hook = func(string) {
		if steps.Add(1) == step {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if err = w.do(context.Background(), p); err == nil {
		err = p.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	os.Exit(0)
}

// TestKillAtEachOperation kills a writer before and after each operation of
// each work: the object is then the old or the new one, and Sweep finds all
// that is left over besides.
func TestKillAtEachOperation(t *testing.T) {
	c := cephtest.Start(t, cephtest.Options{})
	for _, w := range works {
		t.Run(w.name, func(t *testing.T) {
			old, new, garbage := 0, 0, 0
			for step := 1; ; step++ {
				address := c.Address(namespace())
				s, err := Open(address)
				if err != nil {
					t.Fatal(err)
				}
				p := s.(*pool)
				if err := w.before(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				killed := runKilled(t, w.name, step, address)
				switch got, _, err := store.ReadAll(t.Context(), p, target); {
				case err != nil && !errors.Is(err, store.ErrNotFound):
					t.Fatal(err)
				case bytes.Equal(got, w.new) && (got == nil) == (w.new == nil):
					new++
				case bytes.Equal(got, w.old) && (got == nil) == (w.old == nil):
					old++
				default:
					t.Fatalf("killed at step %d: found %d bytes, neither the old nor the new object", step, len(got))
				}
				garbage += sweepAll(t, p)
				if got := listed(t, p); w.limit > 0 && !slices.Equal(slices.DeleteFunc(got, func(k string) bool { return k == target }), []string{"k/0", "k/1", "k/2", "k/3"}) {
					t.Fatalf("killed at step %d: the index has %q", step, got)
				}
				// The next writer is not in the way of what the dead one left.
				if _, err := p.Put(t.Context(), target, strings.NewReader("next")); err != nil {
					t.Fatal(err)
				}
				if err := p.Close(); err != nil {
					t.Fatal(err)
				}
				if !killed {
					break
				}
			}
			if old == 0 || new == 0 {
				t.Errorf("found the old object %d times, the new one %d times", old, new)
			}
			t.Logf("old %d times, new %d times, %d objects of garbage", old, new, garbage)
		})
	}
}

// runKilled runs a work in a process that kills itself at a step; false if it
// has ended before.
func runKilled(t *testing.T, name string, step int, address string) bool {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", killVar, name, step, address))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil {
		return false
	}
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("%s, step %d: %v: %s", name, step, err, &stderr)
	}
	return true
}

// sweepAll sweeps and checks that what remains is what entries refer to.
func sweepAll(t *testing.T, p *pool) int {
	t.Helper()
	dry, err := p.Sweep(t.Context(), 0, true)
	if err != nil {
		t.Fatal(err)
	}
	swept, err := p.Sweep(t.Context(), 0, false)
	if err != nil || swept != dry {
		t.Fatalf("swept %+v, %v; the dry run said %+v", swept, err, dry)
	}
	var want []string
	infos, err := p.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		o, err := p.object(t.Context(), i.Key)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, o.entry.objects()...)
		r, _, err := p.Get(t.Context(), i.Key, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, r); err != nil || n != i.Size {
			t.Fatalf("%s after a sweep: %d of %d bytes, %v", i.Key, n, i.Size, err)
		}
		r.Close()
	}
	var have []string
	w := &sweep{p: p}
	if err := w.list(t.Context(), data, func(name string) { have = append(have, name) }); err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Fatalf("after a sweep the data is %q, want %q", have, want)
	}
	shards := map[string]bool{rootObject: true}
	if err := p.readRoot(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, sh := range p.shards("") {
		shards[sh.object] = true
	}
	if err := w.list(t.Context(), index, func(name string) {
		if !shards[name] {
			t.Errorf("after a sweep %s is left in the index", name)
		}
	}); err != nil {
		t.Fatal(err)
	}
	return swept.Objects
}

func listed(t *testing.T, p *pool) (keys []string) {
	t.Helper()
	infos, err := p.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		keys = append(keys, i.Key)
	}
	return keys
}
