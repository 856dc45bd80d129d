package artifact

import (
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/distci/distci/lib/fault"
)

// tree makes a workspace: "name" is a file with its name as content,
// "name -> target" a link.
func tree(t *testing.T, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, n := range names {
		name, to, link := strings.Cut(n, " -> ")
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if link {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(n), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func find(t *testing.T, dir, glob string) ([]string, error) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	p, err := parsePattern(glob)
	if err != nil {
		return nil, fault.Wrap(fault.BadTicket, err)
	}
	f := &finder{root: root, log: slog.New(slog.DiscardHandler), found: map[string]bool{}}
	n, err := f.find(t.Context(), p)
	if n != len(f.found) {
		t.Errorf("%s: counted %d of %d", glob, n, len(f.found))
	}
	return slices.Sorted(maps.Keys(f.found)), err
}

func TestFind(t *testing.T) {
	dir := tree(t, "a", "bin/x", "bin/y.txt", "bin/sub/z.txt", "bin/sub/deep/w", ".hidden", "dot/.env",
		".git/config", "mod/.git", "in -> bin/x", "folder -> bin", "bin/up -> ../a", "we[i]rd", "é ü/ß", "-n", "two\nlines", "bin2/x")
	for _, tt := range []struct {
		glob string
		want []string
	}{
		{"a", []string{"a"}},
		{"./a", []string{"a"}},
		{"bin/x", []string{"bin/x"}},
		{"bin//x", []string{"bin/x"}},
		{"bin", []string{"bin/sub/deep/w", "bin/sub/z.txt", "bin/up", "bin/x", "bin/y.txt"}},
		{"bin/", []string{"bin/sub/deep/w", "bin/sub/z.txt", "bin/up", "bin/x", "bin/y.txt"}},
		{"bin/**", []string{"bin/sub/deep/w", "bin/sub/z.txt", "bin/up", "bin/x", "bin/y.txt"}},
		{"bin/*", []string{"bin/up", "bin/x", "bin/y.txt"}},
		{"bin/*/", []string{"bin/sub/deep/w", "bin/sub/z.txt"}},
		{"*/", []string{"bin/sub/deep/w", "bin/sub/z.txt", "bin/up", "bin/x", "bin/y.txt", "bin2/x", "dot/.env", "é ü/ß"}},
		{"bin*/x", []string{"bin/x", "bin2/x"}},
		{"**/*.txt", []string{"bin/sub/z.txt", "bin/y.txt"}},
		{"**/z.txt", []string{"bin/sub/z.txt"}},
		{"bin/**/w", []string{"bin/sub/deep/w"}},
		{"{a,bin/sub/z}*", []string{"a", "bin/sub/z.txt"}},
		{"b*/s*/*.t?t", []string{"bin/sub/z.txt"}},
		{"*", []string{"-n", ".hidden", "a", "in", "two\nlines", "we[i]rd"}},
		{".", []string{"-n", ".hidden", "a", "bin/sub/deep/w", "bin/sub/z.txt", "bin/up", "bin/x", "bin/y.txt", "bin2/x", "dot/.env", "in", "two\nlines", "we[i]rd", "é ü/ß"}},
		{"**", []string{"-n", ".hidden", "a", "bin/sub/deep/w", "bin/sub/z.txt", "bin/up", "bin/x", "bin/y.txt", "bin2/x", "dot/.env", "in", "two\nlines", "we[i]rd", "é ü/ß"}},
		{".git", []string{".git/config"}},
		{".git/*", []string{".git/config"}},
		{"**/.git", []string{"mod/.git"}},
		{"**/.git/**", []string{".git/config"}},
		{"*.git/*", nil},
		{"folder/x", []string{"folder/x"}},
		{"folder/", []string{"folder/sub/deep/w", "folder/sub/z.txt", "folder/up", "folder/x", "folder/y.txt"}},
		{"folder", nil},
		{`we\[i\]rd`, []string{"we[i]rd"}},
		{"é*/?", []string{"é ü/ß"}},
		{"nothing", nil},
		{"nothing/**", nil},
		{"a/", nil},
		{"a/**", nil},
		{"a/b", nil},
		{"a/*/b", nil},
		{strings.Repeat("x", 255), nil},
	} {
		got, err := find(t, dir, tt.glob)
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%q: %q, %v\nwant %q", tt.glob, got, err, tt.want)
		}
	}
}

func TestBadGlobs(t *testing.T) {
	for glob, want := range map[string]string{
		"":             "empty",
		"/etc/passwd":  "absolute",
		"../x":         `".."`,
		"a/../../x":    `".."`,
		"**/../x":      `".."`,
		"..":           `".."`,
		"[":            "not a valid pattern",
		"{a":           "not a valid pattern",
		"a\x00":        "NUL",
		"a\\":          "not a valid pattern",
		"//etc/passwd": "absolute",
	} {
		if _, err := parsePattern(glob); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", glob, err)
		}
	}
}

// TestFindOutside: whatever leads outside is refused when it is matched, and
// does no harm when it is not.
func TestFindOutside(t *testing.T) {
	outside := tree(t, "secret/key")
	for _, tt := range []struct{ link, glob, want string }{
		{"out -> " + outside + "/secret/key", "*", "escapes"},
		{"out -> " + outside + "/secret/key", "out", "escapes"},
		{"dir -> " + outside + "/secret", "dir/key", "escapes"},
		{"dir -> " + outside + "/secret", "dir/*", "escapes"},
		{"dir -> " + outside + "/secret", "dir/", "escapes"},
		{"dir -> " + outside + "/secret", "**", "escapes"},
		{"up -> ..", "up/**", "escapes"},
		{"sub/up -> ../../x", "sub/*", "escapes"},
		{"one -> two", "one", "no such file"},
		{"loop -> loop", "loop", "loop is a link"},
	} {
		dir := tree(t, "fine", tt.link)
		if _, err := find(t, dir, tt.glob); fault.Of(err) != fault.Verdict || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s with %q: %s: %v", tt.link, tt.glob, fault.Of(err), err)
		}
		if got, err := find(t, dir, "fin?"); err != nil || len(got) != 1 {
			t.Errorf("%s: %q, %v", tt.link, got, err)
		}
	}
}

func TestFindOddFiles(t *testing.T) {
	dir := tree(t, "fine")
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err == nil { // where the name is not too long
		defer l.Close()
	}
	if got, err := find(t, dir, "*"); err != nil || !slices.Equal(got, []string{"fine"}) {
		t.Error(got, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bad\xff"), nil, 0o644); err != nil {
		t.Skip(err)
	}
	if _, err := find(t, dir, "*"); fault.Of(err) != fault.Verdict || !strings.Contains(err.Error(), `"bad\xff"`) {
		t.Error(err)
	}
}

func FuzzParsePattern(f *testing.F) {
	f.Add("a/**/{b,c}/[x-z]?")
	f.Fuzz(func(t *testing.T, glob string) {
		if p, err := parsePattern(glob); err == nil {
			p.match("a/b")
		}
	})
}
