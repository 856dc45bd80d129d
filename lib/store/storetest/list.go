package storetest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// nasty are keys whose order as keys is not that of a walk through folders:
// "+", "-" and "." sort before "/".
var nasty = []string{
	"a+/x", "a-b", "a-b-c", "a-c/d", "a.b", "a.c/d", "a/b", "a/c/d", "a/c-d", "a/c.d/e", "a/c0", "a/z", "a0", "a=",
	"aa/b", "A", "B/a", "_", "=", "@/@", "-", "+", "0", "00/1", "00/10", "00/2", "z/z/z/z/z", "z/z/z/z-z", "a/c/e/f", "a/d/b",
}

func fill(t *testing.T, s *client, keys []string) {
	t.Helper()
	var wg sync.WaitGroup
	for part := range slices.Chunk(keys, (len(keys)+15)/16) {
		wg.Go(func() {
			for _, key := range part {
				if _, err := s.Put(s.ctx, key, strings.NewReader(key)); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func testList(t *testing.T, b *bench) {
	s := b.store(t)
	if keys := s.keys("", 10); len(keys) != 0 {
		t.Fatalf("a new store holds %q", keys)
	}
	fill(t, s, nasty)
	s = b.store(t)
	sorted := slices.Sorted(slices.Values(nasty))
	afters := append([]string{"", "a", "a/", "a/c", "a/c/", "a/c/d/e", "a-", "a.", "a/c.", "aa", "zz", "z/z", "~", "00/", "."}, nasty...)
	for _, prefix := range []string{"", "a", "a-", "a.", "a/", "a/c", "a/c/", "a/c/d", "00/1", "z/z/z", "q", "q/r/s", "A/", "..", "../", "a//", ".", "a/./"} {
		for _, after := range afters {
			for _, limit := range []int{0, 1, 3} {
				var want []string
				for _, key := range sorted {
					if strings.HasPrefix(key, prefix) && key > after && (limit == 0 || len(want) < limit) {
						want = append(want, key)
					}
				}
				infos, err := s.List(t.Context(), prefix, after, limit)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, i := range infos {
					got = append(got, i.Key)
				}
				if !slices.Equal(got, want) {
					t.Errorf("list of %q after %q, at most %d:\n got %q\nwant %q", prefix, after, limit, got, want)
				}
			}
		}
	}
	infos, err := s.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if want := s.stat(i.Key); !same(i, want) {
			t.Errorf("list says %+v, stat %+v", i, want)
		}
	}
	for _, page := range []int{1, 7, len(nasty), len(nasty) + 1} {
		if got := s.keys("", page); !slices.Equal(got, sorted) {
			t.Errorf("in pages of %d: %q, want %q", page, got, sorted)
		}
	}
}

func testListMany(t *testing.T, b *bench) {
	s := b.store(t)
	var keys []string
	for i := range 2100 {
		keys = append(keys, fmt.Sprintf("many/%04d", i))
	}
	fill(t, s, keys)
	for after, want := range map[string]int{"": 1000, keys[999]: 1000, keys[1999]: 100} {
		infos, err := s.List(t.Context(), "many/", after, 0)
		if err != nil || len(infos) != want {
			t.Errorf("list after %q: %d objects, %v; want %d", after, len(infos), err, want)
		}
	}
	if got := s.keys("many", 700); !slices.Equal(got, keys) { // three full pages and an empty one
		t.Errorf("%d keys in pages of 700, want %d", len(got), len(keys))
	}
	if got := s.keys("many", 1500); !slices.Equal(got, keys) {
		t.Errorf("%d keys in pages of 1500, want %d", len(got), len(keys))
	}
}

// testListWhileChanged lists while objects around those that stay come and go.
func testListWhileChanged(t *testing.T, b *bench) {
	s, other := b.store(t), b.store(t)
	var stay []string
	for i := range 20 {
		stay = append(stay, fmt.Sprintf("l/%02d/stays", i))
	}
	fill(t, s, stay)
	var wg sync.WaitGroup
	for w := range 2 {
		wg.Go(func() {
			for i := range 200 {
				key := fmt.Sprintf("l/%02d/comes/and/goes-%d", i%20, w)
				if i%2 == 0 {
					key = fmt.Sprintf("l/x%d/%d", i%7, w) // its folder comes and goes too
				}
				if _, err := other.Put(t.Context(), key, strings.NewReader("x")); err != nil {
					t.Errorf("put: %v", err)
				}
				if err := other.Delete(t.Context(), key); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for ended := false; !ended && !t.Failed(); {
		select {
		case <-done:
			ended = true
		default:
		}
		keys := s.keys("l/", 7)
		if !slices.IsSorted(keys) || len(slices.Compact(slices.Clone(keys))) != len(keys) {
			t.Errorf("not in order, or twice: %q", keys)
		}
		keys = slices.DeleteFunc(keys, func(k string) bool { return !strings.HasSuffix(k, "/stays") })
		if !slices.Equal(keys, stay) {
			t.Errorf("of the objects that stay only %q were listed", keys)
		}
		if _, err := s.Folders(t.Context(), "l/", "", 0); err != nil {
			t.Error(err)
		}
	}
	<-done
	if got := s.keys("", 1000); !slices.Equal(got, stay) {
		t.Errorf("in the end the store holds %q", got)
	}
}

func testFolders(t *testing.T, b *bench) {
	s := b.store(t)
	fill(t, s, nasty)
	for _, prefix := range []string{"", "a/", "a/c/", "z/z/", "00/", "q/", "A/", "a-c/", "../", "./"} {
		set := map[string]bool{}
		for _, key := range nasty {
			if rest, ok := strings.CutPrefix(key, prefix); ok {
				if part, _, ok := strings.Cut(rest, "/"); ok {
					set[part] = true
				}
			}
		}
		var all []string
		for part := range set {
			all = append(all, part)
		}
		slices.Sort(all)
		for _, after := range append([]string{"", "a", "a-", "b", "c/", "zz"}, all...) {
			for _, limit := range []int{0, 1, 2, len(all)} {
				var want []string
				for _, part := range all {
					if part > after && (limit == 0 || len(want) < limit) {
						want = append(want, part)
					}
				}
				got, err := s.Folders(t.Context(), prefix, after, limit)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(got, want) {
					t.Errorf("folders of %q after %q, at most %d:\n got %q\nwant %q", prefix, after, limit, got, want)
				}
			}
		}
	}
	for _, key := range []string{"a/c/d", "a/c/e/f"} {
		if err := s.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.Folders(t.Context(), "a/", "", 0)
	if want := []string{"c.d", "d"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("after the last object of a/c/ is gone: %q, %v; want %q", got, err, want)
	}
}
