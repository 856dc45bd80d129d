package source_test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source"
)

// mirrored lists the files of the one mirror in dir that match pattern.
func mirrored(t *testing.T, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.git", pattern))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestMirrorFetchesOnce asserts that the second checkout transfers nothing and
// a later one only what is new.
func TestMirrorFetchesOnce(t *testing.T) {
	r := sample(t)
	log, text := logged()
	o := source.Options{Repository: r.dir, Access: source.Access{Mirror: t.TempDir(), Log: log}}
	for i, want := range []int{1, 1, 2} {
		if i == 2 {
			r.commit("new", map[string]string{"new": "n"})
		}
		o.Dir = t.TempDir()
		c := checkout(t, o)
		sameAsGit(t, r.dir, c.Hash, o.Dir)
		if got := strings.Count(text.String(), "msg=fetching"); got != want {
			t.Errorf("after checkout %d: %d fetches, want %d", i, got, want)
		}
	}
	packs := mirrored(t, o.Mirror, "objects/pack/*.pack")
	if len(packs) != 2 {
		t.Fatalf("packs: %q", packs)
	}
	first, _ := os.Stat(packs[0])
	second, _ := os.Stat(packs[1])
	if min(first.Size(), second.Size()) > 1000 {
		t.Errorf("the second pack holds more than one small commit: %d and %d bytes", first.Size(), second.Size())
	}
	// A workspace shares nothing with the mirror through which it could change it.
	for _, p := range packs {
		a, _ := os.Stat(p)
		b, err := os.Stat(filepath.Join(o.Dir, ".git/objects/pack", filepath.Base(p)))
		if err != nil || os.SameFile(a, b) {
			t.Errorf("%s: %v, shared: %v", p, err, os.SameFile(a, b))
		}
	}
	if exists(filepath.Join(o.Dir, ".git/objects/info/alternates")) {
		t.Error("the workspace depends on the mirror")
	}
}

func exists(name string) bool { _, err := os.Lstat(name); return err == nil }

// TestMirrorDamage breaks a mirror in every way and expects a right checkout.
func TestMirrorDamage(t *testing.T) {
	r := sample(t)
	edit := func(pattern string, change func(b []byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			names := mirrored(t, dir, pattern)
			if len(names) == 0 {
				t.Fatalf("no %s", pattern)
			}
			b, err := os.ReadFile(names[0])
			if err != nil {
				t.Fatal(err)
			}
			os.Remove(names[0]) // it is read-only
			if b = change(b); b != nil {
				if err := os.WriteFile(names[0], b, 0o444); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[(at+len(b))%len(b)] ^= 0x10; return b }
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:n] } }
	gone := func([]byte) []byte { return nil }
	for name, damage := range map[string]func(*testing.T, string){
		"pack: a bit":            edit("objects/pack/*.pack", flip(200)),
		"pack: the head":         edit("objects/pack/*.pack", flip(0)),
		"pack: the checksum":     edit("objects/pack/*.pack", flip(-3)),
		"pack: cut off":          edit("objects/pack/*.pack", cut(100)),
		"pack: empty":            edit("objects/pack/*.pack", cut(0)),
		"pack: gone":             edit("objects/pack/*.pack", gone),
		"index: a bit of a name": edit("objects/pack/*.idx", flip(8+1024+3)),
		"index: the fan":         edit("objects/pack/*.idx", flip(8+1020)),
		"index: an offset":       edit("objects/pack/*.idx", flip(-50)),
		"index: gone":            edit("objects/pack/*.idx", gone),
		"manifest: gone":         edit("objects/info/packs", gone),
		"manifest: empty":        edit("objects/info/packs", cut(0)),
		"refs: gone":             edit("packed-refs", gone),
		"refs: nonsense":         edit("packed-refs", func([]byte) []byte { return []byte("\x00\xff nonsense\n") }),
		"a fetch that was killed": func(t *testing.T, dir string) {
			write(t, filepath.Join(filepath.Dir(mirrored(t, dir, "packed-refs")[0]), "objects/pack/tmp_pack_1"), "PACK")
		},
		"a file in its place": func(t *testing.T, dir string) {
			m := filepath.Dir(mirrored(t, dir, "packed-refs")[0])
			os.RemoveAll(m)
			write(t, m, "x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := source.Options{Repository: r.dir, Dir: t.TempDir(), Access: source.Access{Mirror: t.TempDir()}}
			checkout(t, o)
			damage(t, o.Mirror)
			for range 2 {
				o.Dir = t.TempDir()
				c := checkout(t, o)
				sameAsGit(t, r.dir, c.Hash, o.Dir)
			}
			if left := mirrored(t, o.Mirror, "objects/pack/tmp_*"); len(left) > 0 {
				t.Errorf("left over: %q", left)
			}
		})
	}
}

