package storetest

import (
	"errors"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/distci/distci/lib/store"
)

func testAppend(t *testing.T, b *bench) {
	s, other := b.store(t), b.store(t)
	ctx := t.Context()
	conflict := func(offset int64, p string) {
		t.Helper()
		wantErr(t, "append", s.Append(ctx, "log", offset, []byte(p)), store.ErrConflict)
	}
	conflict(1, "x")
	other.wantsNone("log")
	s.append("log", 0, "first ")
	other.wants("log", "first ")
	s.append("log", 6, "second ")
	other.wants("log", "first second ")

	s.append("log", 6, "second ")     // a repeat
	other.append("log", 6, "second ") // by another, too
	s.append("log", 6, "second third")
	other.wants("log", "first second third")
	s.append("log", 0, "first second third, fourth")
	s.append("log", 26, "")
	before := other.wants("log", "first second third, fourth")

	conflict(27, "gap")
	conflict(25, "x")                          // other bytes are there
	conflict(6, "Second third, fourth, fifth") // the same
	conflict(6, "second third, Fourth, fifth") // the same
	conflict(0, "first ")                      // more is there than p
	conflict(19, "fourth, fifth")              // off by one
	conflict(0, "")                            // an empty p at an offset that is not the size
	conflict(1<<62, "x")
	after := other.wants("log", "first second third, fourth")
	if after.Version != before.Version {
		t.Fatal("an append that failed changed the version")
	}
	for range 2 {
		if err := s.Sync(ctx, "log"); err != nil {
			t.Fatal(err)
		}
	}
	other.wants("log", "first second third, fourth")

	wantErr(t, "sync of nothing", s.Sync(ctx, "nothing"), store.ErrNotFound)
}

func testAppendAfterPut(t *testing.T, b *bench) {
	s, other := b.store(t), b.store(t)
	s.put("k", "put")
	other.append("k", 3, "+app")
	s.append("k", 7, "end")
	other.wants("k", "put+append")
	other.put("k", "new")
	wantErr(t, "append to what was replaced", s.Append(t.Context(), "k", 10, []byte("x")), store.ErrConflict)
	s.append("k", 3, "er")
	other.wants("k", "newer")
	if err := other.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "append to what was deleted", s.Append(t.Context(), "k", 5, []byte("x")), store.ErrConflict)
	s.append("k", 0, "again")
	other.wants("k", "again")
}

func testAppendRace(t *testing.T, b *bench) {
	clients := []*client{b.store(t), b.store(t), b.store(t)}
	const size = 10_000
	want := ""
	for range 30 {
		errs := make([]error, len(clients))
		var wg sync.WaitGroup
		for i, c := range clients {
			wg.Go(func() {
				p := strings.Repeat(string(rune('a'+i)), size)
				errs[i] = c.Append(t.Context(), "log", int64(len(want)), []byte(p))
			})
		}
		wg.Wait()
		won := -1
		for i, err := range errs {
			switch {
			case err == nil && won >= 0:
				t.Fatalf("both %d and %d appended different bytes at offset %d", won, i, len(want))
			case err == nil:
				won = i
			case !errors.Is(err, store.ErrConflict):
				t.Fatal(err)
			}
		}
		if won >= 0 {
			want += strings.Repeat(string(rune('a'+won)), size)
			clients[0].wants("log", want)
		}
	}
	if want == "" {
		t.Fatal("nobody could append in 30 races")
	}
}

// testFollow reads a log that is being written, as a follower does.
func testFollow(t *testing.T, b *bench) {
	w, r := b.store(t), b.store(t)
	const total = 2 << 20
	whole := pattern(0, total)
	var wg sync.WaitGroup
	wg.Go(func() {
		for off := 0; off < total; {
			n := min(total-off, 1+off%30_011)
			if err := w.Append(t.Context(), "log", int64(off), whole[off:off+n]); err != nil {
				t.Errorf("append at %d: %v", off, err)
				return
			}
			if size := r.size("log"); size < int64(off+n) {
				t.Errorf("after an append up to %d another sees %d bytes", off+n, size)
			}
			off += n
		}
	})
	defer wg.Wait()
	for off := int64(0); off < total && !t.Failed(); {
		body, info, err := r.Get(t.Context(), "log", off, -1)
		if errors.Is(err, store.ErrNotFound) && off == 0 {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(body)
		body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if off+int64(len(p)) != info.Size {
			t.Fatalf("read up to %d, but the size was %d", off+int64(len(p)), info.Size)
		}
		if string(p) != string(whole[off:off+int64(len(p))]) {
			t.Fatalf("wrong bytes in %d to %d", off, off+int64(len(p)))
		}
		off += int64(len(p))
	}
}

// size is the object's size, or -1; it may be called from any goroutine.
func (c *client) size(key string) int64 {
	info, err := c.Stat(c.ctx, key)
	if err != nil {
		return -1
	}
	return info.Size
}

// pattern is what a log of the tests holds from offset on.
func pattern(offset int64, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		at := uint64(offset) + uint64(i)
		p[i] = byte(at*at>>8 ^ at)
	}
	return p
}
