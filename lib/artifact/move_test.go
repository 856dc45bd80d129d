package artifact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/fault"
)

// kept is a server of artefacts in memory, which fails as the test says.
type kept struct {
	mu    sync.Mutex
	data  map[string][]byte
	list  map[string]Artifact
	posts int
	gets  int
	// fail is called at the begin of the n-th POST or GET of bytes, from 1 on;
	// true means that it has answered.
	fail func(w http.ResponseWriter, r *http.Request, n int) bool
	lie  func(a *Artifact, n int) // changes the answer to the n-th POST
}

func (s *kept) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	const list = "/jobs/j/builds/7/artifacts"
	switch {
	case r.Method == http.MethodPost:
		s.posts++
		if s.fail != nil && s.fail(w, r, s.posts) {
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		sum := sha256.Sum256(b)
		a := Artifact{ID: fmt.Sprintf("id-%d", s.posts), Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}
		s.data[a.ID] = b
		s.list[a.ID] = Artifact{Size: a.Size, SHA256: a.SHA256}
		if s.lie != nil {
			s.lie(&a, s.posts)
		}
		w.WriteHeader(http.StatusCreated)
		json.NewEncoder(w).Encode(a)
	case r.URL.Path == list:
		json.NewEncoder(w).Encode(map[string]any{"artifacts": s.list})
	default:
		s.gets++
		if s.fail != nil && s.fail(w, r, s.gets) {
			return
		}
		http.ServeContent(w, r, "", zeroTime, bytes.NewReader(s.data[path.Base(r.URL.Path)]))
	}
}

// add makes the server keep an artefact.
func (s *kept) add(name string, b []byte) {
	sum := sha256.Sum256(b)
	id := fmt.Sprintf("id-%d", len(s.list))
	s.data[id] = b
	s.list[id] = Artifact{Path: strings.Split(name, "/"), Size: int64(len(b)), SHA256: hex.EncodeToString(sum[:])}
}

