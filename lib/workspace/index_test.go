package workspace

import (
	"context"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func at(path string, mode uint32, ino uint64) entry {
	return entry{path: path, mode: mode, ino: ino, ctime: unix.Timespec{Sec: 1}}
}

const (
	modeDir  = unix.S_IFDIR | 0o755
	modeFile = unix.S_IFREG | 0o644
)

func TestCompareIsTreeOrder(t *testing.T) {
	ordered := []string{"", "a", "a/b", "a/b/c", "a/c", "a\x01", "a b", "a!", "a-b", "a.", "a0", "b", "\xff"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := compare(a, b); got < 0 != (i < j) || got > 0 != (i > j) {
				t.Errorf("compare(%q, %q) = %d", a, b, got)
			}
		}
	}
}

func TestChanges(t *testing.T) {
	base := []entry{at("", modeDir, 1), at("d", modeDir, 2), at("d/e", modeDir, 3), at("d/e/f", modeFile, 4), at("d/g", modeFile, 5), at("h", modeFile, 6)}
	with := func(change func([]entry) []entry) []entry { return change(slices.Clone(base)) }
	unsure := with(func(x []entry) []entry { x[5].ctime = unix.Timespec{}; return x })
	linked := with(func(x []entry) []entry {
		x[3].links, x[5].links = true, true
		x[5].ino = x[3].ino
		return x
	})
	for _, tt := range []struct {
		name     string
		old, new []entry
		mark     []string
		gone     []string
	}{
		{"nothing", base, base, nil, nil},
		{"everything", nil, base, []string{"", "d", "d/e", "d/e/f", "d/g", "h"}, nil},
		{"a file, so its directory too", base, with(func(x []entry) []entry { x[3].size++; return x }), []string{"d/e", "d/e/f"}, nil},
		{"removed", base, with(func(x []entry) []entry { return slices.Delete(x, 4, 5) }), []string{"d"}, []string{"d/g"}},
		{"removed with all in it", base, with(func(x []entry) []entry { return slices.Delete(x, 1, 5) }), []string{""}, []string{"d"}},
		{"directory becomes file", base, with(func(x []entry) []entry { x[1] = at("d", modeFile, 9); return slices.Delete(x, 2, 5) }), []string{"", "d"}, nil},
		{"file becomes directory", with(func(x []entry) []entry { x[1] = at("d", modeFile, 9); return slices.Delete(x, 2, 5) }), base, []string{"", "d", "d/e", "d/e/f", "d/g"}, nil},
		{"unsure", unsure, unsure, []string{"", "h"}, nil},
		{"one of two names", linked, func() []entry { x := slices.Clone(linked); x[5].mtime.Sec++; return x }(), []string{"", "d/e", "d/e/f", "h"}, nil},
	} {
		mark, gone := changes(tt.old, tt.new)
		var marked []string
		for i, m := range mark {
			if m {
				marked = append(marked, tt.new[i].path)
			}
		}
		if !slices.Equal(marked, tt.mark) || !slices.Equal(gone, tt.gone) {
			t.Errorf("%s: marked %q, gone %q; want %q, %q", tt.name, marked, gone, tt.mark, tt.gone)
		}
	}
}

// TestSettle: once settle has returned, a new change gets a time that is not
// in the index, or the entry counts as changed anyway.
func TestSettle(t *testing.T) {
	now := time.Now()
	stamp := func(t time.Time) unix.Timespec { return unix.NsecToTimespec(t.UnixNano()) }
	entries := []entry{at("old", modeFile, 1), at("now", modeFile, 2), at("future", modeFile, 3), at("dir", modeDir, 4)}
	entries[1].ctime, entries[2].ctime, entries[3].ctime = stamp(now), stamp(now.Add(time.Hour)), stamp(now.Add(time.Hour))
	if err := settle(context.Background(), entries); err != nil {
		t.Fatal(err)
	}
	c, err := clock()
	if err != nil {
		t.Fatal(err)
	}
	if c <= time.Duration(now.UnixNano()) {
		t.Error("settle has not waited for the clock")
	}
	if entries[1].ctime != stamp(now) || entries[2].ctime != (unix.Timespec{}) {
		t.Errorf("ctimes after settle: %v, %v", entries[1].ctime, entries[2].ctime)
	}
}
