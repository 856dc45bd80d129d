package workspace

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
)

// childVar tells the test program to be a second process, and which.
const childVar = "WORKSPACE_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childVar) {
	case "half":
		fetchHalf(os.Args[1])
	case "churn":
		if err := churn(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return digestPrefix + hex.EncodeToString(sum[:])
}

// put stores b as if it were a layer.
func put(t testing.TB, l *Layers, b []byte) string {
	t.Helper()
	key, err := Key(sha(b))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.store.Put(context.Background(), key, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return sha(b)
}

func read(t testing.TB, l *Layers, digest string) []byte {
	t.Helper()
	f, err := l.open(context.Background(), digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// counting counts what is read from a store.
type counting struct {
	store.Store
	gets int
}

func (c *counting) Get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	c.gets++
	return c.Store.Get(ctx, key, offset, n)
}

func TestCacheIsVerified(t *testing.T) {
	s := &counting{Store: newStore(t)}
	l := newLayers(t, s)
	layer := []byte("some layer")
	digest := put(t, l, layer)
	path := filepath.Join(l.cache.dir, strings.TrimPrefix(digest, digestPrefix))
	for _, tt := range []struct {
		name  string
		spoil func() error
		gets  int
	}{
		{"first", func() error { return nil }, 1},
		{"cached", func() error { return nil }, 1},
		{"truncated", func() error { return os.Truncate(path, 4) }, 2},
		{"emptied", func() error { return os.Truncate(path, 0) }, 3},
		{"damaged", func() error { return os.WriteFile(path, []byte("some Layer"), 0o600) }, 4},
		{"longer", func() error { return os.WriteFile(path, []byte("some layer!"), 0o600) }, 5},
		{"removed", func() error { return os.Remove(path) }, 6},
		{"well again", func() error { return nil }, 6},
	} {
		if err := tt.spoil(); err != nil {
			t.Fatal(err)
		}
		if got := read(t, l, digest); !bytes.Equal(got, layer) {
			t.Errorf("%s: %q", tt.name, got)
		}
		if s.gets != tt.gets {
			t.Errorf("%s: fetched %d times, want %d", tt.name, s.gets, tt.gets)
		}
	}

	key, _ := Key(digest)
	if _, err := s.Put(context.Background(), key, strings.NewReader("not that layer")); err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	if _, err := l.open(context.Background(), digest); fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged store: %v", err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("a damaged layer is in the cache: %v", err)
	}
	if _, err := l.open(context.Background(), sha([]byte("other"))); fault.Of(err) != fault.Unavailable || !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no such layer: %v", err)
	}
	for _, bad := range []string{"", "sha256:", "sha256:../../etc/passwd", strings.ToUpper(digest), "sha512:" + digest[7:], digest + "0", digest[:70] + "/"} {
		if _, err := l.open(context.Background(), bad); fault.Of(err) != fault.BadTicket {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// cached lists what the cache has, and checks that all of it is what its name
// says.
func cached(t testing.TB, c *Cache) map[string]int64 {
	t.Helper()
	found := map[string]int64{}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		b, err := os.ReadFile(filepath.Join(c.dir, e.Name()))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil || sha(b) != digestPrefix+e.Name() {
			t.Errorf("a bad entry: %s, %v", e.Name(), err)
		}
		found[digestPrefix+e.Name()] = int64(len(b))
	}
	return found
}

func TestCacheIsBounded(t *testing.T) {
	l := newLayers(t, newStore(t))
	l.cache.bound = 1000
	var digests []string
	for i := range 5 {
		digests = append(digests, put(t, l, bytes.Repeat([]byte{byte(i)}, 400)))
	}
	age := func(digest string, d time.Duration) {
		path := filepath.Join(l.cache.dir, strings.TrimPrefix(digest, digestPrefix))
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(-d)); err != nil {
			t.Fatal(err)
		}
	}
	read(t, l, digests[0])
	read(t, l, digests[1])
	age(digests[0], 2*time.Hour)
	age(digests[1], time.Hour)
	read(t, l, digests[0]) // used again: now the other one is the oldest
	read(t, l, digests[2])
	if got := cached(t, l.cache); len(got) != 2 || got[digests[0]] == 0 || got[digests[2]] == 0 {
		t.Errorf("cached: %v", got)
	}
	large := put(t, l, make([]byte, 2000)) // does not fit at all, but can be used
	if got := read(t, l, large); len(got) != 2000 {
		t.Errorf("%d bytes", len(got))
	}
	if got := cached(t, l.cache); got[large] != 0 {
		t.Errorf("cached: %v", got)
	}
}

func child(t testing.TB, what string, args ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), childVar+"="+what)
	cmd.Stderr = os.Stderr
	return cmd
}

