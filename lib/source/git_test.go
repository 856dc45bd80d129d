package source_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source"
)

// repo is a repository that real git makes.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	r := &repo{t, filepath.Join(t.TempDir(), "origin")}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("init", "-q", "-b", "main", ".")
	return r
}

// runGit runs real git in dir, without the configuration of whoever runs the
// test, and returns its output.
func runGit(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=A. Person", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_AUTHOR_DATE=2026-01-02T03:04:05Z",
		"GIT_COMMITTER_NAME=A. Person", "GIT_COMMITTER_EMAIL=a@example.org", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z",
		"GIT_ALLOW_PROTOCOL=file:http:ssh", "GIT_TERMINAL_PROMPT=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	return runGit(r.t, r.dir, args...)
}

// commit writes files (a nil content removes) and commits them.
func (r *repo) commit(message string, files map[string]string) string {
	r.t.Helper()
	for name, content := range files {
		write(r.t, filepath.Join(r.dir, name), content)
	}
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", message)
	return r.git("rev-parse", "HEAD")
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// sample is a repository with what repositories have: branches, both sorts of
// tags, merges, links, an executable, odd names, an ignored file.
func sample(t *testing.T) *repo {
	t.Helper()
	r := newRepo(t)
	r.commit("first", map[string]string{"README": "one\n", "dir/a.txt": "a\n", ".gitignore": "*.o\n", "gone": "x"})
	r.git("tag", "v1")
	write(t, filepath.Join(r.dir, "run.sh"), "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(r.dir, "run.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"inside": "dir/a.txt", "outside": "/etc/passwd", "up": "../../..", "dirlink": "dir"} {
		if err := os.Symlink(target, filepath.Join(r.dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	r.git("rm", "-q", "gone")
	r.commit("second", map[string]string{"README": "two\n", "sp ace/ü\n\"x": "odd\n", "empty": "", "big": strings.Repeat("0123456789\n", 20000)})
	r.git("tag", "-a", "v2", "-m", "annotated")
	r.git("checkout", "-q", "-b", "topic/x", "v1")
	r.commit("on topic", map[string]string{"topic": "t\n"})
	r.git("checkout", "-q", "main")
	r.git("merge", "-q", "-m", "merged", "topic/x")
	r.commit("third", map[string]string{"README": "three\n"})
	r.git("update-ref", "refs/pull/7/head", r.git("commit-tree", "-p", "HEAD", "-m", "a request", "HEAD^{tree}"))
	return r
}

// snapshot describes all below dir, except for the top .git: modes, contents
// and links' targets.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if d.Name() == ".git" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = fmt.Sprintf("%q", b)
			if len(content) > 100 {
				content = fmt.Sprintf("%x", sha256.Sum256(b))
			}
		case info.Mode()&fs.ModeSymlink != 0:
			if content, err = os.Readlink(path); err != nil {
				return err
			}
		}
		lines = append(lines, info.Mode().String()+" "+rel+" "+content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// sameAsGit compares a workspace with what real git checks out, and asks real
// git what it thinks of the workspace.
func sameAsGit(t *testing.T, url, rev, dir string) {
	t.Helper()
	want := filepath.Join(t.TempDir(), "want")
	runGit(t, ".", "clone", "-q", "--no-checkout", url, want)
	runGit(t, want, "fetch", "-q", "origin", "+refs/*:refs/all/*")
	runGit(t, want, "checkout", "-q", "--detach", rev)
	if got, want := snapshot(t, dir), snapshot(t, want); got != want {
		t.Errorf("the tree differs from git's:\n%.3000s\nwant:\n%.3000s", got, want)
	}
	if got := runGit(t, dir, "rev-parse", "HEAD"); got != rev {
		t.Errorf("HEAD is %s, want %s", got, rev)
	}
	clean(t, dir)
}

func clean(t *testing.T, dir string) {
	t.Helper()
	if s := runGit(t, dir, "status", "--porcelain", "--ignored"); s != "" {
		t.Errorf("git status: %s", s)
	}
	runGit(t, dir, "diff-files", "--quiet") // the index knows the files as they are
	runGit(t, dir, "fsck", "--strict", "--no-dangling")
}

func checkout(t *testing.T, o source.Options) source.Commit {
	t.Helper()
	c, err := source.Checkout(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// wantFault asserts an error's kind and what it says.
func wantFault(t *testing.T, err error, kind fault.Kind, says ...string) {
	t.Helper()
	if fault.Of(err) != kind {
		t.Fatalf("kind %q, want %q: %v", fault.Of(err), kind, err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("the error does not say %q: %v", s, err)
		}
	}
}

// serve is git's own HTTP server for all repositories in dir. With a password
// it asks for one: user "u".
func serve(t *testing.T, dir, password string) *httptest.Server {
	t.Helper()
	backend := &cgi.Handler{
		Path: filepath.Join(runGit(t, ".", "--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, _ := r.BasicAuth(); password != "" && (u != "u" || p != password) {
			w.Header().Set("WWW-Authenticate", "Basic")
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

// logged returns a log and what was written to it.
func logged() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})), &b
}

func serveFunc(t *testing.T, f http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s
}

// halfWriter passes some bytes on and then calls stop.
type halfWriter struct {
	http.ResponseWriter
	left int
	stop func()
}

func (h *halfWriter) Write(p []byte) (int, error) {
	n := min(len(p), h.left)
	if _, err := h.ResponseWriter.Write(p[:n]); err != nil {
		return 0, err
	}
	if h.left -= n; h.left == 0 {
		h.ResponseWriter.(http.Flusher).Flush()
		h.stop()
		h.left = 1 << 30
	}
	m, err := h.ResponseWriter.Write(p[n:])
	return n + m, err
}
