package fsck_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fsck"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/repo/repotest"
	"github.com/distci/distci/lib/store"
)

// TestLogs: a sealed log is compared with its seal, and its index with it.
func TestLogs(t *testing.T) {
	ctx := context.Background()
	w := repotest.New(t)
	repotest.PutJob(t, w.Repo, "job", "")
	w.Build("job", w.Worker())
	log := w.Repo.NewLog(ctx, "job", 1, "9", 1)
	for i := range 20_000 {
		fmt.Fprintf(log, "line %d of a log that has an index\n", i)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	repotest.Check(t, w.Repo)
	key := repo.BuildPrefix("job", 1) + repo.LogName("9", 1)
	text, _, err := store.ReadAll(ctx, w.Store.Open(), key)
	if err != nil {
		t.Fatal(err)
	}
	index, _, err := store.ReadAll(ctx, w.Store.Open(), key+".index")
	if err != nil || len(index) < 100 {
		t.Fatal(len(index), err)
	}
	flipped := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 1
		return b
	}
	for _, c := range []struct {
		name        string
		text, index []byte // nil: it is gone
		want        string
		quick       bool // the sizes tell
	}{
		{"a byte of the log", flipped(text, 400_000), index, "the log is damaged: its", false},
		{"the log is short", text[:len(text)-10], index, "when it was sealed", true},
		{"the log is gone", nil, index, "the log is not there, but its index is", true},
		{"a byte of the index", text, flipped(index, 15), "the log has a damaged index", false},
		{"the digest", text, flipped(index, len(index)-1), "the log is damaged: its", false},
		{"the number of lines", text, flipped(index, len(index)-33), "the log has a damaged index", false},
		{"the index is long", text, append(bytes.Clone(index[:8]), index...), "has an index of", true},
		{"written after it was sealed", append(bytes.Clone(text), "late\n"...), index, "", true},
		{"without an index", text, nil, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for object, b := range map[string][]byte{key: c.text, key + ".index": c.index} {
				if b == nil {
					_ = w.Store.Open().Delete(ctx, object)
				} else {
					w.Put(object, string(b))
				}
			}
			for _, quick := range []bool{false, true} {
				var faults []string
				rep, err := fsck.Run(ctx, w.Repo, fsck.Options{Quick: quick, Tell: func(f fsck.Fault) { faults = append(faults, f.String()) }})
				if err != nil {
					t.Fatal(err)
				}
				want := c.want
				if quick && !c.quick {
					want = ""
				}
				if want == "" && len(faults) > 0 || want != "" && (len(faults) != 1 || !strings.Contains(faults[0], want) || !strings.Contains(faults[0], "log/0009.01:")) {
					t.Errorf("quick %t: %q, want %q", quick, faults, want)
				}
				if rep.Faults != len(faults) || rep.Logs == 0 && c.want == "" && c.index != nil {
					t.Errorf("%+v", rep)
				}
			}
		})
	}
}
