package gc_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/control"
	"github.com/distci/distci/lib/coord"
	coordsim "github.com/distci/distci/lib/coord/sim"
	"github.com/distci/distci/lib/fsck"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
	storesim "github.com/distci/distci/lib/store/sim"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/workspace"
)

const grace = 24 * time.Hour

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

// world is a cluster in memory, without faults. Time stands still unless it is
// moved.
type world struct {
	t     testing.TB
	clock *clock
	store *storesim.Store
	conn  coord.Conn
	repo  *repo.Repo
	trees []string // folders with the same contents each time
	cache *workspace.Cache
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, clock: &clock{time.Now()}, cache: newCache(t), trees: newTrees(t, 4)}
	w.store = storesim.New(w.clock.now)
	c := coordsim.New(coordsim.Options{Timeout: time.Minute})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	w.conn = c.Open("a")
	w.repo = w.open(w.store.Open())
	return w
}

func newCache(t testing.TB) *workspace.Cache {
	cache, err := workspace.OpenCache(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

// newTrees makes folders whose layers are always the same.
func newTrees(t testing.TB, n int) (trees []string) {
	for i := range n {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "file"), fmt.Appendf(nil, "tree %d", i), 0o644); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{filepath.Join(dir, "file"), dir} {
			if err := os.Chtimes(path, time.Time{}, time.Unix(1e9, 0)); err != nil {
				t.Fatal(err)
			}
		}
		trees = append(trees, dir)
	}
	return trees
}

// open is the cluster as another process sees it through that store.
func (w *world) open(s store.Store) *repo.Repo {
	w.t.Helper()
	r, err := repo.Open(context.Background(), w.conn, s, queue.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// putJob sets a job with two steps; more are further keys of it.
func putJob(t testing.TB, r *repo.Repo, id, more string) {
	t.Helper()
	config := fmt.Sprintf(`{"job_id": %q, "tasks": [{"type": "make-a"}, {"type": "make-b"}]%s}`, id, more)
	if err := r.PutJob(context.Background(), id, []byte(config)); err != nil {
		t.Fatal(err)
	}
}

// worker does what distci-claim does, without running anything: it claims,
// writes a log, saves a layer, publishes, and commits.
type worker struct {
	name   string
	repo   *repo.Repo
	layers *workspace.Layers
	trees  []string
	pick   func(n int) int // 0 to n-1
	rest   func()          // between any two things
	stray  bool            // also store artefacts and layers that nobody refers to
}

func (w *world) worker() *worker {
	n := 0
	return &worker{"w", w.repo, workspace.NewLayers(w.repo.Store(), w.cache, workspace.Limits{}), w.trees, func(k int) int { n++; return n % k }, func() {}, false}
}

var offer = []string{"build_control_v1", "make_a_v1", "make_b_v1"}

// turn works on one ticket, if there is one.
func (x *worker) turn(ctx context.Context) (bool, error) {
	c, err := x.repo.Queue().Claim(ctx, offer, x.name, nil)
	if err != nil || c == nil {
		return false, err
	}
	return true, x.work(ctx, c)
}

func (x *worker) work(ctx context.Context, c *queue.Claim) error {
	t := c.Ticket.Clone()
	x.rest()
	if t.Step == "" {
		ctl, err := x.repo.Prepare(ctx, t)
		if err != nil {
			return err
		}
		if ctl == nil {
			return x.repo.Drop(ctx, c)
		}
		t.Finish(control.Act(ctx, t, time.Now()))
		_, err = x.repo.CommitControl(ctx, c, ctl, t, nil)
		return err
	}
	log := x.repo.NewLog(ctx, t.JobID, t.BuildNumber, t.Step, t.Attempt)
	log.Note("step %s", t.Step)
	id, _, err := x.repo.PutArtifact(ctx, t.JobID, t.BuildNumber, "", strings.NewReader("artefact of "+t.ID))
	if err == nil && x.stray {
		_, _, err = x.repo.PutArtifact(ctx, t.JobID, t.BuildNumber, "", strings.NewReader("stray of "+t.ID))
	}
	var layer workspace.Layer
	if err == nil {
		layer, _, err = x.layers.Save(ctx, x.trees[x.pick(len(x.trees))], nil)
	}
	x.rest()
	if e := log.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	t.Workspace = append(t.Workspace, layer.Digest)
	t.Artifacts = map[string][]string{id: {"out", t.Step}}
	if err := t.Set("usage", map[string]int{"cpu_seconds": 0}); err != nil {
		return err
	}
	t.Finish(nil)
	_, err = x.repo.Commit(ctx, c, t, nil)
	return err
}

// build brings a build of a job to its end.
func (w *world) build(id string, x *worker) ticket.Number {
	w.t.Helper()
	ctx := context.Background()
	b, err := x.repo.Trigger(ctx, id, &build.Cause{Kind: "request"})
	if err != nil {
		w.t.Fatal(err)
	}
	for {
		more, err := x.turn(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		if !more {
			return b.Number
		}
	}
}

// age lets days pass.
func (w *world) age(days int) {
	w.clock.t = w.clock.t.Add(time.Duration(days) * 24 * time.Hour)
}

// check asserts that nothing is wrong with what there is.
func check(t testing.TB, r *repo.Repo) {
	t.Helper()
	if _, err := fsck.Run(context.Background(), r, fsck.Options{Parallel: 1, Tell: func(f fsck.Fault) { t.Error(f) }}); err != nil {
		t.Error(err)
	}
}

// contents are the objects with a digest of what is in them.
func contents(t testing.TB, s *storesim.Store) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, key := range s.Keys() {
		b, _, err := store.ReadAll(context.Background(), s.Open(), key)
		if err != nil {
			t.Fatal(err)
		}
		all[key] = fmt.Sprintf("%x", sha256.Sum256(b))
	}
	return all
}

// putLayer stores a layer that nothing refers to.
func (w *world) putLayer(text string) {
	w.t.Helper()
	w.put(fmt.Sprintf("layers/sha256/%x", sha256.Sum256([]byte(text))), text)
}

// put stores an object as it is.
func (w *world) put(key, text string) {
	w.t.Helper()
	if _, err := w.store.Open().Put(context.Background(), key, bytes.NewReader([]byte(text))); err != nil {
		w.t.Fatal(err)
	}
}
