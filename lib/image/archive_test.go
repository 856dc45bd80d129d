package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/workspace"
)

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zstded(t testing.TB, b []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(b, nil)
}

func xzed(t testing.TB, b []byte) []byte {
	t.Helper()
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("xz is not installed")
	}
	cmd := exec.Command("xz", "--stdout")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestCompressions: the same tree is the same image, however it comes.
func TestCompressions(t *testing.T) {
	s := newStore(t)
	archive := system(t, "1")
	want := put(t, s, "plain", archive).Digest
	for name, pack := range map[string]func(testing.TB, []byte) []byte{"gzip": gzipped, "zstd": zstded, "xz": xzed} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "a")
			packed := pack(t, archive)
			if err := os.WriteFile(file, packed, 0o600); err != nil {
				t.Fatal(err)
			}
			src, err := From(file, "")
			if err != nil {
				t.Fatal(err)
			}
			info, err := s.Import(t.Context(), name, src, func(string) {})
			if err != nil || info.Digest != want {
				t.Errorf("%+v, %v", info, err)
			}
			before := state(t, s)
			for _, broken := range [][]byte{packed[:len(packed)/2], packed[:len(packed)-3], append(slices.Clone(packed[:8]), bytes.Repeat([]byte{'x'}, 100)...)} {
				_, err = s.Import(t.Context(), "broken", Archive(bytes.NewReader(broken), "test"), func(string) {})
				if fault.Of(err) != fault.BadTicket {
					t.Errorf("%d of %d bytes: %s: %v", len(broken), len(packed), fault.Of(err), err)
				}
			}
			expect(t, s, before)
		})
	}
}

func TestNoXZ(t *testing.T) {
	archive := xzed(t, system(t, "1"))
	t.Setenv("PATH", t.TempDir())
	_, err := newStore(t).Import(t.Context(), "a", Archive(bytes.NewReader(archive), "test"), func(string) {})
	if fault.Of(err) != fault.Config || !strings.Contains(err.Error(), "program xz") {
		t.Errorf("%s: %v", fault.Of(err), err)
	}
}

// TestHostileArchives: each is refused with the name of the entry, and leaves
// the store and the neighbourhood as they were.
func TestHostileArchives(t *testing.T) {
	top := t.TempDir()
	s := At(filepath.Join(top, "images"))
	s.limits = workspace.Limits{Bytes: 1 << 20, Files: 100, Names: 10_000}
	put(t, s, "good", system(t, "1"))
	out := filepath.Join(top, "out")
	if err := os.Mkdir(out, 0o777); err != nil {
		t.Fatal(err)
	}
	link := func(to string) tar.Header { return tar.Header{Typeflag: tar.TypeSymlink, Linkname: to} }
	hard := func(to string) tar.Header { return tar.Header{Typeflag: tar.TypeLink, Linkname: to} }
	many := make([]ent, 101)
	for i := range many {
		many[i] = ent{name: fmt.Sprint(i)}
	}
	for name, c := range map[string]struct {
		ents []ent
		want string
		kind error
	}{
		"upwards":              {[]ent{{name: "../x"}}, `"../x"`, workspace.ErrArchive},
		"upwards inside":       {[]ent{{name: "a/../../../out/x"}}, `out/x"`, workspace.ErrArchive},
		"link upwards":         {[]ent{{name: "l", h: link("../../../../../out")}, {name: "l/x"}}, `"l/x"`, workspace.ErrArchive},
		"absolute link":        {[]ent{{name: "l", h: link(out)}, {name: "l/x"}}, `"l/x"`, workspace.ErrArchive},
		"folder through link":  {[]ent{{name: "l", h: link(out)}, {name: "l/x/"}}, `"l/x"`, workspace.ErrArchive},
		"hard link upwards":    {[]ent{{name: "h", h: hard("../../../names/good")}}, `"../../../names/good"`, workspace.ErrArchive},
		"hard link by link":    {[]ent{{name: "l", h: link(out)}, {name: "h", h: hard("l/x")}}, `"h"`, workspace.ErrArchive},
		"hard link to nothing": {[]ent{{name: "h", h: hard("/etc/passwd")}}, `"h"`, workspace.ErrArchive},
		"hard link to folder":  {[]ent{{name: "d/"}, {name: "h", h: hard("d")}}, `"h"`, workspace.ErrArchive},
		"whiteout":             {[]ent{{name: "d/.wh.x"}}, `"d/.wh.x"`, workspace.ErrArchive},
		"sum of sizes":         {[]ent{{name: "a", body: strings.Repeat("a", 600_000)}, {name: "b", body: strings.Repeat("a", 600_000)}}, "bytes", workspace.ErrLimit},
		"number of files":      {many, "100 entries", workspace.ErrLimit},
		"folders of one path":  {[]ent{{name: strings.Repeat("d/", 200) + "x"}}, "100 entries", workspace.ErrLimit},
		"a long path":          {[]ent{{name: strings.Repeat("d/", 3000) + "x"}}, "path of 6001 bytes", workspace.ErrLimit},
		"a long name":          {[]ent{{name: strings.Repeat("n", 300)}}, `nnn"`, workspace.ErrArchive},
		"nothing":              {nil, "holds nothing", nil},
		"an archive of images": {[]ent{{name: "oci-layout", body: "{}"}, {name: "index.json", body: "{}"}}, "archive of images", nil},
		"of docker":            {[]ent{{name: "manifest.json", body: "[]"}}, "archive of images", nil},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Import(t.Context(), "good", Archive(bytes.NewReader(tarOf(t, c.ents...)), "test"), func(string) {})
			if fault.Of(err) != fault.BadTicket || !strings.Contains(err.Error(), c.want) || c.kind != nil && !errors.Is(err, c.kind) {
				t.Errorf("%s: %v", fault.Of(err), err)
			}
			expect(t, s, "good sha256:1 tmp:0")
			if list, err := os.ReadDir(out); err != nil || len(list) > 0 {
				t.Errorf("outside: %v, %v", list, err)
			}
		})
	}
	if err := s.Verify(t.Context(), "good"); err != nil {
		t.Error(err)
	}
}

