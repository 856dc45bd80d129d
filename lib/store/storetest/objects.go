package storetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/distci/distci/lib/store"
)

func testPut(t *testing.T, b *bench) {
	s, other := b.store(t), b.store(t)
	s.wantsNone("a/b/object")
	for _, data := range []string{"one", "", "a longer one", "\x00\xff\r\n"} {
		put := s.put("a/b/object", data)
		if got := other.wants("a/b/object", data); got.Version != put.Version {
			t.Fatalf("put gave version %s, get %s", put.Version, got.Version)
		}
	}
	s.wantsNone("a/b/objec")
	s.wantsNone("a/b/object2")
	s.wantsNone("a/b/object/c")
	s.wantsNone("a/b")

	long := strings.Repeat("p", 255)
	key := strings.Repeat(long+"/", 3) + strings.Repeat("p", 900-3*256)
	s.put(key, "long")
	other.wants(key, "long")
	s.put("-_.=+@/A", "odd")
	other.wants("-_.=+@/A", "odd")
}

func testLarge(t *testing.T, b *bench) {
	if testing.Short() {
		t.Skip("64 MiB are too much for a short test")
	}
	s := b.store(t)
	const size = 64 << 20
	source := sha256.New()
	random := rand.NewChaCha8([32]byte{1})
	info, err := s.Put(t.Context(), "large", io.TeeReader(io.LimitReader(random, size), source))
	if err != nil {
		t.Fatal(err)
	}
	s.describes(info, "large", size)
	r, info, err := s.Get(t.Context(), "large", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.describes(info, "large", size)
	stored := sha256.New()
	if n, err := io.Copy(stored, r); err != nil || n != size {
		t.Fatalf("read %d bytes, %v; want %d", n, err, size)
	}
	if !bytes.Equal(source.Sum(nil), stored.Sum(nil)) {
		t.Fatal("the bytes read are not those written")
	}
}

func testFailingSource(t *testing.T, b *bench) {
	s := b.store(t)
	broken := errors.New("source broke")
	source := func() io.Reader { return io.MultiReader(uniform('x', 300_000), failing{broken}) }
	_, err := s.Put(t.Context(), "new/object", source())
	wantErr(t, "put of a new object", err, broken)
	_, err = s.Create(t.Context(), "new/object", source())
	wantErr(t, "create", err, broken)
	_, err = s.Swap(t.Context(), "new/object", "", source())
	wantErr(t, "swap of a new object", err, broken)
	s.wantsNone("new/object")

	old := s.put("old", "the old one")
	_, err = s.Put(t.Context(), "old", source())
	wantErr(t, "put", err, broken)
	_, err = s.Swap(t.Context(), "old", old.Version, source())
	wantErr(t, "swap", err, broken)
	if now := s.wants("old", "the old one"); now.Version != old.Version {
		t.Fatalf("version changed from %s to %s", old.Version, now.Version)
	}
	if keys := s.keys("", 10); len(keys) != 1 {
		t.Fatalf("the store holds %q, want only the old object", keys)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func testCreate(t *testing.T, b *bench) {
	s := b.store(t)
	info, err := s.Create(t.Context(), "k/1", strings.NewReader("first"))
	if err != nil {
		t.Fatal(err)
	}
	s.describes(info, "k/1", 5)
	_, err = s.Create(t.Context(), "k/1", strings.NewReader("second"))
	wantErr(t, "create again", err, store.ErrExists)
	if now := s.wants("k/1", "first"); now.Version != info.Version {
		t.Fatal("a create that failed changed the version")
	}
	if err := s.Delete(t.Context(), "k/1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(t.Context(), "k/1", strings.NewReader("")); err != nil {
		t.Fatal(err)
	}
	s.wants("k/1", "")
	_, err = s.Create(t.Context(), "k/1", strings.NewReader("x"))
	wantErr(t, "create over an empty object", err, store.ErrExists)
}

func testSwap(t *testing.T, b *bench) {
	s, other := b.store(t), b.store(t)
	swap := func(version, data string) (store.Info, error) {
		return s.Swap(t.Context(), "k/1", version, strings.NewReader(data))
	}
	_, err := swap("no-such-version", "x")
	wantErr(t, "swap of an absent object", err, store.ErrConflict)
	s.wantsNone("k/1")
	first, err := swap("", "first")
	if err != nil {
		t.Fatal(err)
	}
	s.describes(first, "k/1", 5)
	_, err = swap("", "x")
	wantErr(t, "swap of absent over an object", err, store.ErrConflict)
	second, err := swap(other.wants("k/1", "first").Version, "again")
	if err != nil {
		t.Fatal(err)
	}
	if second.Version == first.Version {
		t.Fatal("the version did not change")
	}
	_, err = swap(first.Version, "x")
	wantErr(t, "swap of an old version", err, store.ErrConflict)
	other.wants("k/1", "again")

	other.append("k/1", 5, "+")
	_, err = swap(second.Version, "x")
	wantErr(t, "swap after an append", err, store.ErrConflict)
	other.put("k/1", "Again+")
	_, err = swap(second.Version, "x")
	wantErr(t, "swap after a put", err, store.ErrConflict)
	last := other.wants("k/1", "Again+")
	if err := other.Delete(t.Context(), "k/1"); err != nil {
		t.Fatal(err)
	}
	_, err = swap(last.Version, "x")
	wantErr(t, "swap after a delete", err, store.ErrConflict)
	s.wantsNone("k/1")
}

// testVersions changes an object as fast as it can, always to other bytes of
// the same length: what looks unchanged to a coarse clock must not to Swap.
func testVersions(t *testing.T, b *bench) {
	s, other := b.store(t), b.store(t)
	seen := map[string]string{}
	note := func(what, version string) {
		t.Helper()
		if before, ok := seen[version]; ok {
			t.Fatalf("version %s of %s was that of %s", version, what, before)
		}
		seen[version] = what
	}
	version := ""
	for i := range 200 {
		c := []*client{s, other}[i%2]
		info, err := c.Swap(t.Context(), "k", version, strings.NewReader(fmt.Sprintf("swap %04d", i)))
		if err != nil {
			t.Fatal(err)
		}
		version = info.Version
		note(fmt.Sprint("swap ", i), version)
	}
	for i := range 100 {
		note(fmt.Sprint("put ", i), s.put("k", fmt.Sprintf("put  %04d", i)).Version)
	}
	for i := range 100 {
		if err := other.Delete(t.Context(), "k"); err != nil {
			t.Fatal(err)
		}
		s.append("k", 0, "app")
		note(fmt.Sprint("first append ", i), other.stat("k").Version)
		other.append("k", 3, fmt.Sprintf("  %04d", i))
		note(fmt.Sprint("append ", i), s.stat("k").Version)
	}
}

func testGet(t *testing.T, b *bench) {
	s := b.store(t)
	s.put("k", "0123456789")
	tests := []struct {
		offset, n int64
		want      string
	}{
		{0, -1, "0123456789"}, {0, 10, "0123456789"}, {0, 99, "0123456789"},
		{0, 3, "012"}, {4, 3, "456"}, {7, 3, "789"}, {7, 4, "789"}, {9, 1, "9"},
		{4, -1, "456789"}, {10, -1, ""}, {10, 5, ""}, {11, -1, ""}, {1 << 40, 7, ""},
		{0, 0, ""}, {5, 0, ""}, {3, 1<<63 - 1, "3456789"},
	}
	for _, tt := range tests {
		r, info, err := s.Get(t.Context(), "k", tt.offset, tt.n)
		if err != nil {
			t.Fatalf("get %d, %d: %v", tt.offset, tt.n, err)
		}
		s.describes(info, "k", 10)
		got, err := io.ReadAll(r)
		if err != nil || string(got) != tt.want {
			t.Errorf("get %d, %d: %q, %v; want %q", tt.offset, tt.n, got, err, tt.want)
		}
		if err := r.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	}
}

func testGetWhileReplaced(t *testing.T, b *bench) {
	s, other := b.store(t), b.store(t)
	const size = 1 << 20
	for _, change := range []string{"put", "append", "delete"} {
		old := strings.Repeat("o", size)
		s.put("k", old)
		r, info, err := s.Get(t.Context(), "k", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		first := make([]byte, 1000)
		if _, err := io.ReadFull(r, first); err != nil {
			t.Fatal(err)
		}
		switch change {
		case "put":
			other.put("k", strings.Repeat("n", size+1))
		case "append":
			other.append("k", size, "more")
		case "delete":
			if err := other.Delete(t.Context(), "k"); err != nil {
				t.Fatal(err)
			}
			other.wantsNone("k")
			r.Close()
			continue // what a reader gets of a deleted object is not promised
		}
		rest, err := io.ReadAll(r)
		if err != nil || string(first)+string(rest) != old {
			t.Errorf("a reader was disturbed by %s: %d bytes, %v", change, len(first)+len(rest), err)
		}
		s.describes(info, "k", size)
		r.Close()
	}
}

func testDelete(t *testing.T, b *bench) {
	s, other := b.store(t), b.store(t)
	wantErr(t, "delete of nothing", s.Delete(t.Context(), "a/b/1"), store.ErrNotFound)
	s.put("a/b/1", "1")
	s.put("a/b/2", "2")
	if err := other.Delete(t.Context(), "a/b/1"); err != nil {
		t.Fatal(err)
	}
	s.wantsNone("a/b/1")
	s.wants("a/b/2", "2")
	wantErr(t, "delete again", s.Delete(t.Context(), "a/b/1"), store.ErrNotFound)
	wantErr(t, "delete of a folder", s.Delete(t.Context(), "a/b"), store.ErrNotFound)
	wantErr(t, "sync of nothing", s.Sync(t.Context(), "a/b/1"), store.ErrNotFound)
	if err := s.Delete(t.Context(), "a/b/2"); err != nil {
		t.Fatal(err)
	}
	if keys := other.keys("", 10); len(keys) != 0 {
		t.Fatalf("the store holds %q, want nothing", keys)
	}
	s.put("a", "no folder any more")
	other.wants("a", "no folder any more")
}

func testBadKeys(t *testing.T, b *bench) {
	s := b.store(t)
	bad := []string{"", "/", "a/", "/a", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".a", "a/.b", "a b", "a\x00",
		"a\nb", "ä", "a\\b", "a:b", "a*", "%41", "~", strings.Repeat("p", 256), strings.Repeat("abcd/", 180) + "x"}
	ctx := t.Context()
	for _, key := range bad {
		check := func(op string, err error) {
			t.Helper()
			if !errors.Is(err, store.ErrBadKey) {
				t.Errorf("%s %q: got error %v, want %v", op, key, err, store.ErrBadKey)
			}
		}
		_, err := s.Put(ctx, key, strings.NewReader("x"))
		check("put", err)
		_, err = s.Create(ctx, key, strings.NewReader("x"))
		check("create", err)
		_, err = s.Swap(ctx, key, "", strings.NewReader("x"))
		check("swap", err)
		check("append", s.Append(ctx, key, 0, []byte("x")))
		check("sync", s.Sync(ctx, key))
		_, _, err = s.Get(ctx, key, 0, -1)
		check("get", err)
		_, err = s.Stat(ctx, key)
		check("stat", err)
		check("delete", s.Delete(ctx, key))
	}
	if keys := s.keys("", 10); len(keys) != 0 {
		t.Fatalf("the store holds %q, want nothing", keys)
	}
}
