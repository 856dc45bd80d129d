package workspace

import (
	"bytes"
	"context"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
)

var seedFlag = flag.Uint64("seed", 0, "run the property tests with this seed only")

// seeds are those of one run: a few fixed ones, and one that is new.
func seeds() []uint64 {
	if *seedFlag != 0 {
		return []uint64{*seedFlag}
	}
	s := []uint64{1, 2, 3, 4, 5, 10617258467166614230, rand.Uint64()}
	if testing.Short() {
		s = s[4:]
	}
	return s
}

func newStore(t testing.TB) store.Store {
	t.Helper()
	s, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newLayers(t testing.TB, s store.Store) *Layers {
	t.Helper()
	c, err := OpenCache(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return NewLayers(s, c, Limits{})
}

// TestRandomTrees: whatever is done to a tree, in whatever order, its layers
// restore it, and so do all the layers up to any step on the way.
func TestRandomTrees(t *testing.T) {
	for _, seed := range seeds() {
		t.Logf("seed %d (replay with -seed)", seed)
		randomTree(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

func randomTree(t *testing.T, seed uint64) {
	ctx := context.Background()
	f := &forest{t: t, rnd: rand.New(rand.NewPCG(seed, 0)), dir: filepath.Join(t.TempDir(), "w")}
	s := newStore(t)
	here, there := newLayers(t, s), newLayers(t, s) // two workers
	index, err := here.Restore(ctx, f.dir, nil)
	f.must(err)
	var digests []string
	for range 14 {
		for range f.rnd.IntN(12) {
			f.change()
		}
		want := snapshot(t, f.dir)
		layer, next, err := here.Save(ctx, f.dir, index)
		f.must(err)
		if !layer.Empty() {
			digests = append(digests, layer.Digest)
		}
		again, _, err := here.Save(ctx, f.dir, next)
		f.must(err)
		if !again.Empty() {
			t.Errorf("seed %d: a layer although nothing has changed", seed)
		}
		copied := filepath.Join(t.TempDir(), "copy")
		copyIndex, err := there.Restore(ctx, copied, digests)
		f.must(err)
		got := snapshot(t, copied)
		if len(digests) == 0 { // nobody has said yet what the root is like
			delete(want, ".")
			delete(got, ".")
		}
		if d := difference(want, got); d != "" {
			t.Errorf("seed %d, after %d layers:\n%s", seed, len(digests), d)
			return
		}
		checkFlat(t, there, digests, want)
		// The build goes on here or there.
		if index = next; f.rnd.IntN(3) == 0 {
			f.must(Remove(f.dir))
			f.dir, index = copied, copyIndex
			here, there = there, here
		} else {
			f.must(Remove(copied))
		}
	}
	checkTar(t, here, digests)
	f.must(Remove(f.dir))
}

// checkFlat unpacks the flattened workspace and imports it again.
func checkFlat(t *testing.T, l *Layers, digests []string, want map[string]string) {
	t.Helper()
	ctx := context.Background()
	var flat bytes.Buffer
	if err := l.Flatten(ctx, digests, &flat); err != nil {
		t.Fatal(err)
	}
	imported, err := l.Import(ctx, &flat, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "flat")
	if _, err := l.Restore(ctx, copied, append(digests[:len(digests):len(digests)], imported.Digest)); err != nil {
		t.Fatal(err)
	}
	got := snapshot(t, copied)
	if len(digests) == 0 {
		delete(got, ".")
	}
	if d := difference(want, got); d != "" {
		t.Errorf("flattened, imported on top and restored:\n%s", d)
	}
	if err := Remove(copied); err != nil {
		t.Fatal(err)
	}
}

// checkTar has the system's own programs read the layers.
func checkTar(t *testing.T, l *Layers, digests []string) {
	t.Helper()
	for _, program := range []string{"tar", "zstd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("no %s here: interoperation is not tested", program)
			return
		}
	}
	for _, digest := range digests {
		f, err := l.open(context.Background(), digest)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		zstd := exec.Command("zstd", "-dcq")
		zstd.Stdin, zstd.Stderr = f, os.Stderr
		plain, err := zstd.Output()
		if err != nil {
			t.Fatalf("zstd: %v", err)
		}
		tar := exec.Command("tar", "-t")
		tar.Stdin = bytes.NewReader(plain)
		var complaints bytes.Buffer
		tar.Stdout, tar.Stderr = io.Discard, &complaints
		if err := tar.Run(); err != nil {
			t.Errorf("tar: %v: %s", err, complaints.Bytes())
		}
	}
}
