package source_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source"
)

// TestRefs checks out everything that a ref can be, over each of the local
// transports, with a mirror and without.
func TestRefs(t *testing.T) {
	r := sample(t)
	server := serve(t, filepath.Dir(r.dir), "")
	cases := []struct{ ref, rev, name string }{
		{"", "main", "refs/heads/main"},
		{"HEAD", "main", "refs/heads/main"},
		{"main", "main", "refs/heads/main"},
		{"refs/heads/main", "main", "refs/heads/main"},
		{"topic/x", "topic/x", "refs/heads/topic/x"},
		{"v1", "v1", "refs/tags/v1"},
		{"v2", "v2^{commit}", "refs/tags/v2"},
		{"refs/tags/v2", "v2^{commit}", "refs/tags/v2"},
		{"refs/pull/7/head", "refs/pull/7/head", "refs/pull/7/head"},
		{"pull/7/head", "refs/pull/7/head", "refs/pull/7/head"},
		{r.git("rev-parse", "main~1"), "main~1", ""},                     // not a tip
		{r.git("rev-parse", "refs/pull/7/head"), "refs/pull/7/head", ""}, // on no branch
	}
	for _, url := range []string{r.dir, "file://" + r.dir, server.URL + "/origin/.git"} {
		for _, mirror := range []string{"", t.TempDir()} {
			dir := t.TempDir() // one for all: each checkout has to undo the last
			for _, c := range cases {
				name := fmt.Sprintf("%.4s/mirror=%v/%s", url, mirror != "", c.ref)
				t.Run(name, func(t *testing.T) {
					rev := r.git("rev-parse", c.rev)
					got := checkout(t, source.Options{Access: source.Access{Mirror: mirror}, Repository: url, Ref: c.ref, Dir: dir})
					if got.Hash != rev || got.Ref != c.name || got.Author != "A. Person <a@example.org>" || got.Subject == "" || got.Time.IsZero() {
						t.Errorf("%+v, want %s as %q", got, rev, c.name)
					}
					sameAsGit(t, r.dir, rev, dir)
				})
			}
			if got, want := runGit(t, dir, "describe"), r.git("describe", "refs/pull/7/head"); got != want {
				t.Errorf("describe says %s, want %s", got, want)
			}
		}
	}
}

// TestBranch asserts that a workspace on a branch is one that git would have
// cloned.
func TestBranch(t *testing.T) {
	r, dir := sample(t), t.TempDir()
	r.git("checkout", "-q", "-b", `odd"name;#`)
	checkout(t, source.Options{Repository: r.dir, Ref: `odd"name;#`, Dir: dir})
	for args, want := range map[string]string{
		"rev-parse --abbrev-ref HEAD":       `odd"name;#`,
		"rev-parse --abbrev-ref @{u}":       `origin/odd"name;#`,
		"config remote.origin.url":          r.dir,
		"rev-parse origin/topic/x":          r.git("rev-parse", "topic/x"),
		"rev-list --count --all":            "5",
		"rev-parse v2^{}":                   r.git("rev-parse", "v2^{}"),
		"rev-parse --is-shallow-repository": "false",
	} {
		if got := runGit(t, dir, strings.Fields(args)...); got != want {
			t.Errorf("git %s: %q, want %q", args, got, want)
		}
	}
	runGit(t, dir, "fetch", "-q") // the workspace works against its origin
}

// TestDirty asserts that nothing of an earlier life of the workspace remains,
// and that what is right already is not written again.
func TestDirty(t *testing.T) {
	r := sample(t)
	o := source.Options{Repository: r.dir, Dir: t.TempDir(), Access: source.Access{Mirror: t.TempDir()}}
	checkout(t, o)
	at := func(name string) string { return filepath.Join(o.Dir, name) }
	before, err := os.Stat(at("big"))
	if err != nil {
		t.Fatal(err)
	}
	outside := filepath.Join(t.TempDir(), "outside")
	write(t, filepath.Join(outside, "a.txt"), "not to be touched")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write(t, at("README"), "modified")
	must(os.Remove(at("empty")))
	write(t, at("untracked/x"), "x")
	write(t, at("ignored.o"), "x")
	write(t, at("nested/.git/HEAD"), "ref: refs/heads/x")
	write(t, at("run.sh/now/a/folder")[:len(at("run.sh"))], "")
	must(os.Chmod(at("run.sh"), 0o644))
	must(os.RemoveAll(at("dir"))) // a folder that has become a link to outside
	must(os.Symlink(outside, at("dir")))
	must(os.Remove(at("inside")))
	must(os.MkdirAll(at("inside/was/a/link"), 0o755))
	must(os.MkdirAll(at("locked/in"), 0o755))
	must(os.Chmod(at("locked"), 0))
	must(os.Chmod(at("sp ace"), 0o500))
	must(os.WriteFile(at(".git/hooks-not-here"), nil, 0o644))
	must(os.WriteFile(at(".git/config"), []byte("[core]\n\tfsmonitor = touch "+outside+"/ran\n\tworktree = "+outside+"\n"), 0o644))
	must(os.WriteFile(at(".git/index"), []byte("forged"), 0o644))

	c := checkout(t, o)
	sameAsGit(t, r.dir, c.Hash, o.Dir)
	if got := snapshot(t, outside); !strings.Contains(got, "not to be touched") || strings.Count(got, "\n") != 1 {
		t.Errorf("outside was touched: %s", got)
	}
	after, err := os.Stat(at("big"))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) || !before.ModTime().Equal(after.ModTime()) {
		t.Error("a file that was right has been written again")
	}
}

