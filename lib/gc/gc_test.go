package gc_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/gc"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/repo/repotest"
	"github.com/distci/distci/lib/store"
	storesim "github.com/distci/distci/lib/store/sim"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/workspace"
)

const grace = 24 * time.Hour

type world struct {
	*repotest.World
	t *testing.T
}

func newWorld(t *testing.T) world { return world{repotest.New(t), t} }

// collect runs gc on what there is, as of the world's time.
func (w world) collect(s store.Store, o gc.Options) (gc.Report, error) {
	w.t.Helper()
	o.Grace, o.Now, o.Jobs = grace, w.Now, 1
	return gc.Run(context.Background(), w.Open(s), o)
}

func (w world) mustCollect(o gc.Options) gc.Report {
	w.t.Helper()
	rep, err := w.collect(w.Store.Open(), o)
	if err != nil || len(rep.Problems) > 0 {
		w.t.Fatal(err, rep.Problems)
	}
	return rep
}

func numbers(t *testing.T, r *repo.Repo, id string) string {
	t.Helper()
	ns, err := r.Builds(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(ns)
}

func TestRetention(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	repotest.PutJob(t, w.Repo, "few", `, "retention": {"builds": 2}`)
	repotest.PutJob(t, w.Repo, "all", "")
	for range 4 {
		w.Build("few", w.Worker())
		w.Build("all", w.Worker())
	}
	if err := w.Repo.PutTag(ctx, "few", "release", 1); err != nil {
		t.Fatal(err)
	}

	before := w.Store.Keys()
	rep := w.mustCollect(gc.Options{DryRun: true})
	if !slices.Equal(w.Store.Keys(), before) || rep.Gone[gc.Build].Items != 1 {
		t.Errorf("the dry run has changed something, or sees other builds go: %+v", rep)
	}
	if got := w.mustCollect(gc.Options{}); got.Gone[gc.Build] != rep.Gone[gc.Build] {
		t.Errorf("%+v went, the dry run told %+v", got.Gone, rep.Gone)
	}
	if got := numbers(t, w.Repo, "few") + numbers(t, w.Repo, "all"); got != "[1 3 4][1 2 3 4]" {
		t.Errorf("left: %s", got)
	}
	repotest.Check(t, w.Repo)

	// Later the artefacts and the workspaces go, apart from the artefacts of the
	// last successful build and those with a tag.
	w.Age(40)
	rep = w.mustCollect(gc.Options{Keep: gc.Keep{ArtifactsDays: 10, WorkspaceDays: 20}})
	if rep.Gone[gc.Artifacts].Items != 4 || rep.Gone[gc.Workspace].Items != 7 || rep.Gone[gc.Layer].Items == 0 {
		t.Errorf("gone: %+v", rep.Gone)
	}
	for id, want := range map[string]int{"few 1": 2, "few 3": 0, "few 4": 2, "all 1": 0, "all 4": 2} {
		var name string
		var n int
		fmt.Sscan(id, &name, &n)
		a, err := w.Repo.Artifacts(ctx, name, ticket.Number(n))
		if err != nil || len(a) != want {
			t.Errorf("%s has %d artefacts, %v; want %d", id, len(a), err, want)
		}
		if _, err := w.Repo.Workspace(ctx, name, ticket.Number(n)); !errors.Is(err, repo.ErrNoWorkspace) {
			t.Errorf("%s has a workspace: %v", id, err)
		}
	}
	repotest.Check(t, w.Repo)
	for _, key := range w.Store.Keys() {
		if strings.HasPrefix(key, repo.LayersPrefix) {
			t.Errorf("left: %s", key)
		}
	}

	// And then the builds, but the last successful one if nobody says so.
	w.mustCollect(gc.Options{Keep: gc.Keep{Days: 30}})
	if got := numbers(t, w.Repo, "few") + numbers(t, w.Repo, "all"); got != "[1 4][4]" {
		t.Errorf("left: %s", got)
	}
	w.mustCollect(gc.Options{Keep: gc.Keep{Days: 30, DropLastSuccessful: true}})
	if got := numbers(t, w.Repo, "few") + numbers(t, w.Repo, "all"); got != "[1][]" {
		t.Errorf("left: %s", got)
	}
	if n := w.Build("all", w.Worker()); n != 5 {
		t.Errorf("the next build has the number %d", n)
	}
	repotest.Check(t, w.Repo)
}

// TestOrphans: what crashes leave goes once it is older than the grace, and
// nothing else does.
func TestOrphans(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	repotest.PutJob(t, w.Repo, "job", "")
	x := w.Worker()
	x.Stray = true
	w.Build("job", x)
	live, err := w.Repo.Trigger(ctx, "job", nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Repo.NewLog(ctx, "job", live.Number, "0", 1).Close()
	for _, key := range []string{repo.BuildPrefix("job", 2) + "log/0000.01", repo.BuildPrefix("other", 7) + "artifacts/x"} {
		w.Put(key, "left by a crash")
	}
	w.PutLayer("left by a crash")
	w.Put("layers/sha256/"+strings.Repeat("cd", 32), "")
	if err := w.Repo.RaiseNumber(ctx, "other", 7); err != nil {
		t.Fatal(err)
	}

	// What is young is left alone, but for a layer whose removal was begun.
	before := len(w.Store.Keys())
	if rep := w.mustCollect(gc.Options{}); len(w.Store.Keys()) != before-1 || rep.Gone[gc.Layer].Items != 1 {
		t.Errorf("%+v", rep.Gone)
	}
	w.Age(2)
	w.Put(repo.BuildPrefix("other", 7)+"artifacts/y", "young, and of the same build")
	rep := w.mustCollect(gc.Options{})
	if rep.Gone[gc.Orphan].Count != 4 || rep.Gone[gc.Layer].Count != 1 { // two stray artefacts with their descriptions
		t.Errorf("gone: %+v", rep.Gone)
	}
	w.Age(2)
	rep = w.mustCollect(gc.Options{})
	if rep.Gone[gc.Orphan].Count != 2 {
		t.Errorf("gone: %+v", rep.Gone)
	}
	repotest.Check(t, w.Repo)
	if _, err := w.Repo.Build(ctx, "job", live.Number); err != nil {
		t.Errorf("the build that runs: %v", err)
	}
	if _, err := w.Store.Open().Stat(ctx, repo.BuildPrefix("job", 2)+"log/0000.01"); err != nil {
		t.Errorf("the log of the build that runs: %v", err)
	}
}

// TestDeletedJob: the deletion of a job that was not finished is.
func TestDeletedJob(t *testing.T) {
	w := newWorld(t)
	repotest.PutJob(t, w.Repo, "job", "")
	w.Build("job", w.Worker())
	if err := w.Store.Open().Delete(context.Background(), repo.JobKey("job")); err != nil {
		t.Fatal(err)
	}
	if rep := w.mustCollect(gc.Options{}); len(rep.Gone) > 0 {
		t.Errorf("gone: %+v", rep.Gone)
	}
	w.Age(2)
	w.mustCollect(gc.Options{})
	if keys := w.Store.Keys(); len(keys) > 0 {
		t.Errorf("left: %q", keys)
	}
}

// TestAnotherCoordination: what another coordination does not know of is not
// garbage.
func TestAnotherCoordination(t *testing.T) {
	w := newWorld(t)
	repotest.PutJob(t, w.Repo, "job", "")
	w.Build("job", w.Worker())
	w.Put(repo.BuildPrefix("job", 2)+"log/0000.01", "of a build that runs elsewhere")
	w.Age(2)
	other := newWorld(t)
	other.Store, other.Time = w.Store, w.Time
	before := w.Store.Keys()
	_, err := other.collect(w.Store.Open(), gc.Options{})
	if fault.Of(err) != fault.Config || !strings.Contains(err.Error(), "job job") || !slices.Equal(before, w.Store.Keys()) {
		t.Errorf("%v", err)
	}
	if rep := other.mustCollect(gc.Options{Adopt: true}); rep.Gone[gc.Orphan].Items != 1 {
		t.Errorf("%+v", rep)
	}
}

// TestUnreadable: as long as a record cannot be read, no layer goes, and what
// cannot be read does not either.
func TestUnreadable(t *testing.T) {
	w := newWorld(t)
	repotest.PutJob(t, w.Repo, "job", `, "retention": {"builds": 1}`)
	for range 3 {
		w.Build("job", w.Worker())
	}
	w.Put(repo.BuildPrefix("job", 1)+"state", "{damaged")
	w.Age(2)
	layers := func() (n int) {
		for _, key := range w.Store.Keys() {
			if strings.HasPrefix(key, repo.LayersPrefix) {
				n++
			}
		}
		return n
	}
	before := layers()
	rep, err := w.collect(w.Store.Open(), gc.Options{})
	if err != nil || len(rep.Problems) != 2 || layers() != before || numbers(t, w.Repo, "job") != "[1 3]" {
		t.Errorf("%v, %q, %d layers of %d, builds %s", err, rep.Problems, layers(), before, numbers(t, w.Repo, "job"))
	}
}

// TestExclusive: one at a time, and whoever is not sure of it removes nothing.
func TestExclusive(t *testing.T) {
	w := newWorld(t)
	repotest.PutJob(t, w.Repo, "job", `, "retention": {"builds": 1}`)
	w.Build("job", w.Worker())
	w.Build("job", w.Worker())
	x, err := w.Repo.Exclusive(context.Background(), "gc")
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.collect(w.Store.Open(), gc.Options{})
	if fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), `another "gc" is at work, process `) {
		t.Errorf("%v", err)
	}
	w.mustCollect(gc.Options{DryRun: true})
	if err := x.Release(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.mustCollect(gc.Options{})
}

// TestLayerWrittenAgain: a layer that nobody refers to is on its way out, when
// a step makes the same one. Whichever is first, the step's is there.
func TestLayerWrittenAgain(t *testing.T) {
	for _, conditional := range []bool{true, false} {
		for n := 0; ; n++ {
			w := newWorld(t)
			save := func() string {
				layer, _, err := workspace.NewLayers(w.Store.Open(), w.Cache, workspace.Limits{}).Save(context.Background(), w.Trees[0], nil)
				if err != nil {
					t.Fatal(err)
				}
				return layer.Digest
			}
			digest := save()
			w.Age(2)
			c := w.Store.Open()
			ops, saved := 0, make(chan string, 1)
			c.Hook = func(op, key string, do func() error) error {
				if strings.HasPrefix(key, repo.LayersPrefix) {
					if ops == n {
						// With the object empty the writer waits until it is gone.
						go func() { saved <- save() }()
						if conditional || op != "delete" {
							saved <- <-saved
						}
					}
					ops++
				}
				return do()
			}
			var s store.Store = c
			if conditional {
				s = storesim.Remover{Client: c}
			}
			if _, err := w.collect(s, gc.Options{}); err != nil {
				t.Fatal(err)
			}
			if ops <= n {
				break
			}
			if got := <-saved; got != digest {
				t.Fatalf("the same tree has made %s", got)
			}
			key, _ := workspace.Key(digest)
			if b, _, err := store.ReadAll(context.Background(), w.Store.Open(), key); err != nil || len(b) == 0 {
				t.Errorf("conditional %t, before operation %d: %d bytes, %v", conditional, n, len(b), err)
			}
		}
	}
}

// TestDiesAnywhere lets gc die at every operation in turn, before or after it
// was carried out, and asserts that everything that is kept is whole then, and
// that the next run ends where one that was not disturbed does.
func TestDiesAnywhere(t *testing.T) {
	w := newWorld(t)
	repotest.PutJob(t, w.Repo, "job", `, "retention": {"builds": 2, "artifacts_days": 1, "workspace_days": 1}`)
	repotest.PutJob(t, w.Repo, "keep", "")
	for range 4 {
		x := w.Worker()
		x.Stray = true
		w.Build("job", x)
	}
	w.Build("keep", w.Worker())
	w.Put(repo.BuildPrefix("job", 4)+"artifacts/x", "left by a crash")
	w.PutLayer("left by a crash")
	w.Age(3)
	prepared := w.Store
	for _, conditional := range []bool{true, false} {
		client := func() (*storesim.Client, store.Store) {
			w.Store = prepared.Clone()
			w.Repo = w.Open(w.Store.Open())
			c := w.Store.Open()
			if conditional {
				return c, storesim.Remover{Client: c}
			}
			return c, c
		}
		c, s := client()
		total := 0
		c.Hook = func(_, _ string, do func() error) error { total++; return do() }
		if _, err := w.collect(s, gc.Options{}); err != nil {
			t.Fatal(err)
		}
		want := repotest.Contents(t, w.Store)
		if n := len(want); total < 50 || n < 10 {
			t.Fatalf("%d operations leave %d objects", total, n)
		}
		for n := range total {
			for _, carriedOut := range []bool{false, true} {
				c, s := client()
				ops := 0
				dead := fault.Errorf(fault.Temporary, "%w: dead", store.ErrUnknown)
				c.Hook = func(_, _ string, do func() error) error {
					ops++
					if ops == n+1 && carriedOut {
						_ = do()
					}
					if ops > n {
						return dead
					}
					return do()
				}
				if _, err := w.collect(s, gc.Options{}); err == nil {
					t.Fatalf("operation %d of %d: no error", n, total)
				}
				repotest.Check(t, w.Repo)
				w.mustCollect(gc.Options{})
				got := repotest.Contents(t, w.Store)
				if !maps.Equal(got, want) {
					t.Errorf("conditional %t, died at operation %d (carried out: %t): left\n%q\nwant\n%q", conditional, n, carriedOut, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
				}
				repotest.Check(t, w.Repo)
				if t.Failed() {
					return
				}
			}
		}
		t.Logf("conditional %t: died at each of %d operations", conditional, total)
	}
}
