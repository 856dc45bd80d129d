package workspace

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/distci/distci/lib/fault"
)

// ent is a tar entry in short: a name that ends in "/" is a directory.
type ent struct {
	name string
	typ  byte // 0: regular or directory, by the name
	link string
	body string
}

func tarOf(t testing.TB, ents []ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range ents {
		h := &tar.Header{Name: e.name, Typeflag: e.typ, Linkname: e.link, Size: int64(len(e.body)), Mode: 0o755, ModTime: time.Unix(1, 0), Format: tar.FormatPAX}
		if e.typ == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstdOf(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

// stage is a folder with a workspace, and a neighbour that nobody may touch.
// Links in the workspace lead there, as a step may have left them.
func stage(t testing.TB) (work, neighbour string) {
	t.Helper()
	top := t.TempDir()
	work, neighbour = filepath.Join(top, "work"), filepath.Join(top, "neighbour")
	for _, err := range []error{
		os.Mkdir(work, 0o755), os.Mkdir(neighbour, 0o755), os.Mkdir(filepath.Join(neighbour, "sub"), 0o755),
		os.WriteFile(filepath.Join(neighbour, "secret"), []byte("secret"), 0o600),
		os.WriteFile(filepath.Join(neighbour, "sub", "file"), []byte("file"), 0o644),
		os.Symlink("../neighbour", filepath.Join(work, "out")),
		os.Symlink(neighbour, filepath.Join(work, "abs")),
		os.Symlink("../neighbour/secret", filepath.Join(work, "file-out")),
		os.Symlink("..", filepath.Join(work, "up")),
		os.Mkdir(filepath.Join(work, "dir"), 0o755),
		os.WriteFile(filepath.Join(work, "dir", "old"), []byte("old"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return work, neighbour
}

func TestApplyRefuses(t *testing.T) {
	const link, sym = tar.TypeLink, tar.TypeSymlink
	long := strings.Repeat("0123456789/", 400)
	tests := map[string][]ent{
		"parent":                       {{name: "../neighbour/x"}},
		"parent inside":                {{name: "dir/../../neighbour/x"}},
		"parent that stays inside":     {{name: "dir/../x"}},
		"parent only":                  {{name: ".."}},
		"absolute":                     {{name: "/tmp/x"}},
		"through a link on disk":       {{name: "out/x"}},
		"through an absolute link":     {{name: "abs/x"}},
		"through a link upwards":       {{name: "up/neighbour/x"}},
		"directory through a link":     {{name: "out/newdir/"}},
		"through a link in the layer":  {{name: "l", typ: sym, link: "../neighbour"}, {name: "l/x"}},
		"link replaces full directory": {{name: "d/x"}, {name: "d", typ: sym, link: "../neighbour"}, {name: "d/y"}},
		"through a hard-linked link":   {{name: "h", typ: link, link: "out"}, {name: "h/x"}},
		"through a file":               {{name: "f"}, {name: "f/x"}},
		"hard link to parent":          {{name: "h", typ: link, link: "../neighbour/secret"}},
		"hard link to absolute":        {{name: "h", typ: link, link: "/etc/passwd"}},
		"hard link through a link":     {{name: "h", typ: link, link: "out/secret"}},
		"hard link to nothing":         {{name: "h", typ: link, link: "nothing"}},
		"hard link to itself":          {{name: "h", typ: link, link: "h"}},
		"hard link to a directory":     {{name: "h", typ: link, link: "dir"}},
		"hard link to the root":        {{name: "h", typ: link, link: "."}},
		"hard link to a whiteout":      {{name: ".wh.h"}, {name: "h", typ: link, link: ".wh.h"}},
		"whiteout of ..":               {{name: ".wh..."}, {name: "x"}},
		"whiteout of .":                {{name: ".wh.."}},
		"whiteout of nothing":          {{name: "dir/.wh."}},
		"whiteout of a whiteout":       {{name: ".wh..wh.x"}},
		"whiteout of ../x":             {{name: ".wh.../neighbour"}},
		"whiteout as directory":        {{name: "dir/.wh.old/"}},
		"whiteout as link":             {{name: "dir/.wh.old", typ: sym, link: "x"}},
		"below a whiteout":             {{name: ".wh.x/y"}},
		"twice a file":                 {{name: "x"}, {name: "x"}},
		"twice, link then file":        {{name: "x", typ: sym, link: "../neighbour/secret"}, {name: "x", body: "gotcha"}},
		"file, then directory":         {{name: "x"}, {name: "x/"}},
		"full directory, then file":    {{name: "d/x"}, {name: "d"}},
		"character device":             {{name: "x", typ: tar.TypeChar}},
		"block device":                 {{name: "x", typ: tar.TypeBlock}},
		"pipe":                         {{name: "x", typ: tar.TypeFifo}},
		"root as a link":               {{name: "./", typ: sym, link: "../neighbour"}},
		"root as a file":               {{name: ".", body: "x"}},
		"empty target":                 {{name: "x", typ: sym}},
		"unknown type":                 {{name: "x", typ: 'Z'}},
		"name too long":                {{name: strings.Repeat("n", 256)}},
		"path too long":                {{name: long}},
	}
	for name, ents := range tests {
		t.Run(name, func(t *testing.T) {
			work, neighbour := stage(t)
			before := snapshot(t, neighbour)
			err := Apply(context.Background(), work, bytes.NewReader(zstdOf(t, tarOf(t, ents))), Limits{})
			if !errors.Is(err, ErrArchive) && !errors.Is(err, ErrLimit) {
				t.Errorf("Apply: %v, want ErrArchive", err)
			}
			if k := fault.Of(err); err != nil && k != fault.BadTicket {
				t.Errorf("kind %s: %v", k, err)
			}
			if d := difference(before, snapshot(t, neighbour)); d != "" {
				t.Errorf("outside of the workspace:\n%s", d)
			}
		})
	}
}

// TestApplyReplacesLinks: a link on disk is replaced, and what it leads to, or
// shares an inode with, is left alone.
func TestApplyReplacesLinks(t *testing.T) {
	work, neighbour := stage(t)
	if err := os.Link(filepath.Join(neighbour, "secret"), filepath.Join(work, "shared")); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, neighbour)
	layer := tarOf(t, []ent{
		{name: "./"}, {name: "file-out", body: "new"}, {name: "shared", body: "new"}, {name: "out/"}, {name: "out/x", body: "new"},
		{name: "x/../"}, {name: ".wh.abs"},
	})
	err := Apply(context.Background(), work, bytes.NewReader(layer), Limits{})
	if !errors.Is(err, ErrArchive) { // for x/../
		t.Fatal(err)
	}
	work2, neighbour2 := stage(t)
	layer = tarOf(t, []ent{{name: "file-out", body: "new"}, {name: "out/"}, {name: "out/x", body: "new"}, {name: ".wh.abs"}, {name: ".wh.up"}, {name: "up", typ: tar.TypeLink, link: "file-out"}})
	if err := Apply(context.Background(), work2, bytes.NewReader(layer), Limits{}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"file-out": "new", "out/x": "new", "up": "new"} {
		if b, err := os.ReadFile(filepath.Join(work2, path)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	if _, err := os.Lstat(filepath.Join(work2, "abs")); !os.IsNotExist(err) {
		t.Errorf("abs: %v", err)
	}
	if d := difference(before, snapshot(t, neighbour)); d != "" {
		t.Error(d)
	}
	if b, _ := os.ReadFile(filepath.Join(neighbour2, "secret")); string(b) != "secret" {
		t.Errorf("secret: %q", b)
	}
}

// TestWhiteoutsSpareTheirOwnLayer: a whiteout hides what the layers below
// have, wherever in the layer it stands.
func TestWhiteoutsSpareTheirOwnLayer(t *testing.T) {
	for name, tt := range map[string]struct {
		ents []ent
		want string
	}{
		"before":        {[]ent{{name: ".wh.dir"}, {name: "dir/new", body: "n"}}, "dir dir/new"},
		"after":         {[]ent{{name: "dir/new", body: "n"}, {name: ".wh.dir"}}, "dir dir/new"},
		"opaque before": {[]ent{{name: "dir/.wh..wh..opq"}, {name: "dir/new", body: "n"}}, "dir dir/new"},
		"opaque after":  {[]ent{{name: "dir/new", body: "n"}, {name: "dir/.wh..wh..opq"}}, "dir dir/new"},
		"opaque root":   {[]ent{{name: "dir/sub/new", body: "n"}, {name: ".wh..wh..opq"}}, "dir dir/sub dir/sub/new"},
		"of nothing":    {[]ent{{name: ".wh.nothing"}, {name: "no/dir/.wh.x"}, {name: "dir/old/.wh.x"}}, "dir dir/old"},
		"again":         {[]ent{{name: ".wh.dir"}, {name: ".wh.dir"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			work := t.TempDir()
			lower := tarOf(t, []ent{{name: "dir/"}, {name: "dir/old", body: "o"}})
			for _, layer := range [][]byte{lower, tarOf(t, tt.ents)} {
				if err := Apply(context.Background(), work, bytes.NewReader(layer), Limits{}); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			x, err := Scan(context.Background(), work)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range x.entries[1:] {
				got = append(got, e.path)
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("%q, want %q", s, tt.want)
			}

			// Flatten must come to the same result without a tree.
			s := newStore(t)
			l := newLayers(t, s)
			var flat bytes.Buffer
			if err := l.Flatten(context.Background(), []string{put(t, l, lower), put(t, l, tarOf(t, tt.ents))}, &flat); err != nil {
				t.Fatal(err)
			}
			copied := t.TempDir()
			if err := Apply(context.Background(), copied, &flat, Limits{}); err != nil {
				t.Fatal(err)
			}
			a, b := snapshot(t, work), snapshot(t, copied)
			delete(a, ".")
			delete(b, ".")
			if d := difference(a, b); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	zeros := strings.Repeat("\x00", 1<<20)
	for name, tt := range map[string]struct {
		layer []byte
		lim   Limits
		ok    bool
	}{
		"within":         {zstdOf(t, tarOf(t, []ent{{name: "a", body: zeros}})), Limits{Bytes: 2 << 20, Files: 1, Path: 1}, true},
		"bytes":          {zstdOf(t, tarOf(t, []ent{{name: "a", body: zeros}})), Limits{Bytes: 1<<20 - 1}, false},
		"bytes in sum":   {zstdOf(t, tarOf(t, []ent{{name: "a", body: zeros}, {name: "b", body: zeros}})), Limits{Bytes: 3 << 19}, false},
		"headers":        {zstdOf(t, tarOf(t, []ent{{name: "a"}, {name: "b"}, {name: "c"}, {name: "d"}})), Limits{Bytes: 1024}, false},
		"files":          {zstdOf(t, tarOf(t, []ent{{name: "a"}, {name: "b"}})), Limits{Files: 1}, false},
		"path":           {zstdOf(t, tarOf(t, []ent{{name: "abcdefgh"}})), Limits{Path: 4}, false},
		"bytes behind":   {zstdOf(t, append(tarOf(t, []ent{{name: "a"}}), zeros...)), Limits{Bytes: 1 << 19}, false},
		"sparse":         {sparse(), Limits{Bytes: 1 << 20}, false},
		"bomb":           {bomb(t), Limits{Bytes: 1 << 20}, false},
		"bomb as a file": {bombFile(t), Limits{Bytes: 1 << 20}, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := Apply(context.Background(), t.TempDir(), bytes.NewReader(tt.layer), tt.lim)
			if tt.ok != (err == nil) || !tt.ok && !errors.Is(err, ErrLimit) {
				t.Error(err)
			}
		})
	}
}

// sparse is a file of 1 TiB that has no bytes at all in the archive, in GNU
// tar's old format.
func sparse() []byte {
	b := make([]byte, 3*512)
	copy(b, "sparse")
	copy(b[100:], "0000644\x00")
	copy(b[124:], "00000000000\x00")
	b[156] = tar.TypeGNUSparse
	copy(b[257:], "ustar  \x00")
	size := []byte{0x80, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0}
	copy(b[386:], size) // where the only piece begins, of length 0
	copy(b[398:], "00000000000\x00")
	copy(b[483:], size)
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	return b
}

// bomb is 1 GiB of zeros in some kilobytes.
func bomb(t testing.TB) []byte { return compressZeros(t, nil) }

// bombFile is the same, as the contents of a file.
func bombFile(t testing.TB) []byte {
	var head bytes.Buffer
	w := tar.NewWriter(&head)
	if err := w.WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	return compressZeros(t, head.Bytes())
}

func compressZeros(t testing.TB, head []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(head)
	zeros := make([]byte, 1<<20)
	for range 1 << 10 {
		w.Write(zeros)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if b.Len() > 1<<20 {
		t.Fatalf("not much of a bomb: %d bytes", b.Len())
	}
	return b.Bytes()
}

// TestDamagedArchives: every way to cut a layer short, or to change one byte,
// ends in an error or in the right files, and never in a panic.
func TestDamagedArchives(t *testing.T) {
	whole := zstdOf(t, tarOf(t, []ent{{name: "a", body: "contents"}, {name: "b", typ: tar.TypeSymlink, link: "a"}}))
	for n := range len(whole) {
		if err := Apply(context.Background(), t.TempDir(), bytes.NewReader(whole[:n]), Limits{}); n > 4 && err == nil {
			t.Errorf("the first %d of %d bytes are accepted", n, len(whole))
		}
		broken := bytes.Clone(whole)
		broken[n] ^= 0x40
		_ = Apply(context.Background(), t.TempDir(), bytes.NewReader(broken), Limits{Bytes: 1 << 20})
	}
	large, err := zstd.NewWriter(nil, zstd.WithWindowSize(maxWindow*2), zstd.WithSingleSegment(false))
	if err != nil {
		t.Fatal(err)
	}
	defer large.Close()
	var b bytes.Buffer
	large.Reset(&b)
	large.Write(tarOf(t, []ent{{name: "a"}}))
	large.Flush() // so that the frame does not say its size, and needs the window
	large.Close()
	if err := Apply(context.Background(), t.TempDir(), &b, Limits{}); !errors.Is(err, ErrArchive) {
		t.Errorf("a window of %d bytes: %v", maxWindow*2, err)
	}
}

func TestImportRefusesWhiteouts(t *testing.T) {
	l := newLayers(t, newStore(t))
	for _, name := range []string{".wh.x", "a/.wh..wh..opq", ".wh.dir/x"} {
		_, err := l.Import(context.Background(), bytes.NewReader(tarOf(t, []ent{{name: name}})), Limits{})
		if !errors.Is(err, ErrArchive) || fault.Of(err) != fault.BadTicket {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(l.cache.dir, tempPrefix+"*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// FuzzApply: whatever the layer, nothing outside the workspace changes.
func FuzzApply(f *testing.F) {
	const link, sym = tar.TypeLink, tar.TypeSymlink
	for _, ents := range [][]ent{
		{{name: "./"}, {name: "dir/"}, {name: "dir/x", body: "hello"}, {name: "h", typ: link, link: "dir/x"}},
		{{name: "l", typ: sym, link: "../neighbour"}, {name: "l/x", body: "x"}},
		{{name: "out/x", body: "x"}}, {{name: "h", typ: link, link: "out/secret"}}, {{name: "h", typ: link, link: "file-out"}, {name: "h", body: "x"}},
		{{name: ".wh.dir"}, {name: "dir", typ: sym, link: "../neighbour"}, {name: "dir/.wh.secret"}},
		{{name: "dir/.wh..wh..opq"}, {name: "up/.wh.neighbour"}, {name: ".wh..."}},
		{{name: "../neighbour/secret", body: "x"}}, {{name: "/etc/x"}},
	} {
		f.Add(tarOf(f, ents))
		f.Add(zstdOf(f, tarOf(f, ents)))
	}
	f.Fuzz(func(t *testing.T, layer []byte) {
		work, neighbour := stage(t)
		before := snapshot(t, neighbour)
		_ = Apply(context.Background(), work, bytes.NewReader(layer), Limits{Bytes: 1 << 20, Files: 1000})
		after := snapshot(t, neighbour)
		if !maps.Equal(before, after) {
			t.Fatal(difference(before, after))
		}
		names, err := os.ReadDir(filepath.Dir(work))
		if err != nil || len(names) != 2 {
			t.Fatalf("beside the workspace: %v, %v", names, err)
		}
		if err := Remove(work); err != nil {
			t.Fatal(err)
		}
	})
}
