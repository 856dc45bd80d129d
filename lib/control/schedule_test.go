package control_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/control"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/ticket"
)

var seedFlag = flag.Uint64("seed", 0, "replay the random schedule of this seed")

// worker is one that does as distci-claim does, but for its tools.
type worker struct {
	conn coord.Conn
	repo *repo.Repo
	held *queue.Claim
}

func newWorker(t *testing.T, folder string) *worker {
	t.Helper()
	conn, err := local.Open(t.Context(), filepath.Join(folder, "coord.db"), local.Options{SessionTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	st, err := dir.Open(filepath.Join(folder, "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	r, err := repo.Open(t.Context(), conn, st, queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &worker{conn: conn, repo: r}
}

var offers = []string{"build_control_v1", "execute_shell_v1"}

// commit ends what w holds, a step with the given result, and goes on with
// what comes next if it may.
func (w *worker) commit(t *testing.T, result string, offer []string) error {
	t.Helper()
	c := w.held
	tk := c.Ticket.Clone()
	w.held = nil
	var err error
	if tk.Step != "" {
		tk.Status, tk.Result = ticket.Complete, result
		w.held, err = w.repo.Commit(t.Context(), c, tk, offer)
		return err
	}
	for {
		tk = c.Ticket.Clone()
		ctl, err := w.repo.Prepare(t.Context(), tk)
		if err != nil {
			return err
		}
		if ctl == nil {
			return w.repo.Drop(t.Context(), c)
		}
		tk.Finish(control.Act(t.Context(), tk, time.Now()))
		w.held, err = w.repo.CommitControl(t.Context(), c, ctl, tk, offer)
		if !errors.Is(err, repo.ErrChanged) {
			return err
		}
	}
}

// TestRandomSchedules runs builds by workers that claim, commit, go on, give
// back and die in random order while builds are triggered, canceled and
// deleted, and asserts what must always hold: every build ends, with one result
// for every step that was posted; numbers have no gap; nothing is left of what
// has ended.
func TestRandomSchedules(t *testing.T) {
	first, n := uint64(1), uint64(40)
	if *seedFlag != 0 {
		first, n = *seedFlag, 1
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			defer func() {
				if t.Failed() {
					t.Logf("replay with -seed %d", seed)
				}
			}()
			schedule(t, rand.New(rand.NewPCG(seed, 0)))
		})
	}
}

func schedule(t *testing.T, rng *rand.Rand) {
	folder := t.TempDir()
	boss := newWorker(t, folder)
	ctx := t.Context()
	for id, steps := range map[string]int{"up": 3, "down": 1} {
		config := fmt.Sprintf(`{"job_id":%q,"tasks":[`, id)
		for i := range steps {
			if i > 0 {
				config += ","
			}
			config += `{"type":"execute-shell","params":{"script":":"}}`
		}
		config += `]`
		if id == "up" {
			config += `,"downstream_jobs":["down"]`
		}
		if err := boss.repo.PutJob(ctx, id, []byte(config+"}")); err != nil {
			t.Fatal(err)
		}
	}
	workers := make([]*worker, 3)
	for i := range workers {
		workers[i] = newWorker(t, folder)
	}
	ran := map[string]int{} // "job/number/step" → results that were committed
	deleted := map[string]bool{}
	triggered := ticket.Number(0)
	act := func(w *worker, k int) {
		if w.held == nil {
			c, err := w.repo.Queue().Claim(ctx, offers, "w", nil)
			if err != nil {
				t.Fatal(err)
			}
			w.held = c
			return
		}
		tk := w.held.Ticket
		switch {
		case k == 0:
			if err := w.held.Release(ctx, errors.New("released"), false); err != nil && !errors.Is(err, queue.ErrLost) {
				t.Fatal(err)
			}
			w.held = nil
		case k == 1: // dies
			w.conn.Close()
			*w = *newWorker(t, folder)
		default:
			by, err := w.repo.Canceled(ctx, tk.JobID, tk.BuildNumber)
			if err != nil {
				t.Fatal(err)
			}
			result := ticket.Success
			if by != "" {
				result = ticket.Canceled
			} else if rng.IntN(12) == 0 {
				result = ticket.Failure
			}
			offer := offers
			if rng.IntN(2) == 0 {
				offer = nil
			}
			gone := deleted[fmt.Sprintf("%s/%d", tk.JobID, tk.BuildNumber)]
			if err := w.commit(t, result, offer); errors.Is(err, queue.ErrLost) != gone || err != nil && !gone {
				t.Fatalf("commit: %v; the build was deleted: %v", err, gone)
			}
			if tk.Step != "" {
				ran[fmt.Sprintf("%s/%d/%s", tk.JobID, tk.BuildNumber, tk.Step)]++
			}
		}
	}
	for range 80 {
		w := workers[rng.IntN(len(workers))]
		switch k := rng.IntN(20); {
		case k < 2 && triggered < 5:
			b, err := boss.repo.Trigger(ctx, "up", nil)
			if err != nil {
				t.Fatal(err)
			}
			if triggered++; b.Number != triggered {
				t.Fatalf("build %d after %d", b.Number, triggered-1)
			}
		case k == 2 && triggered > 0:
			n := 1 + ticket.Number(rng.IntN(int(triggered)))
			if err := boss.repo.Cancel(ctx, "up", n, "test"); err != nil && !errors.Is(err, repo.ErrNoBuild) {
				t.Fatal(err)
			}
		case k == 3 && triggered > 0 && rng.IntN(4) == 0:
			n := 1 + ticket.Number(rng.IntN(int(triggered)))
			if err := boss.repo.DeleteBuild(ctx, "up", n); err != nil && !errors.Is(err, repo.ErrNoBuild) {
				t.Fatal(err)
			}
			deleted[fmt.Sprintf("up/%d", n)] = true
		case k == 4:
			if _, err := boss.repo.Queue().Requeue(ctx); err != nil {
				t.Fatal(err)
			}
		default:
			act(w, rng.IntN(10))
		}
	}
	for _, w := range workers { // all die; the boss does the rest
		w.conn.Close()
	}
	if _, err := boss.repo.Queue().Requeue(ctx); err != nil {
		t.Fatal(err)
	}
	for act(boss, 9); boss.held != nil; act(boss, 9) {
		for boss.held != nil {
			act(boss, 9)
		}
	}
	ended(t, boss.repo, ran, deleted, triggered)
	for _, folder := range []string{"/run", "/c", "/lease", "/builds"} {
		if names, err := boss.conn.Children(ctx, folder); err != nil || len(names) > 0 {
			t.Errorf("%s: %v, %v", folder, names, err)
		}
	}
	if ids, err := boss.repo.Queue().List(ctx); err != nil || len(ids) > 0 {
		t.Errorf("tickets left: %v, %v", ids, err)
	}
}

// ended asserts the end of all builds.
func ended(t *testing.T, r *repo.Repo, ran map[string]int, deleted map[string]bool, triggered ticket.Number) {
	t.Helper()
	for key, n := range ran {
		if n != 1 {
			t.Errorf("%s was committed %d times", key, n)
		}
	}
	successes := 0
	for _, id := range []string{"up", "down"} {
		ns, err := r.Builds(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		for i := ticket.Number(1); id == "up" && i <= triggered; i++ {
			if !slices.Contains(ns, i) && !deleted[fmt.Sprintf("up/%d", i)] {
				t.Errorf("build up/%d is missing", i)
			}
		}
		for i, n := range ns {
			if id == "down" && n != ticket.Number(i+1) {
				t.Errorf("down has builds %v", ns)
			}
			b, err := r.Build(t.Context(), id, n)
			if err != nil {
				t.Fatal(err)
			}
			if b.State.Status != build.Complete || b.State.Result == "" {
				t.Errorf("%s/%d: %+v", id, n, b.State)
			}
			if id == "up" && b.State.Result == ticket.Success {
				successes++
			}
			for key, tk := range b.State.Tasks {
				if tk.Status != ticket.Complete {
					t.Errorf("%s/%d/%s: %q", id, n, key, tk.Status)
				}
				if tk.Result == ticket.Success && ran[fmt.Sprintf("%s/%d/%s", id, n, key)] != 1 {
					t.Errorf("%s/%d/%s is a success that nobody committed", id, n, key)
				}
			}
		}
		if id == "down" && len(deleted) == 0 && len(ns) != successes {
			t.Errorf("%d successes triggered %d builds", successes, len(ns))
		}
	}
}