// TestMirrorShared has several checkouts use one mirror at once.
func TestMirrorShared(t *testing.T) {
	r := sample(t)
	mirror := t.TempDir()
	var wg sync.WaitGroup
	for range 6 {
		dir := t.TempDir()
		wg.Go(func() {
			c, err := source.Checkout(t.Context(), source.Options{Repository: r.dir, Dir: dir, Access: source.Access{Mirror: mirror}})
			if err != nil || c.Ref != "refs/heads/main" {
				t.Errorf("%+v, %v", c, err)
				return
			}
			clean(t, dir)
		})
	}
	wg.Wait()
}

// TestMirrorJoins asserts that a mirror does not collect packs without end, and
// that git reads what is made of them.
func TestMirrorJoins(t *testing.T) {
	r := sample(t)
	o := source.Options{Repository: r.dir, Access: source.Access{Mirror: t.TempDir()}}
	most := 0
	for i := range 45 {
		r.commit(fmt.Sprint("commit ", i), map[string]string{"big": strings.Repeat("0123456789\n", 20000) + fmt.Sprint(i)})
		o.Dir = t.TempDir()
		checkout(t, o)
		n := len(mirrored(t, o.Mirror, "objects/pack/*.pack"))
		most = max(most, n)
		if i == 44 {
			if n >= most || n > 10 {
				t.Errorf("%d packs, at most %d", n, most)
			}
			sameAsGit(t, r.dir, r.git("rev-parse", "HEAD"), o.Dir)
		}
	}
}

// TestRewound: a branch that was pushed by force is followed.
func TestRewound(t *testing.T) {
	r := sample(t)
	o := source.Options{Repository: r.dir, Dir: t.TempDir(), Access: source.Access{Mirror: t.TempDir()}}
	checkout(t, o)
	r.git("reset", "-q", "--hard", "main~2")
	c := checkout(t, o)
	sameAsGit(t, r.dir, c.Hash, o.Dir)
	r.commit("another way", map[string]string{"way": "w"})
	r.git("branch", "-D", "topic/x")
	c = checkout(t, o)
	sameAsGit(t, r.dir, c.Hash, o.Dir)
	if got := runGit(t, o.Dir, "branch", "-r"); strings.Contains(got, "topic") {
		t.Errorf("a deleted branch is still there: %s", got)
	}
}

// TestKilled kills a checkout with SIGKILL once the server has begun to send,
// and expects the next one to succeed on what is left. The test's own binary
// is the victim.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("DISTCI_TEST_VICTIM"); dir != "" {
		source.Checkout(t.Context(), source.Options{Repository: os.Getenv("DISTCI_TEST_URL"), Dir: dir,
			Access: source.Access{Mirror: os.Getenv("DISTCI_TEST_MIRROR")}})
		return
	}
	r := sample(t)
	backend := serve(t, filepath.Dir(r.dir), "").Config.Handler
	for _, mirror := range []string{"", t.TempDir()} {
		begun, release := make(chan bool), make(chan bool)
		var once sync.Once
		s := serveFunc(t, func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodPost {
				// Half of a pack, and then silence.
				w = &halfWriter{ResponseWriter: w, left: 400, stop: func() { once.Do(func() { close(begun); <-release }) }}
			}
			backend.ServeHTTP(w, req)
		})
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "DISTCI_TEST_VICTIM="+dir, "DISTCI_TEST_URL="+s.URL+"/origin/.git", "DISTCI_TEST_MIRROR="+mirror)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-begun
		cmd.Process.Kill()
		cmd.Wait()
		close(release)
		o := source.Options{Repository: s.URL + "/origin/.git", Dir: dir, Access: source.Access{Mirror: mirror}}
		c := checkout(t, o)
		sameAsGit(t, r.dir, c.Hash, dir)
	}
}

// TestMirrorUnusable names the folder when the mirror cannot be made.
func TestMirrorUnusable(t *testing.T) {
	r := sample(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "x")
	_, err := source.Checkout(t.Context(), source.Options{Repository: r.dir, Dir: t.TempDir(), Access: source.Access{Mirror: file}})
	wantFault(t, err, fault.Config, file)
}
