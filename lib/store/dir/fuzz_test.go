package dir

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distci/distci/lib/store"
)

// FuzzKey uses any string as a key: it is refused and nothing has changed, or
// it holds what was put, is listed, and lies in the store's folder.
func FuzzKey(f *testing.F) {
	for _, key := range []string{"a", "a/b", "../a", ".tmp/x", "a/./b", "/", "a//b", "a\x00b", ".distci-store", "é",
		"k", "k/l", strings.Repeat("x", 256), strings.Repeat("y/", 449) + "yy"} {
		f.Add(key)
	}
	outside := f.TempDir()
	path := filepath.Join(outside, "s")
	s := openT(f, path)
	put(f, s, "k", "a file")
	f.Fuzz(func(t *testing.T, key string) {
		ctx := t.Context()
		before := tree(t, outside)
		_, err := s.Put(ctx, key, strings.NewReader("data"))
		if err != nil {
			if !errors.Is(err, store.ErrBadKey) {
				t.Fatal(err)
			}
			if store.CheckKey(key) == nil && !strings.HasPrefix(key, "k/") {
				t.Fatalf("the good key %q was refused: %v", key, err)
			}
			if now := tree(t, outside); !slices.Equal(now, before) && store.CheckKey(key) != nil {
				t.Fatalf("the bad key %q left %q", key, now)
			}
			return
		}
		if store.CheckKey(key) != nil {
			t.Fatalf("the bad key %q was taken", key)
		}
		if b, err := os.ReadFile(filepath.Join(path, key)); string(b) != "data" {
			t.Fatalf("%q: %v", b, err)
		}
		l, err := s.List(ctx, key, "", 1)
		if err != nil || len(l) != 1 || l[0].Key != key {
			t.Fatalf("list: %v, %v", l, err)
		}
		if key == "k" {
			return
		}
		if err := s.Delete(ctx, key); err != nil {
			t.Fatal(err)
		}
		if l, err := s.List(ctx, "", "", 0); err != nil || len(l) != 1 {
			t.Fatalf("list: %v, %v", l, err)
		}
	})
}
