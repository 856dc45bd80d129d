package artifact

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/distci/distci/lib/fault"
)

func TestUploadFails(t *testing.T) {
	refuse := func(status, upTo int) func(http.ResponseWriter, *http.Request, int) bool {
		return func(w http.ResponseWriter, _ *http.Request, n int) bool {
			if n > upTo {
				return false
			}
			if status == 0 {
				panic(http.ErrAbortHandler)
			}
			http.Error(w, "no luck", status)
			return true
		}
	}
	for name, tt := range map[string]struct {
		server *kept
		kind   fault.Kind
		posts  int
		want   string
	}{
		"a defect once":  {&kept{fail: refuse(500, 1)}, fault.None, 2, ""},
		"cut once":       {&kept{fail: refuse(0, 1)}, fault.None, 2, ""},
		"a defect":       {&kept{fail: refuse(500, 9)}, fault.Temporary, uploads, "artifact: a: client"},
		"not permitted":  {&kept{fail: refuse(403, 9)}, fault.Denied, 1, "no luck"},
		"no build":       {&kept{fail: refuse(404, 9)}, fault.Unavailable, 1, "no luck"},
		"another digest": {&kept{lie: func(a *Artifact, _ int) { a.SHA256 = strings.Repeat("0", 64) }}, fault.Temporary, uploads, "SHA-256"},
		"a digest once": {&kept{lie: func(a *Artifact, n int) {
			if n == 1 {
				a.SHA256 = strings.Repeat("0", 64)
			}
		}}, fault.None, 2, ""},
		"another size":     {&kept{lie: func(a *Artifact, _ int) { a.Size++ }}, fault.Temporary, uploads, "stored"},
		"no digest at all": {&kept{lie: func(a *Artifact, _ int) { a.SHA256 = "" }}, fault.Temporary, uploads, "SHA-256"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, server := over(t)
			s.fail, s.lie = tt.server.fail, tt.server.lie
			_, err := publish(t, tree(t, "a"), server, "a")
			if fault.Of(err) != tt.kind || s.posts != tt.posts || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%d requests, %s: %v", s.posts, fault.Of(err), err)
			}
		})
	}
}

func TestDownloadFails(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	cut := func(w http.ResponseWriter, b []byte) bool {
		w.Write(b)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	for name, tt := range map[string]struct {
		fail func(w http.ResponseWriter, r *http.Request, n int) bool
		kind fault.Kind
		gets int
		want string
	}{
		"cut twice": {func(w http.ResponseWriter, r *http.Request, n int) bool {
			return n == 1 && cut(w, data[:300_000]) || n == 2 && r.Header.Get("Range") == "" && cut(w, nil)
		}, fault.None, 2, ""},
		"cut for ever": {func(w http.ResponseWriter, r *http.Request, n int) bool {
			return r.Header.Get("Range") != "" && cut(w, nil) || cut(w, data[:10])
		}, fault.Temporary, 0, "client"},
		"other bytes once": {func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				w.Write(bytes.ToUpper(append([]byte("x"), data[1:]...)))
			}
			return n == 1
		}, fault.None, 2, ""},
		"other bytes": {func(w http.ResponseWriter, r *http.Request, n int) bool {
			w.Write(append([]byte("x"), data[1:]...))
			return true
		}, fault.Temporary, 2, "SHA-256"},
		"too few": {func(w http.ResponseWriter, r *http.Request, n int) bool { w.Write(data[:5]); return true }, fault.Temporary, 2, "found 5 with"},
		"without end": {func(w http.ResponseWriter, r *http.Request, n int) bool {
			for {
				if _, err := w.Write(data); err != nil {
					return true
				}
			}
		}, fault.Temporary, 2, "found 1000001 with"},
		"gone": {func(w http.ResponseWriter, r *http.Request, n int) bool { http.NotFound(w, r); return true }, fault.Unavailable, 1, "not found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, server := over(t)
			s.add("a", data)
			s.fail = tt.fail
			dir := t.TempDir()
			err := copyAll(t, dir, server, "a")
			if fault.Of(err) != tt.kind || tt.gets != 0 && s.gets != tt.gets || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%d requests, %s: %v", s.gets, fault.Of(err), err)
			}
			entries, _ := os.ReadDir(dir)
			if err != nil && len(entries) > 0 {
				t.Error("left behind:", entries)
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "a")); err == nil && !bytes.Equal(b, data) {
				t.Error("other bytes")
			}
		})
	}
}