// TestForgedIndex: a file that only an index calls unchanged is not believed.
func TestForgedIndex(t *testing.T) {
	r := sample(t)
	o := source.Options{Repository: r.dir, Dir: t.TempDir()}
	checkout(t, o)
	write(t, filepath.Join(o.Dir, "README"), "forged\n")
	runGit(t, o.Dir, "update-index", "--assume-unchanged", "README")
	c := checkout(t, o)
	sameAsGit(t, r.dir, c.Hash, o.Dir)
}

// TestInTheWay replaces whatever is where the repository is to be.
func TestInTheWay(t *testing.T) {
	r := sample(t)
	for name, prepare := range map[string]func(dir string) error{
		"nothing":     func(dir string) error { return nil },
		"a file":      func(dir string) error { return os.WriteFile(dir, []byte("x"), 0o644) },
		"a folder":    func(dir string) error { return os.MkdirAll(filepath.Join(dir, "x/y"), 0o755) },
		"a .git file": func(dir string) error { write(t, filepath.Join(dir, ".git"), "gitdir: /"); return nil },
		"an unfinished clone": func(dir string) error {
			write(t, filepath.Join(dir, ".git/objects/pack/tmp_pack_1"), "PACK")
			return nil
		},
		"another repository": func(dir string) error { runGit(t, ".", "clone", "-q", newRepo2(t).dir, dir); return nil },
		"a .git link to beyond": func(dir string) error {
			os.MkdirAll(dir, 0o755)
			return os.Symlink(t.TempDir(), filepath.Join(dir, ".git"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			ws := t.TempDir()
			write(t, filepath.Join(ws, "beside"), "stays")
			if err := os.Mkdir(filepath.Join(ws, "a"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := prepare(filepath.Join(ws, "a/b")); err != nil {
				t.Fatal(err)
			}
			c := checkout(t, source.Options{Repository: r.dir, Dir: ws, CheckoutDir: "a/b"})
			sameAsGit(t, r.dir, c.Hash, filepath.Join(ws, "a/b"))
			if b, _ := os.ReadFile(filepath.Join(ws, "beside")); string(b) != "stays" {
				t.Error("a file beside checkout-dir was touched")
			}
		})
	}
}

func newRepo2(t *testing.T) *repo {
	r := newRepo(t)
	r.commit("other", map[string]string{"other": "x", "README": "other"})
	return r
}

// TestConfined: no checkout-dir leads outside.
func TestConfined(t *testing.T) {
	r, ws, outside := sample(t), t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(ws, "out")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(".", filepath.Join(ws, "in")); err != nil {
		t.Fatal(err)
	}
	for dir, kind := range map[string]fault.Kind{
		"..": fault.BadTicket, "a/../../b": fault.BadTicket, "/tmp": fault.BadTicket, ".git": fault.BadTicket, "a/.GIT/hooks": fault.BadTicket,
		"out": fault.Denied, "out/x": fault.Denied, "in": fault.Denied, "in/x": fault.Denied,
	} {
		_, err := source.Checkout(t.Context(), source.Options{Repository: r.dir, Dir: ws, CheckoutDir: dir})
		wantFault(t, err, kind, "checkout-dir")
	}
	if s := snapshot(t, outside); strings.Contains(s, "\n") {
		t.Errorf("written outside: %s", s)
	}
}

// hostile makes a commit of trees that git's own porcelain refuses to make.
func hostile(t *testing.T, entries string) *repo {
	r := newRepo(t)
	r.commit("x", map[string]string{"x": "payload"})
	blob := r.git("rev-parse", "HEAD:x")
	write(t, filepath.Join(r.dir, "link"), "/tmp")
	link := r.git("hash-object", "-w", "link")
	inner := mktree(t, r, "100644 x\x00", blob)
	var raw strings.Builder
	for e := range strings.SplitSeq(entries, " ") {
		mode, name, _ := strings.Cut(e, ":")
		id := map[string]string{"100644": blob, "120000": link, "40000": inner}[mode]
		fmt.Fprintf(&raw, "%s %s\x00%s", mode, name, unhex(id))
	}
	tree := hashRaw(t, r, raw.String())
	r.git("update-ref", "refs/heads/main", r.git("commit-tree", "-m", "hostile", tree))
	return r
}

func mktree(t *testing.T, r *repo, head, id string) string { return hashRaw(t, r, head+unhex(id)) }

func hashRaw(t *testing.T, r *repo, content string) string {
	name := filepath.Join(t.TempDir(), "raw")
	write(t, name, content)
	return r.git("hash-object", "-t", "tree", "-w", "--literally", name)
}

func unhex(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i += 2 {
		var c byte
		fmt.Sscanf(s[i:i+2], "%02x", &c)
		b.WriteByte(c)
	}
	return b.String()
}

// TestHostileTree: trees that would write outside or into .git are refused.
func TestHostileTree(t *testing.T) {
	for _, entries := range []string{"100644:..", "100644:.", "100644:a/b", "100644:../x", "40000:.git", "40000:.GiT", "100644:git~1", "120000:a 40000:a"} {
		r, ws := hostile(t, entries), t.TempDir()
		_, err := source.Checkout(t.Context(), source.Options{Repository: r.dir, Dir: ws})
		wantFault(t, err, fault.Unavailable, "not acceptable")
	}
}

func TestDepth(t *testing.T) {
	r := sample(t)
	server := serve(t, filepath.Dir(r.dir), "")
	for _, url := range []string{r.dir, server.URL + "/origin/.git"} {
		for ref, count := range map[string]string{"main": "2", "v2": "2", r.git("rev-parse", "main"): "2"} {
			o := source.Options{Repository: url, Ref: ref, Dir: t.TempDir(), Depth: 2, Access: source.Access{Mirror: t.TempDir()}}
			c := checkout(t, o)
			sameAsGit(t, r.dir, c.Hash, o.Dir)
			if got := runGit(t, o.Dir, "rev-list", "--count", "--first-parent", "HEAD"); got != count {
				t.Errorf("%s: %s commits, want %s", ref, got, count)
			}
			if got := runGit(t, o.Dir, "rev-parse", "--is-shallow-repository"); got != "true" {
				t.Errorf("%s: not shallow", ref)
			}
			o.Depth = 1 // again, less deep, in the same place
			checkout(t, o)
			clean(t, o.Dir)
		}
		// No server of this kind gives a commit that is no tip: all is fetched.
		old := r.git("rev-parse", "v1")
		o := source.Options{Repository: url, Ref: old, Dir: t.TempDir(), Depth: 1}
		checkout(t, o)
		sameAsGit(t, r.dir, old, o.Dir)
	}
}

func TestFaults(t *testing.T) {
	r := sample(t)
	empty := newRepo(t)
	server := serve(t, filepath.Dir(r.dir), "")
	private := serve(t, filepath.Dir(r.dir), "sesame")
	blob := r.git("rev-parse", "HEAD:README")
	r.git("tag", "file", blob)
	for _, c := range []struct {
		repository, ref string
		kind            fault.Kind
		says            string
	}{
		{"", "", fault.BadTicket, "no repository"},
		{"gopher://h/x", "", fault.BadTicket, "known: http, https, ssh, file"},
		{"https:///x", "", fault.BadTicket, "no host"},
		{"/does/not/exist", "", fault.Unavailable, "no such file"},
		{t.TempDir(), "", fault.Unavailable, ""},
		{empty.dir, "", fault.Unavailable, "empty"},
		{server.URL + "/none", "", fault.Unavailable, "not found"},
		{"http://127.0.0.1:1/x", "", fault.Temporary, "refused"},
		{"ssh://git@127.0.0.1:1/x", "", fault.Temporary, "refused"},
		{"https://" + strings.TrimPrefix(server.URL, "http://") + "/x", "", fault.Temporary, ""},
		{private.URL + "/origin/.git", "", fault.Denied, "authentication"},
		{strings.Replace(private.URL, "//", "//u:wrong-password@", 1) + "/origin/.git", "", fault.Denied, "authentication"},
		{r.dir, "nope", fault.Unavailable, `no ref "nope"; there are branches main, topic/x and tags file, v1, v2`},
		{r.dir, "refs/heads/nope", fault.Unavailable, "refs/heads/nope"},
		{r.dir, strings.Repeat("ab", 20), fault.Unavailable, "no commit abab"},
		{r.dir, "file", fault.Unavailable, "not a commit"},
		{r.dir, blob, fault.Unavailable, "not a commit"},
	} {
		for _, mirror := range []string{"", t.TempDir()} {
			known := filepath.Join(t.TempDir(), "known_hosts")
			write(t, known, "")
			_, err := source.Checkout(t.Context(), source.Options{Repository: c.repository, Ref: c.ref, Dir: t.TempDir(),
				Access: source.Access{Mirror: mirror, KnownHosts: known}})
			if fault.Of(err) != c.kind {
				t.Errorf("%s %s: kind %q, want %q: %v", c.repository, c.ref, fault.Of(err), c.kind, err)
			} else if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s %s: does not say %q: %v", c.repository, c.ref, c.says, err)
			}
			if err != nil && strings.Contains(err.Error(), "wrong-password") {
				t.Errorf("a password is shown: %v", err)
			}
		}
	}
	_, err := source.Checkout(t.Context(), source.Options{Repository: r.dir, Dir: "/dev/null/none"})
	wantFault(t, err, fault.Config, "workspace")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = source.Checkout(ctx, source.Options{Repository: server.URL + "/origin/.git", Dir: t.TempDir()})
	wantFault(t, err, fault.Interrupted)
}
