package source_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source"
)

// nested makes origin → sub (by a relative URL) → deep (by an absolute one),
// side by side in one folder.
func nested(t *testing.T) (r *repo, base string) {
	t.Helper()
	base = t.TempDir()
	make := func(name string) *repo {
		m := &repo{t, filepath.Join(base, name)}
		if err := os.Mkdir(m.dir, 0o755); err != nil {
			t.Fatal(err)
		}
		m.git("init", "-q", "-b", "main", ".")
		return m
	}
	deep, sub, r := make("deep"), make("sub"), make("origin")
	deep.commit("deep", map[string]string{"deep": "d\n"})
	sub.commit("sub", map[string]string{"sub": "s\n"})
	sub.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", "--name", "deep name", deep.dir, "lib/deep")
	sub.commit("with deep", nil)
	r.commit("first", map[string]string{"a": "a\n"})
	r.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", "../sub", "vendor/sub")
	r.commit("with sub", nil)
	sub.commit("later, not wanted", map[string]string{"sub": "later\n"})
	return r, base
}

func TestSubmodules(t *testing.T) {
	r, _ := nested(t)
	for _, mirror := range []string{"", t.TempDir()} {
		o := source.Options{Repository: r.dir, Dir: t.TempDir(), Submodules: true, Access: source.Access{Mirror: mirror}}
		for range 2 { // the second time over what the first has left, made dirty
			checkout(t, o)
			want := filepath.Join(t.TempDir(), "want")
			runGit(t, ".", "-c", "protocol.file.allow=always", "clone", "-q", "--recurse-submodules", r.dir, want)
			if got, want := snapshot(t, o.Dir), snapshot(t, want); got != want {
				t.Errorf("the tree differs from git's:\n%s\nwant:\n%s", got, want)
			}
			clean(t, o.Dir)
			clean(t, filepath.Join(o.Dir, "vendor/sub"))
			clean(t, filepath.Join(o.Dir, "vendor/sub/lib/deep"))
			if got := runGit(t, o.Dir, "submodule", "status", "--recursive"); strings.ContainsAny(got, "+-U") && strings.ContainsAny(got[:1], "+-U") {
				t.Errorf("git submodule status: %s", got)
			}
			write(t, filepath.Join(o.Dir, "vendor/sub/sub"), "dirty")
			write(t, filepath.Join(o.Dir, "vendor/sub/lib/deep/more"), "dirty")
		}
		o.Submodules = false
		checkout(t, o)
		if entries, err := os.ReadDir(filepath.Join(o.Dir, "vendor/sub")); err != nil || len(entries) > 0 {
			t.Errorf("without submodules: %v, %v", entries, err)
		}
		clean(t, o.Dir)
		o.Submodules, o.Ref = true, "HEAD~1"
		o.Ref = r.git("rev-parse", "main~1") // a commit that has none
		c := checkout(t, o)
		sameAsGit(t, r.dir, c.Hash, o.Dir)
	}
}

// TestModuleFromAfar: a repository from a server cannot name a folder of the
// worker, and its relative URLs stay on the server.
func TestModuleFromAfar(t *testing.T) {
	r, base := nested(t)
	server := serve(t, base, "")
	o := source.Options{Repository: server.URL + "/origin", Dir: t.TempDir(), Submodules: true}
	_, err := source.Checkout(t.Context(), o)
	wantFault(t, err, fault.Denied, "submodule vendor/sub: submodule lib/deep", "folder of this machine")
	if b, _ := os.ReadFile(filepath.Join(o.Dir, "vendor/sub/sub")); string(b) != "s\n" {
		t.Errorf("the relative submodule has %q", b)
	}
	_ = r
}

func TestModuleFaults(t *testing.T) {
	r, base := nested(t)
	if err := os.Rename(filepath.Join(base, "deep"), filepath.Join(base, "moved")); err != nil {
		t.Fatal(err)
	}
	_, err := source.Checkout(t.Context(), source.Options{Repository: r.dir, Dir: t.TempDir(), Submodules: true})
	wantFault(t, err, fault.Unavailable, "submodule lib/deep", "no such file")

	// One that .gitmodules does not know is left empty, with a warning.
	r.git("rm", "-q", "--cached", ".gitmodules")
	r.git("commit", "-q", "-m", "without .gitmodules")
	log, text := logged()
	dir := t.TempDir()
	checkout(t, source.Options{Repository: r.dir, Dir: dir, Submodules: true, Access: source.Access{Log: log}})
	if !strings.Contains(text.String(), "vendor/sub") {
		t.Errorf("no warning: %s", text)
	}
	clean(t, dir)
}