// TestBombs: what claims or becomes more than it is is stopped before it is on
// the disk.
func TestBombs(t *testing.T) {
	s := newStore(t)
	s.limits.Bytes = 10 << 20
	claim := tarOf(t, ent{name: "a", h: tar.Header{ModTime: time.Unix(1, 0)}})
	copy(claim[124:136], "77777777777\x00") // 8 GiB
	fixChecksum(claim[:512])
	bomb := gzipped(t, tarOf(t, ent{name: "a", body: strings.Repeat("\x00", 11<<20)}))
	for name, archive := range map[string][]byte{"claim": claim, "gzip": bomb} {
		if _, err := s.Import(t.Context(), "a", Archive(bytes.NewReader(archive), "test"), func(string) {}); !errors.Is(err, workspace.ErrLimit) {
			t.Errorf("%s: %v", name, err)
		}
		expect(t, s, "sha256:0 tmp:0")
	}
}

func fixChecksum(header []byte) {
	copy(header[148:156], "        ")
	sum := 0
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

// TestFolder copies a root file system with all that can be in one.
func TestFolder(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "system")
	untar(t, dir, system(t, "1"))
	s := At(filepath.Join(dir, "var/lib/images")) // in the very folder that is imported
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(dir, "etc/socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := errors.Join(unix.Mkfifo(filepath.Join(dir, "etc/fifo"), 0o600), os.WriteFile(filepath.Join(dir, "etc/\xff\n"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "etc/.wh.odd"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	src, err := From(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Import(t.Context(), "a", src, func(string) {}); !errors.Is(err, workspace.ErrArchive) || !strings.Contains(err.Error(), ".wh.odd") {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "etc/.wh.odd")); err != nil {
		t.Fatal(err)
	}
	var notes []string
	if src, err = From(dir, ""); err != nil {
		t.Fatal(err)
	}
	info, err := s.Import(t.Context(), "a", src, func(n string) { notes = append(notes, n) })
	if err != nil {
		t.Fatal(err)
	}
	notes = slices.DeleteFunc(notes, func(n string) bool { return strings.HasPrefix(n, "not root") })
	slices.Sort(notes)
	if want := []string{`left out: "etc/fifo": a named pipe`, `left out: "etc/socket": a socket`}; !slices.Equal(notes, want) {
		t.Errorf("notes %q", notes)
	}
	root := filepath.Join(s.tree(info.Digest), "rootfs")
	if _, err := os.Stat(filepath.Join(root, "etc/\xff\n")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(root, "var/lib/images")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the store is in its own image: %v", err)
	}
	if st, err := os.Stat(filepath.Join(root, "usr/bin/yes")); err != nil || st.Mode()&fs.ModeSetuid == 0 {
		t.Errorf("%v, %v", st, err)
	}
	if a, b := stat(t, root+"/usr/bin/yes"), stat(t, root+"/usr/bin/true"); a.Ino != b.Ino {
		t.Error("two files of one")
	}
}

// TestUnreadableFolder: of somebody else's file the kind tells what is wrong.
func TestUnreadableFolder(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root can read everything")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0); err != nil {
		t.Fatal(err)
	}
	src, err := From(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newStore(t).Import(t.Context(), "a", src, func(string) {}); fault.Of(err) != fault.Denied || !strings.Contains(err.Error(), "open x:") {
		t.Errorf("%s: %v", fault.Of(err), err)
	}
}

func stat(t *testing.T, path string) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func untar(t *testing.T, dir string, archive []byte) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := workspace.ApplyRoot(t.Context(), dir, bytes.NewReader(archive), workspace.Limits{}, workspace.Root{Owners: os.Geteuid() == 0}); err != nil {
		t.Fatal(err)
	}
}

// TestOwners: they are kept as numbers, and so are the images that differ in
// nothing else.
func TestOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can set owners")
	}
	s := newStore(t)
	of := func(uid int) []byte {
		return tarOf(t, ent{name: "a", h: tar.Header{Uid: uid, Gid: 7, ModTime: time.Unix(3, 0)}})
	}
	one, two := put(t, s, "a", of(1)), put(t, s, "b", of(2))
	if one.Digest == two.Digest {
		t.Error("one digest for two owners")
	}
	if st := stat(t, filepath.Join(s.tree(two.Digest), "rootfs/a")); st.Uid != 2 || st.Gid != 7 {
		t.Errorf("%d:%d", st.Uid, st.Gid)
	}
}

// TestManyNotes: not each of a thousand devices is told.
func TestManyNotes(t *testing.T) {
	ents := []ent{{name: "x"}}
	for i := range 1000 {
		ents = append(ents, ent{name: fmt.Sprint("dev/", i), h: tar.Header{Typeflag: tar.TypeChar}})
	}
	var notes []string
	_, err := newStore(t).Import(t.Context(), "a", Archive(bytes.NewReader(tarOf(t, ents...)), "test"), func(n string) { notes = append(notes, n) })
	if err != nil || len(notes) > 22 || notes[len(notes)-1] != "left out: and 980 more" {
		t.Errorf("%q, %v", notes, err)
	}
}