// over returns the server and a way to it over TCP.
func over(t *testing.T) (*kept, *Server) {
	s := &kept{data: map[string][]byte{}, list: map[string]Artifact{}}
	srv := httptest.NewUnstartedServer(s)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Start()
	t.Cleanup(srv.Close)
	c, err := client.New(srv.URL, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return s, &Server{Client: c, Job: "j", Build: 7}
}

var zeroTime time.Time

var discard = slog.New(slog.DiscardHandler)

func publish(t *testing.T, dir string, sink Sink, globs ...string) ([]Artifact, error) {
	return Publish(t.Context(), PublishOptions{Workspace: dir, Globs: globs, Jobs: 4, Log: discard}, sink)
}

func copyAll(t *testing.T, dir string, src Source, globs ...string) error {
	return Copy(t.Context(), CopyOptions{Workspace: dir, Globs: globs, Jobs: 4, Log: discard}, src)
}

// folder publishes into a folder and returns it.
func folder(t *testing.T, dir string, globs ...string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "new", "out")
	f, err := CreateFolder(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = publish(t, dir, f, globs...); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return to
}

// same compares two trees without their indexes.
func same(t *testing.T, a, b string) {
	t.Helper()
	read := func(dir string) map[string]string {
		m := map[string]string{}
		err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() || e.Name() == indexName {
				return err
			}
			b, err := os.ReadFile(p)
			info, _ := os.Stat(p)
			m[strings.TrimPrefix(p, dir)] = fmt.Sprintf("%v %x", info.Mode(), sha256.Sum256(b))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	x, y := read(a), read(b)
	for name := range x {
		if x[name] != y[name] {
			t.Errorf("%q: %s and %s", name, x[name], y[name])
		}
	}
	if len(x) != len(y) {
		t.Errorf("%d and %d files", len(x), len(y))
	}
}

// hostile are names that must arrive as they are.
var hostile = []string{"plain", "-rf", "two\nlines", "é ü/ß \u202e", "a b/c\td", `back\slash`, "*", "[x]", "$(id)", "#%3f?&",
	strings.Repeat("n", 255), strings.Repeat("d/", 100) + "deep", "..dots", "...", "a..b/..c"}

func TestThereAndBack(t *testing.T) {
	ws := tree(t, hostile...)
	if err := os.Chmod(filepath.Join(ws, "plain"), 0o750); err != nil {
		t.Fatal(err)
	}
	out, back := folder(t, ws, "**"), t.TempDir()
	same(t, ws, out)
	from, err := OpenFolder(out)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if err := copyAll(t, back, from, "*"); err != nil {
		t.Fatal(err)
	}
	same(t, ws, back)

	s, server := over(t)
	done, err := publish(t, ws, server, "**")
	if err != nil || len(done) != len(hostile) {
		t.Fatal(len(done), err)
	}
	for _, a := range done {
		known := s.list[a.ID]
		known.Path = a.Path // what the build would have kept
		s.list[a.ID] = known
	}
	back = t.TempDir()
	if err := copyAll(t, back, server, "*"); err != nil {
		t.Fatal(err)
	}
	os.Chmod(filepath.Join(ws, "plain"), 0o644) // a server keeps no modes
	same(t, ws, back)
}

func TestProgramsAreExecutable(t *testing.T) {
	s, server := over(t)
	for name, b := range map[string]string{"elf": "\x7fELF\x02", "script": "#!/bin/sh\n", "text": "hello", "empty": "", "hash": "#"} {
		s.add(name, []byte(b))
	}
	dir := t.TempDir()
	if err := copyAll(t, dir, server, "*"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"elf": 0o755, "script": 0o755, "text": 0o644, "empty": 0o644, "hash": 0o644} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode() != want {
			t.Error(name, info.Mode(), err)
		}
	}
}

func TestRepeatedPublication(t *testing.T) {
	ws := tree(t, "a", "b")
	to := folder(t, ws, "*")
	os.WriteFile(filepath.Join(ws, "a"), []byte("other"), 0o644)
	os.WriteFile(filepath.Join(ws, "c"), []byte("new"), 0o644)
	os.Remove(filepath.Join(ws, "b"))
	f, err := CreateFolder(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := publish(t, ws, f, "*"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(filepath.Join(to, indexName))
	var index map[string]Artifact
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	var names []string
	for id, a := range index {
		if id == "" || a.ID != "" {
			t.Errorf("id %q, %+v", id, a)
		}
		names = append(names, strings.Join(a.Path, "/"))
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Error(names)
	}
	from, err := OpenFolder(to)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if err := copyAll(t, t.TempDir(), from, "*"); err != nil {
		t.Error(err)
	}
}

// TestWritersWait: of two that publish into one folder, the index knows what
// both have put there.
func TestWritersWait(t *testing.T) {
	ws, to := tree(t, "a", "b", "c", "d"), t.TempDir()
	var wg sync.WaitGroup
	for _, glob := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			f, err := CreateFolder(t.Context(), to)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := publish(t, ws, f, glob); err != nil {
				t.Error(err)
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	f, err := OpenFolder(to)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if list, err := f.List(t.Context()); err != nil || len(list) != 4 {
		t.Error(list, err)
	}
	held, err := CreateFolder(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := CreateFolder(ctx, to); fault.Of(err) != fault.Interrupted {
		t.Error(err)
	}
}

func TestFolderInWorkspace(t *testing.T) {
	ws := tree(t, "a", "sub/b")
	for range 2 {
		f, err := CreateFolder(t.Context(), filepath.Join(ws, "sub", "out"))
		if err != nil {
			t.Fatal(err)
		}
		if done, err := publish(t, ws, f, "**"); err != nil || len(done) != 2 {
			t.Error(done, err)
		}
		f.Close()
	}
}

func TestIndexIsNoArtifact(t *testing.T) {
	f, err := CreateFolder(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := publish(t, tree(t, indexName), f, "*"); fault.Of(err) != fault.Verdict || !strings.Contains(err.Error(), "index") {
		t.Error(err)
	}
}

// TestTraps: links that wait where files are to be written.
func TestTraps(t *testing.T) {
	outside := tree(t, "victim")
	ws := tree(t, "a/b")
	for _, trap := range []string{"a -> " + outside, "a -> ../../..", "a/b -> " + outside + "/victim", "a/b/c", "a"} {
		var errs [2]error
		to := tree(t, trap)
		f, err := CreateFolder(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		_, errs[0] = publish(t, ws, f, "a/b")
		f.Close()
		s, server := over(t)
		s.add("a/b", []byte("x"))
		to = tree(t, trap)
		errs[1] = copyAll(t, to, server, "*")
		for i, err := range errs {
			if strings.HasPrefix(trap, "a/b ->") { // the link is replaced, not followed
				if err != nil {
					t.Error(i, trap, err)
				}
			} else if fault.Of(err) != fault.Verdict {
				t.Errorf("%d %s: %s: %v", i, trap, fault.Of(err), err)
			}
		}
		if left, _ := filepath.Glob(to + "/.distci-*"); len(left) > 0 {
			t.Error(left)
		}
	}
	if b, err := os.ReadFile(filepath.Join(outside, "victim")); string(b) != "victim" || err != nil {
		t.Error(string(b), err)
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 1 {
		t.Error(entries)
	}
}

// TestHostileLists: paths that are not those of files.
func TestHostileLists(t *testing.T) {
	for _, p := range [][]string{{}, {".."}, {"..", "x"}, {"a", "..", "..", "x"}, {"../x"}, {"/etc/x"}, {""}, {"a", ""}, {"."}, {"a\x00"}} {
		s, server := over(t)
		s.add("x", []byte("x"))
		a := s.list["id-0"]
		a.Path = p
		s.list["id-0"] = a
		if err := copyAll(t, t.TempDir(), server, "*"); fault.Of(err) != fault.Denied {
			t.Errorf("%q: %v", p, err)
		}
	}
}

func TestCopyOptions(t *testing.T) {
	s, server := over(t)
	s.add("bin/x", []byte("x"))
	s.add("lib/x", []byte("y"))
	s.add("lib/z", []byte("z"))
	s.add("again/z", []byte("z"))
	for _, tt := range []struct {
		target, glob string
		flatten      bool
		kind         fault.Kind
		want         string // a file, or a part of the error
	}{
		{"", "bin/*", false, fault.None, "bin/x"},
		{"in/here", "bin/*", false, fault.None, "in/here/bin/x"},
		{"./in//here/", "bin/*", true, fault.None, "in/here/x"},
		{"", "*z", true, fault.None, "z"},
		{"", "*x", true, fault.BadTicket, "two different artefacts"},
		{"../x", "*", false, fault.BadTicket, `".."`},
		{"/x", "*", false, fault.BadTicket, "absolute"},
		{"", "nothing*", false, fault.Unavailable, `"nothing*"; it has again/z, bin/x, lib/x, lib/z`},
	} {
		dir := t.TempDir()
		err := Copy(t.Context(), CopyOptions{Workspace: dir, Target: tt.target, Globs: []string{tt.glob}, Flatten: tt.flatten, Log: discard}, server)
		if fault.Of(err) != tt.kind {
			t.Errorf("%+v: %v", tt, err)
		} else if err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt, err)
		} else if _, e := os.Stat(filepath.Join(dir, tt.want)); err == nil && e != nil {
			t.Error(e)
		}
	}
}

func TestLastSuccessful(t *testing.T) {
	states := map[string]string{
		"5": `{"status": "running"}`, "4": `{"status": "complete", "result": "failure"}`,
		"2": `{"status": "complete", "result": "success"}`, "1": `{"status": "complete", "result": "success"}`,
	}
	c := client.Over(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		parts := strings.Split(r.URL.Path, "/")
		switch {
		case parts[2] == "gone":
			http.Error(w, "no such job", http.StatusNotFound)
		case len(parts) == 4 && parts[2] == "red":
			io.WriteString(w, `{"builds": [3, 4, 5]}`)
		case len(parts) == 4:
			io.WriteString(w, `{"builds": [1, 2, 3, 4, 5]}`)
		case states[parts[4]] == "":
			http.Error(w, "no such build", http.StatusNotFound)
		default:
			io.WriteString(w, `{"state": `+states[parts[4]]+`}`)
		}
	}))
	defer c.Close()
	if n, err := LastSuccessful(t.Context(), c, "j"); n != 2 || err != nil {
		t.Error(n, err)
	}
	for job, want := range map[string]string{"red": "no successful build", "gone": "no such job"} {
		if _, err := LastSuccessful(t.Context(), c, job); fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), want) {
			t.Error(err)
		}
	}
}
