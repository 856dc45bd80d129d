package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/distci/distci/lib/archive"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/gc"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/repo/repotest"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
)

// filled is a cluster with two jobs, one of whose builds still runs.
func filled(t *testing.T) *repotest.World {
	w := repotest.New(t)
	long := strings.Repeat("j", 256) // whose keys have a part more
	repotest.PutJob(t, w.Repo, "job", "")
	repotest.PutJob(t, w.Repo, long, "")
	for range 2 {
		w.Build("job", w.Worker())
	}
	w.Build(long, w.Worker())
	w.Put(repo.BuildPrefix("job", 2)+"log/0009.01", strings.Repeat("a long log\n", 200_000))
	if err := w.Repo.PutTag(context.Background(), "job", "release", 2); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Repo.Trigger(context.Background(), "job", nil); err != nil {
		t.Fatal(err)
	}
	return w
}

func export(t *testing.T, r *repo.Repo, o archive.ExportOptions) []byte {
	t.Helper()
	var b bytes.Buffer
	rep, err := archive.Export(context.Background(), r, &b, o)
	if err != nil || len(rep.Problems) > 0 {
		t.Fatal(err, rep.Problems)
	}
	return b.Bytes()
}

func bringIn(r *repo.Repo, b []byte, o archive.ImportOptions) (archive.Report, error) {
	return archive.Import(context.Background(), r, bytes.NewReader(b), o)
}

func mustBringIn(t *testing.T, r *repo.Repo, b []byte, o archive.ImportOptions) archive.Report {
	t.Helper()
	rep, err := bringIn(r, b, o)
	if err != nil || len(rep.Problems) > 0 {
		t.Fatal(err, rep.Problems)
	}
	return rep
}

// finished are the objects without those of the build that runs.
func finished(t *testing.T, w *repotest.World) map[string]string {
	all := repotest.Contents(t, w.Store)
	maps.DeleteFunc(all, func(key, _ string) bool { return strings.HasPrefix(key, repo.BuildPrefix("job", 3)) })
	return all
}

// TestThereAndBack: what was exported and imported is the same, whatever the
// store, and jobs count on behind it.
func TestThereAndBack(t *testing.T) {
	ctx := context.Background()
	w := filled(t)
	b := export(t, w.Repo, archive.ExportOptions{Workspaces: true})
	other := repotest.New(t)
	rep := mustBringIn(t, other.Repo, b, archive.ImportOptions{})
	if rep.Jobs != 2 || rep.Builds != 3 || rep.Artifacts != 6 || rep.Layers == 0 {
		t.Errorf("%+v", rep)
	}
	if want := finished(t, w); !maps.Equal(repotest.Contents(t, other.Store), want) {
		t.Errorf("there: %q, want %q", slices.Sorted(maps.Keys(repotest.Contents(t, other.Store))), slices.Sorted(maps.Keys(want)))
	}
	repotest.Check(t, other.Repo)
	if again := mustBringIn(t, other.Repo, b, archive.ImportOptions{}); again.Equal != 3 || again.Objects != 0 {
		t.Errorf("a second time: %+v", again)
	}

	folder, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer folder.Close()
	third := repotest.New(t)
	third.Repo = third.Open(folder)
	mustBringIn(t, third.Repo, export(t, other.Repo, archive.ExportOptions{Workspaces: true}), archive.ImportOptions{})
	for key := range finished(t, w) {
		want, _, _ := store.ReadAll(ctx, w.Store.Open(), key)
		if got, _, err := store.ReadAll(ctx, folder, key); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s in a folder: %d bytes, %v; want %d", key, len(got), err, len(want))
		}
	}
	repotest.Check(t, third.Repo)
	if n := third.Build("job", third.Worker()); n != 3 {
		t.Errorf("the next build has number %d", n)
	}
	if rep, err := gc.Run(ctx, third.Repo, gc.Options{Grace: time.Hour}); err != nil || len(rep.Gone) > 0 {
		t.Errorf("gc takes %+v, %v", rep.Gone, err)
	}
}

