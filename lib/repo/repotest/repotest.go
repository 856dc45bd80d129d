// Package repotest is a cluster in memory for tests of what works on a whole
// cluster: the repository is the real one, and a worker that does what
// distci-claim does, but runs nothing.
package repotest

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

// World is a cluster without faults. The time of its store stands still unless
// it is moved.
type World struct {
	Time  time.Time
	Store *storesim.Store
	Conn  coord.Conn
	Repo  *repo.Repo
	Trees []string // folders with the same contents each time
	Cache *workspace.Cache

	t testing.TB
}

// New makes a cluster.
func New(t testing.TB) *World {
	w := &World{t: t, Time: time.Now(), Cache: NewCache(t), Trees: NewTrees(t, 4)}
	w.Store = storesim.New(w.Now)
	c := coordsim.New(coordsim.Options{Timeout: time.Minute})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); c.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	w.Conn = c.Open("a")
	w.Repo = w.Open(w.Store.Open())
	return w
}

// NewCache makes a cache of layers.
func NewCache(t testing.TB) *workspace.Cache {
	cache, err := workspace.OpenCache(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

// NewTrees makes folders whose layers are always the same.
func NewTrees(t testing.TB, n int) (trees []string) {
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

// Open is the cluster as another process sees it through that store.
func (w *World) Open(s store.Store) *repo.Repo {
	w.t.Helper()
	r, err := repo.Open(context.Background(), w.Conn, s, queue.Options{})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// PutJob sets a job with two steps; more are further keys of it.
func PutJob(t testing.TB, r *repo.Repo, id, more string) {
	t.Helper()
	config := fmt.Sprintf(`{"job_id": %q, "tasks": [{"type": "make-a"}, {"type": "make-b"}]%s}`, id, more)
	if err := r.PutJob(context.Background(), id, []byte(config)); err != nil {
		t.Fatal(err)
	}
}

// Worker does what distci-claim does, without running anything: it claims,
// writes a log, saves a layer, publishes, and commits.
type Worker struct {
	Name   string
	Repo   *repo.Repo
	Layers *workspace.Layers
	Trees  []string        // that workspaces are copies of
	Pick   func(n int) int // a number from 0 to n-1
	Rest   func()          // called between any two things
	Stray  bool            // also store artefacts that nobody refers to
}

// Worker makes a worker that takes the trees in turn and never rests.
func (w *World) Worker() *Worker {
	n := 0
	return &Worker{"w", w.Repo, workspace.NewLayers(w.Repo.Store(), w.Cache, workspace.Limits{}), w.Trees, func(k int) int { n++; return n % k }, func() {}, false}
}

// offer is what a Worker offers.
var offer = []string{"build_control_v1", "make_a_v1", "make_b_v1"}

// Turn works on one ticket, if there is one.
func (x *Worker) Turn(ctx context.Context) (bool, error) {
	c, err := x.Repo.Queue().Claim(ctx, offer, x.Name, nil)
	if err != nil || c == nil {
		return false, err
	}
	if err = x.work(ctx, c); err != nil {
		_ = c.Release(ctx, err, true) // then it is another's, or it was committed
	}
	return true, err
}

func (x *Worker) work(ctx context.Context, c *queue.Claim) error {
	t := c.Ticket.Clone()
	x.Rest()
	if t.Step == "" {
		ctl, err := x.Repo.Prepare(ctx, t)
		if err != nil {
			return err
		}
		if ctl == nil {
			return x.Repo.Drop(ctx, c)
		}
		t.Finish(control.Act(ctx, t, time.Now()))
		_, err = x.Repo.CommitControl(ctx, c, ctl, t, nil)
		return err
	}
	log := x.Repo.NewLog(ctx, t.JobID, t.BuildNumber, t.Step, t.Attempt)
	defer log.Close() // should the process be crashed by a simulation
	log.Note("step %s", t.Step)
	id, _, err := x.Repo.PutArtifact(ctx, t.JobID, t.BuildNumber, "", strings.NewReader("artefact of "+t.ID))
	if err == nil && x.Stray {
		_, _, err = x.Repo.PutArtifact(ctx, t.JobID, t.BuildNumber, "", strings.NewReader("stray of "+t.ID))
	}
	var layer workspace.Layer
	if err == nil {
		layer, _, err = x.Layers.Save(ctx, x.Trees[x.Pick(len(x.Trees))], nil)
	}
	x.Rest() // a layer that nothing refers to yet
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
	_, err = x.Repo.Commit(ctx, c, t, nil)
	return err
}

// Build brings a build of a job to its end.
func (w *World) Build(id string, x *Worker) ticket.Number {
	w.t.Helper()
	ctx := context.Background()
	b, err := x.Repo.Trigger(ctx, id, &build.Cause{Kind: "request"})
	if err != nil {
		w.t.Fatal(err)
	}
	for {
		more, err := x.Turn(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		if !more {
			return b.Number
		}
	}
}

// Now is the store's time.
func (w *World) Now() time.Time { return w.Time }

// Age lets days pass.
func (w *World) Age(days int) { w.Time = w.Time.Add(time.Duration(days) * 24 * time.Hour) }

// Check asserts that nothing is wrong with what there is.
func Check(t testing.TB, r *repo.Repo) {
	t.Helper()
	if _, err := fsck.Run(context.Background(), r, fsck.Options{Parallel: 1, Tell: func(f fsck.Fault) { t.Error(f) }}); err != nil {
		t.Error(err)
	}
}

// Contents are the objects with a digest of what is in them.
func Contents(t testing.TB, s *storesim.Store) map[string]string {
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

// PutLayer stores a layer that nothing refers to.
func (w *World) PutLayer(text string) {
	w.t.Helper()
	w.Put(fmt.Sprintf("layers/sha256/%x", sha256.Sum256([]byte(text))), text)
}

// Put stores an object as it is.
func (w *World) Put(key, text string) {
	w.t.Helper()
	if _, err := w.Store.Open().Put(context.Background(), key, bytes.NewReader([]byte(text))); err != nil {
		w.t.Fatal(err)
	}
}
