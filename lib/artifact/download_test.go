package artifact

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/distci/distci/lib/fault"
)

func downloadTo(t *testing.T, ctx context.Context, src Source, output string, globs ...string) error {
	t.Helper()
	return Download(ctx, DownloadOptions{Output: output, Globs: globs, Jobs: 4, Log: discard}, src)
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	m := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		m[strings.TrimPrefix(p, dir+"/")] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestDownload(t *testing.T) {
	s, server := over(t)
	for _, name := range []string{"bin/tool", "doc/a.txt", "doc/b.txt", "two\nlines", "empty"} {
		s.add(name, []byte("#!"+name))
	}
	s.add("empty", nil)
	dir := filepath.Join(t.TempDir(), "new")
	if err := downloadTo(t, t.Context(), server, dir, "doc/*", "bin/*"); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, dir); len(got) != 3 || got["doc/a.txt"] != "#!doc/a.txt" {
		t.Errorf("%q", got)
	}
	if info, err := os.Stat(filepath.Join(dir, "bin/tool")); err != nil || info.Mode() != 0o755 {
		t.Error(info, err)
	}
	// Again, and the rest: what is there is not fetched.
	os.WriteFile(filepath.Join(dir, "doc/b.txt"), []byte("#!doc/B.txt"), 0o644)
	s.gets = 0
	if err := downloadTo(t, t.Context(), server, dir, "doc/*", "two*"); err != nil || s.gets != 2 {
		t.Error(s.gets, err)
	}
	if got := contents(t, dir); len(got) != 4 || got["doc/b.txt"] != "#!doc/b.txt" || got["two\nlines"] == "" {
		t.Errorf("%q", got)
	}
	if err := downloadTo(t, t.Context(), server, dir, "nothing*"); fault.Of(err) != fault.Unavailable {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "all.zip")
	if err := downloadTo(t, t.Context(), server, file); err != nil {
		t.Fatal(err)
	}
	z, err := zip.OpenReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
	}
	if slices.Sort(names); len(names) < 5 || names[0] != "bin/tool" {
		t.Errorf("%q", names)
	}
}

// TestDownloadIsTakenUp: a download that was killed goes on where it was, and
// trusts nothing of what it finds.
func TestDownloadIsTakenUp(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	for name, tt := range map[string]struct {
		spoil func(part string) error
		gets  []string // ranges that are asked for
	}{
		"as it was": {func(string) error { return nil }, []string{"bytes=300000-"}},
		"damaged":   {func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("x"), 5000), 0o600) }, []string{"bytes=5000-", ""}},
		"too long":  {func(p string) error { return os.Truncate(p, 2_000_000) }, []string{""}},
		"emptied":   {func(p string) error { return os.Truncate(p, 0) }, []string{""}},
		"whole":     {func(p string) error { return os.WriteFile(p, data, 0o600) }, []string{"bytes=1000000-"}},
		"removed":   {os.Remove, []string{""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, server := over(t)
			s.add("folder/a", data)
			dir := t.TempDir()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s.fail = func(w http.ResponseWriter, r *http.Request, n int) bool {
				w.Write(data[:300_000])
				http.NewResponseController(w).Flush()
				for { // until all of it has arrived
					parts, _ := filepath.Glob(dir + "/folder/.distci-*.part")
					if len(parts) == 1 {
						if info, err := os.Stat(parts[0]); err == nil && info.Size() == 300_000 {
							break
						}
					}
				}
				cancel()
				panic(http.ErrAbortHandler)
			}
			if err := downloadTo(t, ctx, server, dir); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			parts, _ := filepath.Glob(dir + "/folder/.distci-*.part")
			if len(parts) != 1 || len(contents(t, dir)) != 1 {
				t.Fatal(parts)
			}
			if err := tt.spoil(parts[0]); err != nil {
				t.Fatal(err)
			}
			var ranges []string
			s.mu.Lock()
			s.fail = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
				ranges = append(ranges, r.Header.Get("Range"))
				return false
			}
			s.mu.Unlock()
			if err := downloadTo(t, t.Context(), server, dir); err != nil {
				t.Fatal(err)
			}
			if got := contents(t, dir); len(got) != 1 || got["folder/a"] != string(data) {
				t.Errorf("%d files", len(got))
			}
			if !slices.Equal(ranges, tt.gets) {
				t.Errorf("asked for %q, want %q", ranges, tt.gets)
			}
		})
	}
}

