package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/distci/distci/lib/store"
)

// testReaders reads while an object is replaced: each reader gets one of the
// objects, whole, and the version that belongs to it.
func testReaders(t *testing.T, b *bench) {
	w := b.store(t)
	const size = 300_000
	if _, err := w.Put(t.Context(), "k", uniform('a', size)); err != nil {
		t.Fatal(err)
	}
	var versions sync.Map // version → letter
	var readers sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range 3 {
		r := b.store(t)
		readers.Go(func() {
			for ctx.Err() == nil {
				p, info, err := store.ReadAll(t.Context(), r.Store, "k")
				if err != nil {
					t.Error(err)
					return
				}
				letter := p[0]
				if int64(len(p)) != info.Size || len(p) != size+int(letter-'a') || bytes.Count(p, p[:1]) != len(p) {
					t.Errorf("read a part or a mixture: %d bytes of %c, size %d", len(p), letter, info.Size)
					return
				}
				if was, _ := versions.LoadOrStore(info.Version, letter); was != letter {
					t.Errorf("version %s is that of %c and of %c", info.Version, was, letter)
					return
				}
			}
		})
	}
	for i := range 60 {
		letter := byte('a' + i%26)
		if _, err := w.Put(t.Context(), "k", uniform(letter, size+int64(letter-'a'))); err != nil {
			t.Error(err)
		}
	}
	stop()
	readers.Wait()
}

func testCreateRace(t *testing.T, b *bench) {
	clients := []*client{b.store(t), b.store(t), b.store(t), b.store(t)}
	for round := range 20 {
		key := fmt.Sprintf("race/%d/k", round)
		won := make([]bool, len(clients))
		var wg sync.WaitGroup
		for i, c := range clients {
			wg.Go(func() {
				_, err := c.Create(t.Context(), key, strings.NewReader(fmt.Sprint("by ", i)))
				won[i] = err == nil
				if err != nil && !errors.Is(err, store.ErrExists) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		winner := -1
		for i, w := range won {
			if w && winner >= 0 {
				t.Fatalf("both %d and %d created %s", winner, i, key)
			}
			if w {
				winner = i
			}
		}
		if winner < 0 {
			t.Fatalf("nobody created %s", key)
		}
		clients[0].wants(key, fmt.Sprint("by ", winner))
	}
}

func testSwapRace(t *testing.T, b *bench) {
	const writers, times = 4, 25
	var wg sync.WaitGroup
	for i := range writers {
		c := b.store(t)
		wg.Go(func() {
			if err := enter(t.Context(), c.Store, fmt.Sprint("w", i), times); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	checkEntries(t, b.store(t), writers, times)
}

// enter adds lines "NAME NUMBER" to the object "entries" by Swap, a
// read-modify-write that loses nothing.
func enter(ctx context.Context, s store.Store, name string, times int) error {
	for i := range times {
		line := fmt.Sprintf("%s %d\n", name, i)
		for {
			text, info, err := store.ReadAll(ctx, s, "entries")
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if bytes.Contains(text, []byte(line)) {
				break // an unknown outcome was a success
			}
			_, err = s.Swap(ctx, "entries", info.Version, io.MultiReader(bytes.NewReader(text), strings.NewReader(line)))
			if err == nil {
				break
			}
			if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnknown) {
				return err
			}
		}
	}
	return nil
}

func checkEntries(t *testing.T, s *client, writers, times int) {
	t.Helper()
	text, _, err := store.ReadAll(t.Context(), s.Store, "entries")
	if err != nil {
		t.Fatal(err)
	}
	for w := range writers {
		for i := range times {
			if n := strings.Count(string(text), fmt.Sprintf("w%d %d\n", w, i)); n != 1 {
				t.Errorf("entry %d of writer %d is there %d times", i, w, n)
			}
		}
	}
	if n := strings.Count(string(text), "\n"); n != writers*times {
		t.Errorf("%d entries, want %d", n, writers*times)
	}
}
