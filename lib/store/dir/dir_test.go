package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m, Open) }

func TestStore(t *testing.T) {
	storetest.Run(t, Open, func(t *testing.T) string { return t.TempDir() })
}

func openT(t testing.TB, path string) *folder {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*folder)
}

func put(t testing.TB, s store.Store, key, data string) store.Info {
	t.Helper()
	info, err := s.Put(t.Context(), key, strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// tree lists everything below path, with contents.
func tree(t testing.TB, path string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		line := strings.TrimPrefix(p, path)
		if d.Type().IsRegular() {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += "=" + string(b)
		}
		all = append(all, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestOpenMakesAPrivateFolder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "folder")
	put(t, openT(t, path), "k", "v")
	for _, p := range []string{path, filepath.Dir(path)} {
		if fi, err := os.Stat(p); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v; want mode 0700", p, fi.Mode(), err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(path, ".distci-store")); string(b) != "distci-store 1\n" {
		t.Errorf("the marker says %q, %v", b, err)
	}
	s := openT(t, path)
	if b, _, err := store.ReadAll(t.Context(), s, "k"); string(b) != "v" {
		t.Errorf("opened again: %q, %v", b, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	tests := map[string]struct{ file, content, want string }{
		"newer format":  {".distci-store", "distci-store 2\n", "format 2"},
		"other marker":  {".distci-store", "something else", "not the marker"},
		"empty marker":  {".distci-store", "", "not the marker"},
		"other things":  {"letters.txt", "dear", `"letters.txt"`},
		"hidden things": {".profile", "x", `".profile"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			if err := os.WriteFile(filepath.Join(path, tt.file), []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			before := tree(t, path)
			_, err := Open(path)
			if fault.Of(err) != fault.Config || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v (%s), want one of kind config with %s", err, fault.Of(err), tt.want)
			}
			if after := tree(t, path); !slices.Equal(before, after) {
				t.Errorf("the folder was changed from %q to %q", before, after)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"", file, file + "/below"} {
		if _, err := Open(path); fault.Of(err) != fault.Config {
			t.Errorf("open of %q: %v (%s), want a config fault", path, err, fault.Of(err))
		}
	}
}

func TestOpenRace(t *testing.T) {
	for range 20 {
		path := filepath.Join(t.TempDir(), "s")
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				s, err := Open(path)
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				if _, err := s.Put(t.Context(), fmt.Sprint(i), strings.NewReader("x")); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if l, err := openT(t, path).List(t.Context(), "", "", 0); len(l) != 8 {
			t.Errorf("%d objects, %v; want 8", len(l), err)
		}
	}
}

// TestSameBytes replaces an object by the same bytes: still a new version.
func TestSameBytes(t *testing.T) {
	s := openT(t, t.TempDir())
	seen := map[string]bool{}
	for i := range 300 {
		v := put(t, s, "k", "same").Version
		if seen[v] {
			t.Fatalf("put %d repeats version %s", i, v)
		}
		seen[v] = true
	}
}

// TestClock sets the clock of a shard ahead, as a file system with coarse
// times or a clock that was set back does: versions go on from there.
func TestClock(t *testing.T) {
	path := t.TempDir()
	s := openT(t, path)
	first := put(t, s, "k", "v")
	ahead := time.Now().Add(time.Hour).Truncate(time.Second)
	locks, err := filepath.Glob(filepath.Join(path, ".lock", "*"))
	if err != nil || len(locks) != 1 {
		t.Fatal(locks, err)
	}
	if err := os.Chtimes(locks[0], time.Time{}, ahead); err != nil {
		t.Fatal(err)
	}
	second, third := put(t, openT(t, path), "k", "v"), put(t, s, "k", "v")
	if !second.Modified.After(ahead) || !third.Modified.After(second.Modified) || first.Version == third.Version {
		t.Errorf("times %v, %v, %v", first.Modified, second.Modified, third.Modified)
	}
}

func TestFolderConflicts(t *testing.T) {
	path := t.TempDir()
	s := openT(t, path)
	put(t, s, "a/b/c", "object")
	ctx := t.Context()
	for _, key := range []string{"a", "a/b", "a/b/c/d", "a/b/c/d/e"} {
		_, err := s.Put(ctx, key, strings.NewReader("x"))
		_, err2 := s.Create(ctx, key, strings.NewReader("x"))
		_, err3 := s.Swap(ctx, key, "", strings.NewReader("x"))
		for _, err := range []error{err, err2, err3, s.Append(ctx, key, 0, []byte("x"))} {
			if !errors.Is(err, store.ErrBadKey) {
				t.Errorf("%s: %v, want %v", key, err, store.ErrBadKey)
			}
		}
	}
	// Folders without an object, as a writer leaves them that is killed.
	if err := os.MkdirAll(filepath.Join(path, "e/m/p/t"), 0o700); err != nil {
		t.Fatal(err)
	}
	if f, err := s.Folders(ctx, "", "", 0); !slices.Equal(f, []string{"a"}) {
		t.Errorf("folders %q, %v; want a alone", f, err)
	}
	put(t, s, "e/m", "in their place")
	if got := leftovers(t, path); len(got) != 0 {
		t.Errorf("left in .tmp: %q", got)
	}
}

// leftovers lists the temporaries.
func leftovers(t testing.TB, path string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(path, ".tmp", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDeleteRemovesEmptyFolders(t *testing.T) {
	path := t.TempDir()
	s := openT(t, path)
	put(t, s, "a/b/c/d", "x")
	put(t, s, "a/e", "x")
	if err := s.Delete(t.Context(), "a/b/c/d"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "a/b")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a/b is still there: %v", err)
	}
	put(t, s, "a/b/c/d", "again")

	// Writers and deleters share one folder, which comes and goes.
	var wg sync.WaitGroup
	for w := range 4 {
		s := openT(t, path)
		wg.Go(func() {
			key := fmt.Sprintf("x/y/z/%d", w)
			for range 100 {
				if err := s.Append(t.Context(), key, 0, []byte("x")); err != nil {
					t.Error(err)
				}
				if err := s.Delete(t.Context(), key); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(filepath.Join(path, "x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("x is still there: %v", err)
	}
}

func TestPlantedLinks(t *testing.T) {
	outside, path := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openT(t, path)
	put(t, s, "k", "v")
	for name, target := range map[string]string{"abs": outside, "rel": "../" + filepath.Base(outside),
		"file": filepath.Join(outside, "secret"), "loop": "loop", "alias": "k"} {
		if err := os.Symlink(target, filepath.Join(path, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(path, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, outside)
	for _, key := range []string{"abs/secret", "rel/secret", "file", "loop", "fifo", "alias", "abs/new"} {
		if b, _, err := store.ReadAll(t.Context(), s, key); err == nil {
			t.Errorf("read %q through %s", b, key)
		}
		if _, err := s.Stat(t.Context(), key); err == nil {
			t.Errorf("stat through %s", key)
		}
		if err := s.Delete(t.Context(), key); err == nil {
			t.Errorf("deleted through %s", key)
		}
		if strings.Contains(key, "/") {
			_, err := s.Put(t.Context(), key, strings.NewReader("x"))
			if fault.Of(err) != fault.Denied {
				t.Errorf("put through %s: %v (%s), want denied", key, err, fault.Of(err))
			}
			if err := s.Append(t.Context(), key, 0, []byte("x")); err == nil {
				t.Errorf("appended through %s", key)
			}
		}
	}
	l, err := s.List(t.Context(), "", "", 0)
	if err != nil || len(l) != 1 {
		t.Errorf("list shows %v, %v; want k alone", l, err)
	}
	for _, prefix := range []string{"abs/", "rel/"} {
		if l, err := s.List(t.Context(), prefix, "", 0); err == nil {
			t.Errorf("listed %v through %s", l, prefix)
		}
	}
	put(t, s, "file", "an object in the link's place")
	if after := tree(t, outside); !slices.Equal(before, after) {
		t.Errorf("outside changed from %q to %q", before, after)
	}
}

func TestSweep(t *testing.T) {
	path := t.TempDir()
	s := openT(t, path)
	old := time.Now().Add(-2 * stale)
	make := func(age time.Time) *temp {
		tmp, err := s.newTemp()
		if err != nil {
			t.Fatal(err)
		}
		if err := tmp.stamp(age); err != nil {
			t.Fatal(err)
		}
		return tmp
	}
	dead, writing, young := make(old), make(old), make(time.Now())
	dead.f.Close() // as the kernel does for a writer that is killed
	young.f.Close()
	defer writing.close()
	s2 := openT(t, path)
	if got := leftovers(t, path); len(got) != 2 || slices.Contains(got, filepath.Join(path, dead.name)) {
		t.Errorf("left are %q; want all but %s", got, dead.name)
	}
	writing.f.Close()
	put(t, s2, "k", "not due yet")
	s2.swept = old
	put(t, s2, "k", "due")
	if got := leftovers(t, path); len(got) != 1 || got[0] != filepath.Join(path, young.name) {
		t.Errorf("left are %q; want %s", got, young.name)
	}
}

// TestCanceled holds a key's lock in another process's stead: a caller that
// gives up is not held up, and nothing is changed.
func TestCanceled(t *testing.T) {
	path := t.TempDir()
	s, other := openT(t, path), openT(t, path)
	put(t, s, "k", "old")
	l, err := other.lock(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error)
	go func() {
		_, err := s.Put(ctx, "k", strings.NewReader("new"))
		errs <- err
	}()
	cancel()
	if err := <-errs; !errors.Is(err, context.Canceled) || fault.Of(err) != fault.Interrupted {
		t.Errorf("got %v (%s), want %v", err, fault.Of(err), context.Canceled)
	}
	l.unlock()
	if err := s.Append(ctx, "k", 3, []byte("er")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if b, _, err := store.ReadAll(t.Context(), s, "k"); string(b) != "old" {
		t.Errorf("holds %q, %v", b, err)
	}
	if got := leftovers(t, path); len(got) != 0 {
		t.Errorf("left in .tmp: %q", got)
	}
	r, _, err := s.Get(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if b, err := io.ReadAll(r); string(b) != "old" || err != nil {
		t.Error(string(b), err)
	}
}

// counting counts how often a walk looks at its context: once in each folder.
type counting struct {
	context.Context
	n int
}

func (c *counting) Err() error { c.n++; return c.Context.Err() }

func TestListGoesOnlyWhereItMust(t *testing.T) {
	s := openT(t, t.TempDir())
	for i := range 100 {
		if err := s.Append(t.Context(), fmt.Sprintf("b/j/%02d/o", i), 0, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ prefix, after string }{{"b/j/", "b/j/49/o"}, {"", "b/j/49/o"}, {"b/j/5", ""}} {
		ctx := &counting{Context: t.Context()}
		l, err := s.List(ctx, tt.prefix, tt.after, 2)
		if err != nil || len(l) != 2 || l[0].Key != "b/j/50/o" || l[1].Key != "b/j/51/o" {
			t.Fatalf("list of %q after %q: %v, %v", tt.prefix, tt.after, l, err)
		}
		if ctx.n > 6 {
			t.Errorf("list of %q after %q went into %d folders for 2 objects", tt.prefix, tt.after, ctx.n)
		}
	}
}
