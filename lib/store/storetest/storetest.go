// Package storetest proves that an adapter keeps what package store promises,
// and no more than that, so that every adapter passes the same test. An
// adapter's test consists of
//
//	func TestMain(m *testing.M) { storetest.Main(m, dir.Open) }
//	func TestStore(t *testing.T) { storetest.Run(t, dir.Open, (*testing.T).TempDir) }
//
// A store is shared by processes, and a process may be killed at any point: to
// prove this the test runs its own program again as other processes.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/distci/distci/lib/store"
)

// Opener opens the store at an address, which an adapter may form as it likes.
// It is called in other processes too.
type Opener func(address string) (store.Store, error)

// Run tests the stores that open opens. Fresh makes a new, empty store and
// returns its address; it cleans up with t.Cleanup.
func Run(t *testing.T, open Opener, fresh func(t *testing.T) string) {
	tests := []struct {
		name string
		test func(t *testing.T, b *bench)
	}{
		{"Put", testPut},
		{"Large", testLarge},
		{"FailingSource", testFailingSource},
		{"Create", testCreate},
		{"Swap", testSwap},
		{"Versions", testVersions},
		{"Get", testGet},
		{"GetWhileReplaced", testGetWhileReplaced},
		{"Delete", testDelete},
		{"Remove", testRemove},
		{"RemoveRace", testRemoveRace},
		{"BadKeys", testBadKeys},
		{"Append", testAppend},
		{"AppendAfterPut", testAppendAfterPut},
		{"AppendRace", testAppendRace},
		{"Follow", testFollow},
		{"Watch", testWatch},
		{"WatchProcess", testWatchProcess},
		{"List", testList},
		{"ListMany", testListMany},
		{"ListWhileChanged", testListWhileChanged},
		{"Folders", testFolders},
		{"ReadersSeeWholeObjects", testReaders},
		{"CreateRace", testCreateRace},
		{"SwapRace", testSwapRace},
		{"CreateRaceOfProcesses", testCreateProcesses},
		{"SwapRaceOfProcesses", testSwapProcesses},
		{"KillPut", testKillPut},
		{"KillSwap", testKillSwap},
		{"KillAppend", testKillAppend},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, &bench{open: open, address: fresh(t)}) })
	}
}

// bench is one test's store.
type bench struct {
	open    Opener
	address string
}

// store opens one more connection to the store.
func (b *bench) store(t *testing.T) *client {
	t.Helper()
	s, err := b.open(b.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return &client{t: t, ctx: t.Context(), Store: s}
}

// client is a connection whose methods end the test if they fail; they are
// called from the test's own goroutine. The embedded Store is for errors.
type client struct {
	t   *testing.T
	ctx context.Context
	store.Store
}

func (c *client) put(key, data string) store.Info {
	c.t.Helper()
	info, err := c.Put(c.ctx, key, strings.NewReader(data))
	if err != nil {
		c.t.Fatal(err)
	}
	c.describes(info, key, len(data))
	return info
}

func (c *client) append(key string, offset int64, data string) {
	c.t.Helper()
	if err := c.Append(c.ctx, key, offset, []byte(data)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) stat(key string) store.Info {
	c.t.Helper()
	info, err := c.Stat(c.ctx, key)
	if err != nil {
		c.t.Fatal(err)
	}
	return info
}

// wants checks that key holds data, in all ways in which one can ask.
func (c *client) wants(key, data string) store.Info {
	c.t.Helper()
	got, info, err := store.ReadAll(c.ctx, c.Store, key)
	if err != nil {
		c.t.Fatal(err)
	}
	if !bytes.Equal(got, []byte(data)) {
		c.t.Fatalf("%s holds %s, want %s", key, clip(got), clip([]byte(data)))
	}
	c.describes(info, key, len(data))
	if s := c.stat(key); !same(s, info) {
		c.t.Fatalf("stat says %+v, get %+v", s, info)
	}
	return info
}

// wantsNone checks that there is no object at key.
func (c *client) wantsNone(key string) {
	c.t.Helper()
	if _, err := c.Stat(c.ctx, key); !errors.Is(err, store.ErrNotFound) {
		c.t.Fatalf("stat of %s: %v, want %v", key, err, store.ErrNotFound)
	}
	if r, _, err := c.Get(c.ctx, key, 0, -1); !errors.Is(err, store.ErrNotFound) {
		if err == nil {
			r.Close()
		}
		c.t.Fatalf("get of %s: %v, want %v", key, err, store.ErrNotFound)
	}
}

// describes checks an Info.
func (c *client) describes(info store.Info, key string, size int) {
	c.t.Helper()
	if info.Key != key || info.Size != int64(size) || info.Version == "" || info.Modified.IsZero() {
		c.t.Fatalf("info is %+v, want key %s, size %d, a version and a time", info, key, size)
	}
}

// keys lists all keys with the prefix, in pages of the given size.
func (c *client) keys(prefix string, page int) []string {
	c.t.Helper()
	var keys []string
	for after := ""; ; {
		infos, err := c.List(c.ctx, prefix, after, page)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, i := range infos {
			keys = append(keys, i.Key)
			after = i.Key
		}
		if len(infos) < page {
			return keys
		}
	}
}

func same(a, b store.Info) bool {
	return a.Key == b.Key && a.Size == b.Size && a.Version == b.Version && a.Modified.Equal(b.Modified)
}

// wantErr ends the test if err is not the wanted one.
func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: got error %v, want %v", what, err, want)
	}
}

func clip(b []byte) string {
	if len(b) > 40 {
		return string(b[:40]) + "…"
	}
	return string(b)
}

// letters is an endless source of one letter, to be limited by [io.LimitReader].
type letters byte

func (l letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(l)
	}
	return len(p), nil
}

func uniform(letter byte, size int64) io.Reader { return io.LimitReader(letters(letter), size) }