// halfLayer is what fetchHalf never gets to the end of.
var halfLayer = bytes.Repeat([]byte("half"), 1<<16)

// fetchHalf is a process that is killed while it fills the cache in folder.
func fetchHalf(folder string) {
	c, err := OpenCache(folder, 1<<30)
	if err != nil {
		panic(err)
	}
	c.open(context.Background(), sha(halfLayer), func(context.Context) (io.ReadCloser, error) {
		return &blocking{Reader: bytes.NewReader(halfLayer[:len(halfLayer)/2])}, nil
	})
}

// blocking says when it is read to its end, and then never comes back.
type blocking struct{ *bytes.Reader }

func (b *blocking) Close() error { return nil }
func (b *blocking) Read(p []byte) (int, error) {
	if b.Len() > 0 {
		return b.Reader.Read(p)
	}
	fmt.Println("half")
	io.Copy(io.Discard, os.Stdin)
	select {}
}

func TestCacheSurvivesKill(t *testing.T) {
	l := newLayers(t, newStore(t))
	cmd := child(t, "half", l.cache.dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("half"))); err != nil {
		t.Fatal(err)
	}
	temps := func() []string {
		m, _ := filepath.Glob(filepath.Join(l.cache.dir, tempPrefix+"*"))
		return m
	}
	old := time.Now().Add(-24 * time.Hour)
	sweep := func() {
		for _, path := range temps() {
			if err := os.Chtimes(path, time.Time{}, old); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.cache.evict(); err != nil {
			t.Fatal(err)
		}
	}
	if sweep(); len(temps()) != 1 {
		t.Errorf("a temporary of a process that lives: %q", temps())
	}
	cmd.Process.Kill()
	cmd.Wait()
	if got := cached(t, l.cache); len(got) != 0 {
		t.Errorf("cached: %v", got)
	}
	put(t, l, halfLayer)
	if !bytes.Equal(read(t, l, sha(halfLayer)), halfLayer) {
		t.Error("not the layer")
	}
	if sweep(); len(temps()) != 0 {
		t.Errorf("left behind: %q", temps())
	}
}

// churn uses a cache that has room for a few of the store's layers only.
func churn(folder, storeFolder string) error {
	s, err := dir.Open(storeFolder)
	if err != nil {
		return err
	}
	defer s.Close()
	c, err := OpenCache(folder, 3000)
	if err != nil {
		return err
	}
	l := NewLayers(s, c, Limits{})
	for i := range 200 {
		b := churned(i % 10)
		f, err := l.open(context.Background(), sha(b))
		if err != nil {
			return err
		}
		got, err := io.ReadAll(f)
		f.Close()
		if err != nil || !bytes.Equal(got, b) {
			return fmt.Errorf("layer %d: %d bytes, %v", i, len(got), err)
		}
	}
	return nil
}

func churned(i int) []byte { return bytes.Repeat([]byte{byte(i)}, 900+i) }

func TestCacheIsShared(t *testing.T) {
	storeFolder := t.TempDir()
	s, err := dir.Open(storeFolder)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := newLayers(t, s)
	for i := range 10 {
		put(t, l, churned(i))
	}
	var group sync.WaitGroup
	for range 2 {
		group.Go(func() {
			if err := child(t, "churn", l.cache.dir, storeFolder).Run(); err != nil {
				t.Error(err)
			}
		})
		group.Go(func() {
			if err := churn(l.cache.dir, storeFolder); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	var total int64
	for _, size := range cached(t, l.cache) {
		total += size
	}
	if total > 3000 {
		t.Errorf("%d bytes in the cache", total)
	}
	if left, _ := filepath.Glob(filepath.Join(l.cache.dir, tempPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
