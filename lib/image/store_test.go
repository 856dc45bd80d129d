package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/test/lab"
)

// hangEnv makes the test binary a process that imports and never ends; its
// value is the store's folder. See TestKilledImport.
const hangEnv = "DISTCI_TEST_IMPORT_INTO"

func TestMain(m *testing.M) {
	if dir := os.Getenv(hangEnv); dir != "" {
		_, err := At(dir).Import(context.Background(), "a", Archive(os.Stdin, "test"), func(string) {})
		fmt.Println("ended:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// ent is a tar entry in short; a name that ends in "/" is a directory.
type ent struct {
	name, body string
	h          tar.Header
}

func tarOf(t testing.TB, ents ...ent) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range ents {
		h := e.h
		h.Name, h.Format = e.name, tar.FormatPAX
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(1, 5)
		}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
			if strings.HasSuffix(e.name, "/") {
				h.Typeflag = tar.TypeDir
			}
		}
		h.Size = int64(len(e.body))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// system is a small root file system.
func system(t testing.TB, release string) []byte {
	return tarOf(t, ent{name: "./"}, ent{name: "etc/"}, ent{name: "etc/release", body: release},
		ent{name: "bin", h: tar.Header{Typeflag: tar.TypeSymlink, Linkname: "/usr/bin"}},
		ent{name: "usr/bin/true", body: "#!", h: tar.Header{Mode: 0o4755}}, ent{name: "usr/bin/yes", h: tar.Header{Typeflag: tar.TypeLink, Linkname: "usr/bin/true"}})
}

func newStore(t testing.TB) *Store { return At(filepath.Join(t.TempDir(), "images")) }

func put(t testing.TB, s *Store, name string, archive []byte) *Info {
	t.Helper()
	info, err := s.Import(t.Context(), name, Archive(bytes.NewReader(archive), "test"), func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// state is what the store has: names, trees, and how many temporaries.
func state(t testing.TB, s *Store) string {
	t.Helper()
	var b strings.Builder
	for _, dir := range []string{"names", "sha256", "tmp"} {
		entries, err := os.ReadDir(filepath.Join(s.dir, dir))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if dir == "names" {
			for _, e := range entries {
				fmt.Fprintf(&b, "%s ", e.Name())
			}
			continue
		}
		fmt.Fprintf(&b, "%s:%d ", dir, len(entries))
	}
	return strings.TrimSpace(b.String())
}

func expect(t testing.TB, s *Store, want string) {
	t.Helper()
	if got := state(t, s); got != want {
		t.Errorf("the store has %q, want %q", got, want)
	}
}

func TestStore(t *testing.T) {
	s := newStore(t)
	if names, err := s.Names(); err != nil || names != nil {
		t.Errorf("without a store: %v, %v", names, err)
	}
	if list, err := s.List(); err != nil || list != nil {
		t.Errorf("without a store: %v, %v", list, err)
	}
	if _, err := s.Open("a"); !errors.Is(err, ErrNotFound) || fault.Of(err) != fault.MissingTool {
		t.Errorf("%s: %v", fault.Of(err), err)
	}
	if err := s.Remove(); err != nil {
		t.Error(err)
	}
	if err := s.Remove("a"); !errors.Is(err, ErrNotFound) || fault.Of(err) != fault.Unavailable {
		t.Error(err)
	}
	if _, err := os.Stat(s.dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("looking has made a store")
	}

	one := put(t, s, "a", system(t, "1"))
	if again := put(t, s, "b", system(t, "1")); again.Digest != one.Digest {
		t.Error("the same gives another digest")
	}
	expect(t, s, "a b sha256:1 tmp:0")
	two := put(t, s, "b", system(t, "2"))
	expect(t, s, "a b sha256:2 tmp:0")
	list, err := s.List()
	if err != nil || len(list) != 2 || list[0].Name != "a" || list[1].Digest != two.Digest || list[0].Size != 3 || list[0].Files != 8 || list[0].InUse {
		t.Errorf("%+v, %v", list, err)
	}
	if put(t, s, "b", system(t, "1")); true {
		expect(t, s, "a b sha256:1 tmp:0") // the tree of no name is gone
	}
	if _, err := s.Show("c"); err == nil || !strings.Contains(err.Error(), "c (there are: a, b)") {
		t.Error(err)
	}
	if err := s.Remove("a", "c"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	expect(t, s, "a b sha256:1 tmp:0") // all or none
	if err := s.Remove("a", "b"); err != nil {
		t.Error(err)
	}
	expect(t, s, "sha256:0 tmp:0")
}

func TestNames(t *testing.T) {
	s := newStore(t)
	for name, ok := range map[string]bool{
		"debian": true, "0": true, "a.b_c-d": true, strings.Repeat("a", 64): true, strings.Repeat("a", 65): false,
		"": false, "A": false, ".a": false, "..": false, "a/b": false, "a\n": false, "-a": false, "ä": false,
	} {
		if ValidName(name) != ok {
			t.Errorf("%q: %v", name, !ok)
		}
		if _, err := s.Open(name); !ok && fault.Of(err) != fault.Usage {
			t.Errorf("open %q: %v", name, err)
		}
		if err := s.Remove(name); !ok && fault.Of(err) != fault.Usage {
			t.Errorf("remove %q: %v", name, err)
		}
	}
	if c := Capability("a-b"); c != "image_a-b" {
		t.Error(c)
	}
}

// TestInUse: what is used stays until it is not, whatever becomes of its name.
func TestInUse(t *testing.T) {
	s := newStore(t)
	put(t, s, "a", system(t, "1"))
	i, err := s.Open("a")
	if err != nil {
		t.Fatal(err)
	}
	release := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(i.Path(), "etc/release")); err != nil || string(b) != want {
			t.Errorf("%q, %v", b, err)
		}
	}
	if info, err := s.Show("a"); err != nil || !info.InUse {
		t.Errorf("%+v, %v", info, err)
	}
	if err := s.Remove("a"); !errors.Is(err, ErrInUse) || fault.Of(err) != fault.Temporary {
		t.Errorf("%s: %v", fault.Of(err), err)
	}
	put(t, s, "b", system(t, "1"))
	if err := s.Remove("b"); err != nil { // not the last name
		t.Error(err)
	}
	put(t, s, "a", system(t, "2"))
	expect(t, s, "a sha256:2 tmp:0")
	release("1")
	if err := s.Remove("a"); err != nil { // is not what is used
		t.Error(err)
	}
	expect(t, s, "sha256:1 tmp:0")
	release("1")
	if err := i.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Remove(); err != nil {
		t.Error(err)
	}
	expect(t, s, "sha256:0 tmp:0")
}

// TestVerify finds each way in which a tree can differ, and an import of the
// same repairs it.
func TestVerify(t *testing.T) {
	in := func(path string) func(root string) error {
		return func(root string) error { return os.WriteFile(filepath.Join(root, path), []byte("3"), 0o644) }
	}
	s := newStore(t)
	for _, c := range []struct {
		name, text string
		do         func(root string) error
	}{
		{"contents", "etc/release", func(root string) error {
			path := filepath.Join(root, "etc/release")
			return errors.Join(os.WriteFile(path, []byte("2"), 0o755), os.Chtimes(path, time.Unix(1, 5), time.Unix(1, 5)))
		}},
		{"mode", "usr/bin/true", func(root string) error { return os.Chmod(filepath.Join(root, "usr/bin/true"), 0o755) }},
		{"new", "usr/zzz", func(root string) error {
			return errors.Join(in("usr/zzz")(root), os.Chtimes(filepath.Join(root, "usr"), time.Unix(0, 0), time.Unix(0, 0)))
		}},
		{"missing", "usr/bin", func(root string) error { return os.Remove(filepath.Join(root, "usr/bin/yes")) }},
		{"link", `\"bin\"`, func(root string) error {
			path := filepath.Join(root, "bin")
			return errors.Join(os.Remove(path), os.Symlink("usr/bin", path), os.Chtimes(root, time.Unix(1, 5), time.Unix(1, 5)))
		}},
		{"tree", "rootfs", func(root string) error { return os.RemoveAll(root) }},
		{"manifest", "digest", func(root string) error {
			return os.WriteFile(filepath.Join(root, "../manifest"), []byte("d\n"), 0o600)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			info := put(t, s, "a", system(t, "1"))
			if err := s.Verify(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			if err := c.do(filepath.Join(s.tree(info.Digest), "rootfs")); err != nil {
				t.Fatal(err)
			}
			err := s.Verify(t.Context(), "a")
			if !errors.Is(err, ErrDamaged) || fault.Of(err) != fault.Config || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s: %v", fault.Of(err), err)
			}
			put(t, s, "a", system(t, "1"))
			if err := s.Verify(t.Context(), "a"); err != nil {
				t.Errorf("imported again: %v", err)
			}
			expect(t, s, "a sha256:1 tmp:0")
		})
	}
}

// TestDamagedName: the name can be removed, or get a new meaning.
func TestDamagedName(t *testing.T) {
	for _, text := range []string{"", "{", `{"digest":"sha256:../../x"}`} {
		s := newStore(t)
		put(t, s, "a", system(t, "1"))
		if err := os.WriteFile(s.nameFile("a"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Open("a"); !errors.Is(err, ErrDamaged) || fault.Of(err) != fault.MissingTool {
			t.Errorf("%s: %v", fault.Of(err), err)
		}
		put(t, s, "b", system(t, "2"))
		expect(t, s, "a b sha256:2 tmp:0") // who knows what it needs
		if err := s.Remove("a"); err != nil {
			t.Error(err)
		}
		expect(t, s, "b sha256:1 tmp:0")
		if err := os.WriteFile(s.nameFile("b"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		put(t, s, "b", system(t, "1"))
		expect(t, s, "b sha256:1 tmp:0")
	}
}

// TestAtTheSameTime: many import the same and other images, use and remove
// them; in the end each name is whole and nothing is left over.
func TestAtTheSameTime(t *testing.T) {
	s := newStore(t)
	archives := [][]byte{system(t, "1"), system(t, "2")}
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for round := range 6 {
				name := []string{"a", "b"}[(worker+round)%2]
				archive := archives[(worker/2+round)%2]
				if _, err := s.Import(t.Context(), name, Archive(bytes.NewReader(archive), "test"), func(string) {}); err != nil {
					t.Error(err)
				}
				i, err := s.Open(name)
				if errors.Is(err, ErrNotFound) {
					continue // removed by another
				}
				if err != nil {
					t.Error(err)
					continue
				}
				if err := s.Remove(name); err != nil && !errors.Is(err, ErrInUse) && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
				if err := verify(t.Context(), i.path, i.Digest); err != nil { // used, so nobody has removed it
					t.Error(err)
				}
				i.Close()
			}
		})
	}
	wg.Wait()
	names, err := s.Names()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := s.Verify(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	if err := s.Remove(names...); err != nil {
		t.Error(err)
	}
	expect(t, s, "sha256:0 tmp:0")
}

// TestSameAtTheSameTime: many import the same and use it at once, so that some
// find that what was not there when they looked is in use when they come.
func TestSameAtTheSameTime(t *testing.T) {
	archive := system(t, "1")
	for range 5 {
		s := newStore(t)
		var wg sync.WaitGroup
		images := make(chan *Image, 12)
		for i := range cap(images) {
			wg.Go(func() {
				name := fmt.Sprint("i", i)
				if _, err := s.Import(t.Context(), name, Archive(bytes.NewReader(archive), "test"), func(string) {}); err != nil {
					t.Error(err)
				}
				image, err := s.Open(name)
				if err != nil {
					t.Error(err)
					return
				}
				images <- image
			})
		}
		wg.Wait()
		close(images)
		for image := range images {
			image.Close()
		}
		if got := state(t, s); !strings.HasSuffix(got, "sha256:1 tmp:0") {
			t.Error(got)
		}
	}
}

// TestKilledImport: kill -9 in the middle leaves nothing that can be seen, and
// what is left is removed by the next that changes the store.
func TestKilledImport(t *testing.T) {
	s := newStore(t)
	put(t, s, "a", system(t, "1"))
	for _, part := range []int{512, 2048, -1} {
		archive := system(t, "2")
		if part < 0 {
			part = len(archive) - 512
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), hangEnv+"="+s.dir)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(archive[:part]); err != nil {
			t.Fatal(err)
		}
		lab.Until(t, "the import has begun", func() bool { return strings.HasSuffix(state(t, s), "tmp:1") })
		if err := s.Remove(); err != nil { // it lives: nothing of it is removed
			t.Error(err)
		}
		expect(t, s, "a sha256:1 tmp:1")
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		in.Close()
		if err := s.Verify(t.Context(), "a"); err != nil {
			t.Error(err)
		}
		expect(t, s, "a sha256:1 tmp:1")
		if err := s.Remove(); err != nil {
			t.Error(err)
		}
		expect(t, s, "a sha256:1 tmp:0")
	}
}

// TestCanceled: an import that is interrupted leaves nothing.
func TestCanceled(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		archive := system(t, "1")
		w.Write(archive[:1024])
		cancel()
		w.Write(archive[1024:])
		w.Close()
	}()
	if _, err := s.Import(ctx, "a", Archive(r, "test"), func(string) {}); fault.Of(err) != fault.Interrupted {
		t.Errorf("%s: %v", fault.Of(err), err)
	}
	r.Close()
	expect(t, s, "sha256:0 tmp:0")
}

// TestLostTree: a name of which no tree is left is not used.
func TestLostTree(t *testing.T) {
	s := newStore(t)
	info := put(t, s, "a", system(t, "1"))
	if err := os.RemoveAll(s.tree(info.Digest)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open("a"); !errors.Is(err, ErrDamaged) || fault.Of(err) != fault.MissingTool {
		t.Errorf("%s: %v", fault.Of(err), err)
	}
	if err := s.Verify(t.Context(), "a"); !errors.Is(err, ErrDamaged) || fault.Of(err) != fault.Config {
		t.Errorf("%s: %v", fault.Of(err), err)
	}
	put(t, s, "a", system(t, "1"))
	if err := s.Verify(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

// TestOthersCannotReach: programs that change their user are in there.
func TestOthersCannotReach(t *testing.T) {
	s := newStore(t)
	put(t, s, "a", system(t, "1"))
	st, err := os.Stat(s.dir)
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	if names, _ := s.Names(); !slices.Equal(names, []string{"a"}) {
		t.Error(names)
	}
}
