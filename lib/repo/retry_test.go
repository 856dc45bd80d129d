package repo_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/gc"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/repo/repotest"
	"github.com/distci/distci/lib/ticket"
)

// settle has a worker do all there is.
func settle(t *testing.T, x *repotest.Worker) {
	t.Helper()
	for {
		more, err := x.Turn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
	}
}

// TestRetry: a retry has all that the steps before have left, also when the
// build that has run them is gone.
func TestRetry(t *testing.T) {
	ctx := t.Context()
	w := repotest.New(t)
	w.Age(-3) // what the first build stores is of days ago
	repotest.PutJob(t, w.Repo, "job", `, "parameters": {"P": "0"}`)
	x := w.Worker()
	b, _, err := w.Repo.Begin(ctx, "job", repo.Start{Parameters: map[string]string{"P": "1"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Repo.Retry(ctx, "job", b.Number, repo.Again{From: "1"}); !errors.Is(err, repo.ErrNotFinished) {
		t.Errorf("while it runs: %v", err)
	}
	settle(t, x)
	w.Age(3)
	repotest.PutJob(t, w.Repo, "job", `, "description": "another one"`) // the retry has the parameter still
	if _, _, err := w.Repo.Retry(ctx, "job", 1, repo.Again{}); fault.Of(err) != fault.Usage {
		t.Errorf("nothing has failed: %v", err)
	}
	for range 2 { // the key makes one of them
		if b, _, err = w.Repo.Retry(ctx, "job", 1, repo.Again{From: "1", By: "ann", Key: "k"}); err != nil || b.Number != 2 {
			t.Fatal(b, err)
		}
	}
	if _, _, err := w.Repo.Retry(ctx, "job", 1, repo.Again{From: "0", Key: "k"}); !errors.Is(err, repo.ErrKeyReused) {
		t.Errorf("the key for another retry: %v", err)
	}
	if more, err := x.Turn(ctx); err != nil || !more { // it starts; what it has taken over is its own now
		t.Fatal(more, err)
	}
	begun := must(w.Repo.Build(ctx, "job", 2))
	layer := strings.ReplaceAll(begun.State.Tasks["0"].Workspace[0], ":", "/")
	if i, err := w.Repo.Store().Stat(ctx, repo.LayersPrefix+layer); err != nil || w.Now().Sub(i.Modified) > time.Hour {
		t.Errorf("a collector that has not seen the retry may take the layer of %s, %v", i.Modified, err)
	}
	if err := w.Repo.DeleteBuild(ctx, "job", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := gc.Run(ctx, w.Repo, gc.Options{Grace: time.Hour, Now: w.Now}); err != nil {
		t.Fatal(err)
	}
	settle(t, x)
	got, err := w.Repo.Build(ctx, "job", 2)
	if err != nil || got.State.Result != ticket.Success || got.State.Parameters["P"] != "1" || got.State.Cause.By != "ann" {
		t.Fatalf("%+v, %v", got, err)
	}
	t0, t1 := got.State.Tasks["0"], got.State.Tasks["1"]
	if string(t0.Extra[build.FieldTakenOver]) != "1" || t1.Extra[build.FieldTakenOver] != nil || t1.Env["P"] != "1" || len(t1.Workspace) < 2 || t1.Workspace[0] != t0.Workspace[0] {
		t.Errorf("steps: %+v, %+v", t0, t1)
	}
	for id, a := range must(w.Repo.Artifacts(ctx, "job", 2)) {
		rd, _, err := w.Repo.GetArtifact(ctx, "job", 2, id, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(rd)
		rd.Close()
		if int64(len(b)) != a.Size || len(b) == 0 {
			t.Errorf("artefact of step %s: %q", a.Step, b)
		}
	}
	if n := len(got.State.Artifacts); n != 2 {
		t.Errorf("%d artefacts", n)
	}
	var console bytes.Buffer
	if err := w.Repo.Console(ctx, "job", 2, &console); err != nil || console.String() != "distci: step 0\ndistci: step 1\n" {
		t.Errorf("console: %q, %v", console.String(), err)
	}
	repotest.Check(t, w.Repo)

	// One whose build is gone before it starts ends, and says why.
	if _, _, err := w.Repo.Retry(ctx, "job", 2, repo.Again{From: "1"}); err != nil {
		t.Fatal(err)
	}
	if err := w.Repo.DeleteBuild(ctx, "job", 2); err != nil {
		t.Fatal(err)
	}
	settle(t, x)
	got, err = w.Repo.Build(ctx, "job", 3)
	if err != nil || got.State.Result != ticket.Error || !strings.Contains(got.State.Error, "build 2, which is to be retried, does not exist any more") {
		t.Errorf("%+v, %v", got, err)
	}
	// It had no steps: its retry is a build as the job is.
	if _, _, err := w.Repo.Retry(context.Background(), "job", 3, repo.Again{}); err != nil {
		t.Fatal(err)
	}
	settle(t, x)
	if got, err = w.Repo.Build(ctx, "job", 4); err != nil || got.State.Result != ticket.Success || got.State.Cause.Number != 3 {
		t.Errorf("%+v, %v", got, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