func TestChosen(t *testing.T) {
	w := filled(t)
	other := repotest.New(t)
	mustBringIn(t, other.Repo, export(t, w.Repo, archive.ExportOptions{Jobs: []string{"jo?"}, Workspaces: false}), archive.ImportOptions{})
	if ids, _ := other.Repo.Jobs(context.Background(), "", 0); len(ids) != 1 {
		t.Errorf("jobs %q", ids)
	}
	for _, key := range other.Store.Keys() {
		if strings.HasPrefix(key, repo.LayersPrefix) {
			t.Errorf("without workspaces there is %s", key)
		}
	}
	repotest.Check(t, other.Repo)
	if rep := mustBringIn(t, repotest.New(t).Repo, export(t, w.Repo, archive.ExportOptions{Since: time.Now().Add(time.Hour)}), archive.ImportOptions{}); rep.Builds != 0 || rep.Jobs != 2 {
		t.Errorf("of the future: %+v", rep)
	}
	if rep := mustBringIn(t, repotest.New(t).Repo, export(t, w.Repo, archive.ExportOptions{Workspaces: true}), archive.ImportOptions{Jobs: []string{"job"}}); rep.Builds != 2 || rep.Jobs != 1 {
		t.Errorf("of the one job: %+v", rep)
	}
	if _, err := archive.Export(context.Background(), w.Repo, io.Discard, archive.ExportOptions{Jobs: []string{"["}}); fault.Of(err) != fault.Usage {
		t.Errorf("%v", err)
	}
}

// TestInterrupted: an import that dies at any operation has brought in whole
// builds only, and goes on when it is repeated.
func TestInterrupted(t *testing.T) {
	w := filled(t)
	b := export(t, w.Repo, archive.ExportOptions{Workspaces: true})
	want := finished(t, w)
	for n := 0; ; n++ {
		other := repotest.New(t)
		c := other.Store.Open()
		ops := 0
		c.Hook = func(_, _ string, do func() error) error {
			if ops++; ops > n {
				_ = map[bool]func() error{true: do, false: func() error { return nil }}[ops == n+1 && n%2 == 0]()
				return fault.Errorf(fault.Temporary, "%w: dead", store.ErrUnknown)
			}
			return do()
		}
		_, err := bringIn(other.Open(c), b, archive.ImportOptions{})
		if err == nil {
			t.Logf("died at each of %d operations", n)
			return
		}
		repotest.Check(t, other.Repo)
		rep, err := bringIn(other.Repo, b, archive.ImportOptions{})
		if err != nil || len(rep.Problems) > 0 || !maps.Equal(repotest.Contents(t, other.Store), want) {
			t.Fatalf("after operation %d: %v, %+v", n, err, rep)
		}
	}
}

// TestDifferent: what is there and different is named and left, unless it is
// to be overwritten; what runs is left in any case.
func TestDifferent(t *testing.T) {
	ctx := context.Background()
	w := filled(t)
	b := export(t, w.Repo, archive.ExportOptions{Workspaces: true})
	other := repotest.New(t)
	repotest.PutJob(t, other.Repo, "job", `, "priority": 1`)
	other.Build("job", other.Worker())
	if err := other.Repo.PutTag(ctx, "job", "release", 1); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Repo.Trigger(ctx, "job", nil); err != nil {
		t.Fatal(err)
	}
	before := repotest.Contents(t, other.Store)
	rep, err := bringIn(other.Repo, b, archive.ImportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(rep.Problems, "\n")
	for _, want := range []string{"job job is there and different", "job #1 is there and different", "job #2 is there and runs", "tag release of job job names build 1 there, and not 2"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q does not say %q", text, want)
		}
	}
	now := repotest.Contents(t, other.Store)
	for key := range before {
		if now[key] != before[key] {
			t.Errorf("%s was changed", key)
		}
	}
	rep, err = bringIn(other.Repo, b, archive.ImportOptions{Overwrite: true})
	if err != nil || rep.Jobs != 1 || rep.Builds != 1 || len(rep.Problems) != 1 {
		t.Errorf("%+v, %v", rep, err)
	}
	prefix := repo.BuildPrefix("job", 1)
	now = repotest.Contents(t, other.Store)
	for key, want := range repotest.Contents(t, w.Store) {
		if strings.HasPrefix(key, prefix) && now[key] != want {
			t.Errorf("%s is not the archive's", key)
		}
		delete(now, key)
	}
	for key := range now {
		if strings.HasPrefix(key, prefix) {
			t.Errorf("%s is still there", key)
		}
	}
	repotest.Check(t, other.Repo)
}

