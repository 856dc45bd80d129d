package sim

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/coordtest"
)

// TestContract runs the contract in real time and without faults. What is left
// out needs other processes to kill and stop; here only a fault of the
// simulation can end a session.
func TestContract(t *testing.T) {
	worlds := map[string]*World{}
	coordtest.Run(t, coordtest.Harness{
		Alone: true,
		Fresh: func(t *testing.T) string {
			w := New(Options{Timeout: 50 * time.Millisecond})
			worlds[t.Name()] = w
			ctx, stop := context.WithCancel(context.Background())
			var served sync.WaitGroup
			served.Go(func() { w.Serve(ctx) })
			t.Cleanup(func() { stop(); served.Wait() })
			return t.Name()
		},
		Open: func(_ context.Context, spec string, _ time.Duration) (coord.Conn, error) {
			return worlds[spec].Open("c"), nil
		},
	})
}

// harsh are many faults of every kind.
var harsh = Faults{Lose: 0.1, Stop: 0.02, Pause: 0.01, Cut: 0.02, Crash: 0.01, Crashes: 2}

// counters lets clients increment a number and note each success, and returns
// what happened, the final number, and how many increments were told to have
// been done, and how many may have been.
func counters(t *testing.T, seed uint64) (trace []string, final int32, done, unknown int) {
	synctest.Test(t, func(t *testing.T) {
		w := New(Options{Seed: seed, Quiet: synctest.Wait, Faults: harsh, Trace: func(line string) { trace = append(trace, line) }})
		var all sync.WaitGroup
		var mu sync.Mutex
		running := 0
		work := func(name string, seed uint64) {
			c := w.Open(name)
			rnd := rand.New(rand.NewPCG(seed, 1))
			mu.Lock()
			running++
			mu.Unlock()
			all.Go(func() {
				defer func() { mu.Lock(); running--; mu.Unlock() }()
				_, _ = c.Txn(t.Context(), coord.Create("/n", nil))
				for range 20 {
					time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond)
					_, st, err := c.Get(t.Context(), "/n")
					if err != nil {
						continue
					}
					mu.Lock() // a crash in the next call leaves it open
					unknown++
					mu.Unlock()
					_, err = c.Txn(t.Context(), coord.Set("/n", nil, st.Version), coord.Create(fmt.Sprintf("/n/%d", st.Version), nil))
					mu.Lock()
					if !errors.Is(err, coord.ErrUnknown) {
						unknown--
					}
					if err == nil {
						done++
					}
					mu.Unlock()
				}
			})
		}
		for i := range 3 {
			work(fmt.Sprint("c", i), seed+uint64(i))
		}
		if err := w.Run(func() bool { mu.Lock(); defer mu.Unlock(); return running == 0 }); err != nil {
			t.Error(err)
		}
		all.Wait()
		_, st, _ := w.tree.get("/n")
		final = st.Version
		if st.NumChildren != int(final) {
			t.Errorf("seed %d: %d sets and %d creates", seed, final, st.NumChildren)
		}
	})
	return trace, final, done, unknown
}

// TestSeed: the same seed makes the same schedule, to the last line; another
// one another.
func TestSeed(t *testing.T) {
	different := map[string]bool{}
	for seed := range uint64(50) {
		trace, _, _, _ := counters(t, seed)
		again, _, _, _ := counters(t, seed)
		if !slices.Equal(trace, again) {
			for i := range trace {
				if i >= len(again) || trace[i] != again[i] {
					t.Fatalf("seed %d: line %d was %q", seed, i, trace[i])
				}
			}
			t.Fatalf("seed %d: the second trace is longer", seed)
		}
		different[strings.Join(trace, "\n")] = true
	}
	if len(different) != 50 {
		t.Errorf("50 seeds made %d traces", len(different))
	}
}

// TestFaults: what is told is true, and all faults occur.
func TestFaults(t *testing.T) {
	var trace []string
	for seed := range uint64(300) {
		lines, final, done, unknown := counters(t, seed)
		if int(final) < done || int(final) > done+unknown {
			t.Errorf("seed %d: %d increments; told of %d, and %d unknown", seed, final, done, unknown)
		}
		trace = append(trace, lines...)
	}
	all := strings.Join(trace, "\n")
	for _, what := range []string{"crashes", "stopped", "cut off", "expires", "no answer", "never arrives", "with session", "session expired", "does not match"} {
		if !strings.Contains(all, what) {
			t.Errorf("it never happened: %s", what)
		}
	}
}