func TestDamagedFolder(t *testing.T) {
	for name, tt := range map[string]struct {
		damage func(dir string) error
		kind   fault.Kind
		want   string
	}{
		"no index": {func(d string) error { return os.Remove(filepath.Join(d, indexName)) }, fault.Unavailable, "has no artifacts.json"},
		"not JSON": {func(d string) error { return os.WriteFile(filepath.Join(d, indexName), []byte("{"), 0o644) }, fault.Unavailable, "not an index"},
		"changed":  {func(d string) error { return os.WriteFile(filepath.Join(d, "a"), []byte("b"), 0o644) }, fault.Temporary, "SHA-256"},
		"longer":   {func(d string) error { return os.WriteFile(filepath.Join(d, "a"), []byte("ab"), 0o644) }, fault.Temporary, "SHA-256"},
		"removed":  {func(d string) error { return os.Remove(filepath.Join(d, "a")) }, fault.Unavailable, "cannot be read"},
		"a folder": {func(d string) error { os.Remove(filepath.Join(d, "a")); return os.Mkdir(filepath.Join(d, "a"), 0o755) }, fault.Unavailable, "not a regular file"},
		"a pipe": {func(d string) error {
			os.Remove(filepath.Join(d, "a"))
			return syscall.Mkfifo(filepath.Join(d, "a"), 0o644)
		}, fault.Unavailable, "not a regular file"},
		"elsewhere": {func(d string) error {
			os.Remove(filepath.Join(d, "a"))
			return os.Symlink("/etc/passwd", filepath.Join(d, "a"))
		}, fault.Unavailable, "escapes"},
	} {
		dir := folder(t, tree(t, "a"), "a")
		if err := tt.damage(dir); err != nil {
			t.Fatal(err)
		}
		f, err := OpenFolder(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := copyAll(t, t.TempDir(), f, "*"); fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %s: %v", name, fault.Of(err), err)
		}
		f.Close()
	}
}

// TestChangingFile: what is stored is what was read, or there is an error.
func TestChangingFile(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(path string) error
		kind   fault.Kind
	}{
		"grows": {func(p string) error {
			f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteString("more")
				f.Close()
			}
			return err
		}, fault.None},
		"shrinks":  {func(p string) error { return os.Truncate(p, 10) }, fault.Temporary},
		"replaced": {func(p string) error { return os.Remove(p) }, fault.None},
		"rewritten": {func(p string) error {
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt(bytes.Repeat([]byte("y"), 1<<20), 0)
				f.Close()
			}
			return err
		}, fault.None},
	} {
		dir := t.TempDir()
		file := filepath.Join(dir, "a")
		if err := os.WriteFile(file, bytes.Repeat([]byte("x"), 4<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := CreateFolder(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		sink := &meddler{Sink: f, do: func() { // between two reads
			if err := tt.change(file); err != nil {
				t.Error(err)
			}
		}}
		_, err = publish(t, dir, sink, "a")
		f.Close()
		if fault.Of(err) != tt.kind {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		from, _ := OpenFolder(f.name)
		if err := copyAll(t, t.TempDir(), from, "a"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		from.Close()
	}
}

// meddler does something after the first read of a file.
type meddler struct {
	Sink
	do func()
}

func (m *meddler) Put(ctx context.Context, p []string, mode os.FileMode, r io.ReadSeeker, size int64) (Artifact, error) {
	return m.Sink.Put(ctx, p, mode, &meddling{r, sync.OnceFunc(m.do)}, size)
}

type meddling struct {
	io.ReadSeeker
	do func()
}

func (m *meddling) Read(p []byte) (int, error) {
	defer m.do()
	return m.ReadSeeker.Read(p)
}