// TestMend: with Overwrite, a backup mends what was damaged and what was lost.
func TestMend(t *testing.T) {
	ctx := context.Background()
	w := filled(t)
	b := export(t, w.Repo, archive.ExportOptions{Workspaces: true})
	want := repotest.Contents(t, w.Store)
	for key := range want {
		switch {
		case strings.HasPrefix(key, repo.LayersPrefix), strings.Contains(key, "/artifacts/") && !strings.HasSuffix(key, ".json"):
			old, _, _ := store.ReadAll(ctx, w.Store.Open(), key)
			w.Put(key, strings.Repeat("x", len(old)))
		case strings.Contains(key, "/log/"):
			w.Store.Open().Delete(ctx, key)
		}
	}
	var damaged bytes.Buffer
	rep, err := archive.Export(ctx, w.Repo, &damaged, archive.ExportOptions{Workspaces: true})
	if err != nil || rep.Builds != 0 || len(rep.Problems) < 3 || !strings.Contains(strings.Join(rep.Problems, "\n"), "job #1: left out: builds/job/") {
		t.Errorf("export of what is damaged: %v, %q", err, rep.Problems)
	}
	other := repotest.New(t)
	if rep, err := bringIn(other.Repo, damaged.Bytes(), archive.ImportOptions{}); err != nil || rep.Builds != 0 || rep.Layers != 0 {
		t.Errorf("import of what is damaged: %+v, %v", rep, err)
	}
	mustBringIn(t, w.Repo, b, archive.ImportOptions{Overwrite: true})
	if !maps.Equal(repotest.Contents(t, w.Store), want) {
		t.Error("not all was mended")
	}
	repotest.Check(t, w.Repo)
}

// pack makes an archive by hand.
func pack(entries ...[2]string) []byte {
	var b bytes.Buffer
	z, _ := zstd.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, e := range entries {
		_ = w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: e[0], Size: int64(len(e[1])), Format: tar.FormatPAX,
			PAXRecords: map[string]string{"DISTCI.sha256": fmt.Sprintf("%x", sha256.Sum256([]byte(e[1])))}})
		_, _ = io.WriteString(w, e[1])
	}
	w.Close()
	z.Close()
	return b.Bytes()
}

// TestHostile: what is not an archive of ours is refused, and writes nothing
// outside of its place.
func TestHostile(t *testing.T) {
	head := [2]string{"distci-export.json", `{"format": 1}`}
	config := [2]string{"jobs/job", `{"job_id": "job"}`}
	state := [2]string{repo.BuildPrefix("job", 1) + "state", `{"status": "complete"}`}
	tail := [2]string{"distci-export-end.json", "{}"}
	w := filled(t)
	whole := export(t, w.Repo, archive.ExportOptions{Workspaces: true})
	for name, c := range map[string]struct {
		b    []byte
		kind fault.Kind
	}{
		"empty":         {nil, fault.BadTicket},
		"text":          {[]byte("hello"), fault.BadTicket},
		"no head":       {pack(tail), fault.BadTicket},
		"later format":  {pack([2]string{head[0], `{"format": 2}`}, tail), fault.Config},
		"foreign":       {pack(head, [2]string{"etc/passwd", "x"}, tail), fault.BadTicket},
		"token":         {pack(head, [2]string{"access/tokens/000000000000", "{}"}, tail), fault.BadTicket},
		"audit log":     {pack(head, [2]string{"audit/2026-11-21T00/x", "{}"}, tail), fault.BadTicket},
		"outside":       {pack(head, [2]string{"builds/../jobs/job", "x"}, tail), fault.BadTicket},
		"other job":     {pack(head, config, state, [2]string{repo.BuildPrefix("other", 1) + "log/0000.01", "x"}), fault.BadTicket},
		"no record":     {pack(head, config, [2]string{repo.BuildPrefix("job", 1) + "log/0000.01", "x"}), fault.BadTicket},
		"not finished":  {pack(head, config, [2]string{state[0], `{"status": "running"}`}, tail), fault.BadTicket},
		"wrong count":   {pack(head, config, state, [2]string{"ends/job/0000000000000001", `{"objects": 2, "complete": true}`}, tail), fault.BadTicket},
		"wrong layer":   {pack(head, [2]string{"layers/sha256/" + strings.Repeat("a", 64), "x"}, tail), fault.BadTicket},
		"no end":        {pack(head, config, state), fault.BadTicket},
		"short number":  {pack(head, [2]string{"builds/job/1/state", "{}"}, tail), fault.BadTicket},
		"cut":           {whole[:len(whole)/2], fault.BadTicket},
		"flipped":       {flip(whole, len(whole)/2), fault.BadTicket},
		"flipped early": {flip(whole, 100), fault.BadTicket},
	} {
		t.Run(name, func(t *testing.T) {
			other := repotest.New(t)
			rep, err := bringIn(other.Repo, c.b, archive.ImportOptions{})
			if fault.Of(err) != c.kind {
				t.Errorf("%v (%s), %+v", err, fault.Of(err), rep)
			}
			for _, key := range other.Store.Keys() {
				if strings.HasSuffix(key, "/state") && !strings.Contains(name, "cut") && !strings.Contains(name, "flipped") {
					t.Errorf("it has made %s", key)
				}
			}
			repotest.Check(t, other.Repo)
		})
	}
}

func flip(b []byte, i int) []byte {
	b = slices.Clone(b)
	b[i] ^= 0x10
	return b
}
