package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/distci/distci/lib/store"
)

// testRemove is the contract of [store.Remove], of a store that is a
// [store.Remover] and of one that is none.
func testRemove(t *testing.T, b *bench) {
	s, other := b.store(t), b.store(t)
	remove := func(version string) error { return store.Remove(t.Context(), s.Store, "a/k", version) }
	wantErr(t, "remove of an absent object", remove("no-such-version"), store.ErrNotFound)
	for _, data := range []string{"small", strings.Repeat("large", 100_000)} {
		first := other.put("a/k", data)
		wantErr(t, "remove of another version", remove("no-such-version"), store.ErrConflict)
		other.append("a/k", int64(len(data)), "+")
		wantErr(t, "remove after an append", remove(first.Version), store.ErrConflict)
		second := other.put("a/k", data+"+")
		wantErr(t, "remove after a put", remove(first.Version), store.ErrConflict)
		other.wants("a/k", data+"+")
		if err := remove(second.Version); err != nil {
			t.Fatal(err)
		}
		other.wantsNone("a/k")
		if keys := other.keys("", 10); len(keys) != 0 {
			t.Fatalf("the store holds %q", keys)
		}
		wantErr(t, "remove again", remove(second.Version), store.ErrNotFound)
		again := other.put("a/k", data) // the same bytes
		wantErr(t, "remove of what was put since", remove(second.Version), store.ErrConflict)
		if err := other.Delete(t.Context(), "a/k"); err != nil {
			t.Fatal(err)
		}
		wantErr(t, "remove of what was deleted", remove(again.Version), store.ErrNotFound)
	}
	wantErr(t, "remove of no key", store.Remove(t.Context(), s.Store, "../k", "x"), store.ErrBadKey)
}

// testRemoveRace: of those who remove, replace and append to the same version
// one succeeds, and what it has done stays.
func testRemoveRace(t *testing.T, b *bench) {
	clients := []*client{b.store(t), b.store(t), b.store(t), b.store(t)}
	contest := func(c *client, i int, key, version string) error {
		switch i {
		case 0:
			_, err := c.Swap(t.Context(), key, version, strings.NewReader("swapped"))
			return err
		case 1:
			return c.Append(t.Context(), key, 3, []byte("+more"))
		}
		return store.Remove(t.Context(), c.Store, key, version)
	}
	const gone = "(gone)"
	after := []string{"swapped", "old+more", gone, gone}
	won := [4]int{}
	for round := range 40 {
		key := fmt.Sprintf("race/%d/k", round)
		version := clients[0].put(key, "old").Version
		errs := make([]error, len(clients))
		var wg sync.WaitGroup
		for i, c := range clients {
			wg.Go(func() { errs[i] = contest(c, i, key, version) })
		}
		wg.Wait()
		winner := -1
		maybe := []string{"old"} // how it may be if nobody knows that he has won
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("both %d and %d changed the same version", winner, i)
			case err == nil:
				winner = i
			case errors.Is(err, store.ErrUnknown): // Ceph's gateway says so of a put that meets a removal
				maybe = append(maybe, after[i], "")
			case !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrNotFound):
				t.Fatal(err)
			}
		}
		now := gone
		if p, _, err := store.ReadAll(t.Context(), clients[0].Store, key); err == nil {
			now = string(p)
		} else if !errors.Is(err, store.ErrNotFound) {
			t.Fatal(err)
		}
		if winner < 0 && (len(maybe) == 1 || !slices.Contains(maybe, now)) || winner >= 0 && now != after[winner] {
			t.Fatalf("%q is there; won has %d; errors %v", now, winner, errs)
		}
		if winner >= 0 {
			won[winner]++
		}
	}
	t.Logf("a swap won %d times, an append %d, a remove %d", won[0], won[1], won[2]+won[3])
}