// TestDownloadDamaged: what never becomes what it should be does not appear.
func TestDownloadDamaged(t *testing.T) {
	s, server := over(t)
	s.add("a", []byte("well"))
	s.add("b", []byte("well"))
	s.data["id-1"] = []byte("Well")
	tries := 0 // at b; a is fetched beside it, or not any more
	s.fail = func(_ http.ResponseWriter, r *http.Request, _ int) bool {
		if strings.HasSuffix(r.URL.Path, "id-1") {
			tries++
		}
		return false
	}
	dir := t.TempDir()
	if err := downloadTo(t, t.Context(), server, dir); fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), "artifact: b: expected 4 bytes") || tries != 2 {
		t.Error(tries, err)
	}
	if got := contents(t, dir); got["b"] != "" || len(got) > 1 {
		t.Errorf("%q", got)
	}
	for _, archive := range []string{"x.zip", "x.tar.zst"} {
		if err := downloadTo(t, t.Context(), server, filepath.Join(dir, archive)); fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), `packing "b"`) {
			t.Error(err)
		}
	}
	if got := contents(t, dir); len(got) > 1 {
		t.Errorf("left behind: %q", got)
	}
	delete(s.data, "id-1")
	s.fail = func(w http.ResponseWriter, r *http.Request, _ int) bool {
		if strings.HasSuffix(r.URL.Path, "id-1") {
			http.NotFound(w, r)
			return true
		}
		return false
	}
	if err := downloadTo(t, t.Context(), server, dir); fault.Of(err) != fault.Unavailable || len(contents(t, dir)) > 1 {
		t.Error(err, contents(t, dir))
	}
	if err := downloadTo(t, t.Context(), server, filepath.Join(dir, "no", "x.zip")); fault.Of(err) != fault.Config {
		t.Error(err)
	}
}

// TestDownloadsMeet: of two downloads into one folder the second does not
// disturb the first.
func TestDownloadsMeet(t *testing.T) {
	s, server := over(t)
	s.add("a", []byte("bytes"))
	dir := t.TempDir()
	s.fail = func(http.ResponseWriter, *http.Request, int) bool {
		if err := downloadTo(t, t.Context(), &listed{s.list}, dir); fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), "another download") {
			t.Error(err)
		}
		return false
	}
	if err := downloadTo(t, t.Context(), server, dir); err != nil || contents(t, dir)["a"] != "bytes" {
		t.Error(err)
	}
}

// listed knows only what there is.
type listed struct{ list map[string]Artifact }

func (l *listed) String() string                                    { return "a list" }
func (l *listed) List(context.Context) (map[string]Artifact, error) { return l.list, nil }
func (l *listed) Open(context.Context, Artifact, int64) (io.ReadCloser, os.FileMode, error) {
	return nil, 0, syscall.EIO
}

// TestDownloadTraps: names and links that lead out of the folder.
func TestDownloadTraps(t *testing.T) {
	outside := tree(t, "victim")
	s, server := over(t)
	s.add("up", []byte("x"))
	s.add("a/b", []byte("x"))
	up := s.list["id-0"]
	up.Path = []string{"..", "victim"}
	s.list["id-0"] = up
	for _, trap := range []string{"plain", "a -> " + outside, "a -> ..", "a/b -> " + outside + "/victim"} {
		dir := tree(t, trap)
		err := downloadTo(t, t.Context(), server, dir)
		if strings.HasPrefix(trap, "a ->") != (err != nil) {
			t.Error(trap, err)
		}
		if b, e := os.ReadFile(filepath.Join(dir, "id-0")); err == nil && (e != nil || string(b) != "x") {
			t.Error("not under its id:", e)
		}
	}
	if got := contents(t, outside); len(got) != 1 || got["victim"] != "victim" {
		t.Errorf("%q", got)
	}
}
