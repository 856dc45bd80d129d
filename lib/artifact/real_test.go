package artifact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/api/client"
	coordlocal "github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/ticket"
)

// flaky is a store that fails as the test says.
type flaky struct {
	store.Store
	mu   sync.Mutex
	room int64 // for the next Put; -1: any
	cut  int   // so many of the next Gets break in the middle
	gets int
}

func (s *flaky) Put(ctx context.Context, key string, r io.Reader) (store.Info, error) {
	if s.room >= 0 && !strings.HasSuffix(key, ".json") {
		if n, err := io.Copy(io.Discard, io.LimitReader(r, s.room+1)); err != nil || n > s.room {
			return store.Info{}, errors.Join(err, store.ErrFull)
		}
	}
	return s.Store.Put(ctx, key, r)
}

func (s *flaky) Get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	r, info, err := s.Store.Get(ctx, key, offset, n)
	if err != nil || n == 0 || info.Size < 1000 {
		return r, info, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gets++; s.cut > 0 {
		s.cut--
		half := (info.Size - offset) / 2
		return &broken{io.LimitReader(r, half), r}, info, nil
	}
	return r, info, nil
}

// broken ends too early.
type broken struct {
	io.Reader
	io.Closer
}

func (b *broken) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = fault.Errorf(fault.Temporary, "the store went away")
	}
	return n, err
}

// scoped serves the part of the REST interface of the build j #1 on a unix
// socket, as distci-claim does for a step, over a store that can be made to
// fail.
func scoped(t *testing.T, o api.Options) (*flaky, *Server) {
	t.Helper()
	tmp, err := os.MkdirTemp("", "distci-") // a short name, for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	conn, err := coordlocal.Open(t.Context(), filepath.Join(tmp, "coord.db"), coordlocal.Options{SessionTimeout: time.Minute, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	st, err := dir.Open(filepath.Join(tmp, "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	s := &flaky{Store: st, room: -1}
	r, err := repo.Open(t.Context(), conn, s, queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.PutJob(t.Context(), "j", []byte(`{"job_id":"j","tasks":[{"type":"execute-shell","params":{"script":":"}}]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Trigger(t.Context(), "j", nil); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(api.Scoped(api.New(r, o), "j", 1))
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	if srv.Listener, err = net.Listen("unix", filepath.Join(tmp, "api")); err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(srv.Close)
	c, err := client.New("unix:"+filepath.Join(tmp, "api"), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return s, &Server{Client: c, Job: "j", Build: 1}
}

// published is a server whose list is what a step would have made it: the
// build of these tests has none.
type published struct {
	*Server
	list map[string]Artifact
}

func (p *published) List(context.Context) (map[string]Artifact, error) { return p.list, nil }

func publishedBy(server *Server, done []Artifact) *published {
	list := map[string]Artifact{}
	for _, a := range done {
		list[a.ID] = a
	}
	return &published{server, list}
}

// TestScopedSocket: any name and any size goes there and back, and a broken
// transfer is taken up where it was.
func TestScopedSocket(t *testing.T) {
	s, server := scoped(t, api.Options{})
	ws := tree(t, hostile...)
	large := bytes.Repeat([]byte("0123456789"), 300_000)
	for name, b := range map[string][]byte{"large": large, "empty": nil, "one": {0}} {
		if err := os.WriteFile(filepath.Join(ws, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	done, err := publish(t, ws, server, "**")
	if err != nil || len(done) != len(hostile)+3 {
		t.Fatal(len(done), err)
	}
	src, back := publishedBy(server, done), t.TempDir()
	s.cut, s.gets = 3, 0
	if err := copyAll(t, back, src, "*"); err != nil {
		t.Fatal(err)
	}
	if s.cut != 0 || s.gets != 4 {
		t.Errorf("%d reads of the large file, %d breaks to come", s.gets, s.cut)
	}
	same(t, ws, back)
	output := t.TempDir()
	if err := downloadTo(t, t.Context(), src, output); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(output, "large")); !bytes.Equal(b, large) || err != nil {
		t.Error(len(b), err)
	}
}

// TestDamagedInStore: what the store has damaged is not copied.
func TestDamagedInStore(t *testing.T) {
	s, server := scoped(t, api.Options{})
	for name, size := range map[string]int{"small": 10, "large": 1 << 20} {
		ws := t.TempDir()
		if err := os.WriteFile(filepath.Join(ws, name), bytes.Repeat([]byte("x"), size), 0o644); err != nil {
			t.Fatal(err)
		}
		done, err := publish(t, ws, server, "*")
		if err != nil {
			t.Fatal(err)
		}
		infos, err := s.List(t.Context(), "builds/", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range infos {
			if strings.HasSuffix(i.Key, "/"+done[0].ID) {
				if _, err := s.Store.Put(t.Context(), i.Key, bytes.NewReader(bytes.Repeat([]byte("y"), size))); err != nil {
					t.Fatal(err)
				}
			}
		}
		to := t.TempDir()
		if err := copyAll(t, to, publishedBy(server, done), "*"); fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), "artifact: "+name+": ") {
			t.Errorf("%s: %s, %v", name, fault.Of(err), err)
		}
		if entries, _ := os.ReadDir(to); len(entries) > 0 {
			t.Error("left behind:", entries)
		}
	}
}

// TestUploadBounds: what cannot be stored is an error that names the file, at
// the first attempt, and leaves nothing.
func TestUploadBounds(t *testing.T) {
	s, server := scoped(t, api.Options{MaxUpload: 2 << 20})
	const name = "a b/ü\nx"
	write := func(size int) string {
		ws := tree(t, name)
		if err := os.WriteFile(filepath.Join(ws, name), bytes.Repeat([]byte("x"), size), 0o644); err != nil {
			t.Fatal(err)
		}
		return ws
	}
	objects := func() string {
		infos, err := s.List(t.Context(), "builds/", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(infos)
	}
	before := objects()
	ws := write(2<<20 + 1)
	if _, err := publish(t, ws, server, "**"); fault.Of(err) != fault.BadTicket || !strings.Contains(err.Error(), `"a b/ü\nx"`) || !strings.Contains(err.Error(), "at most 2097152 bytes") {
		t.Errorf("too large: %s, %v", fault.Of(err), err)
	}
	s.room = 1 << 20
	ws = write(2 << 20)
	if _, err := publish(t, ws, server, "**"); fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), `"a b/ü\nx"`) || !strings.Contains(err.Error(), "no space left in the store") {
		t.Errorf("a full store: %s, %v", fault.Of(err), err)
	}
	s.room = -1
	posts := 0
	sink := &meddler{Sink: server, do: func() {
		posts++
		if err := os.Truncate(filepath.Join(ws, name), 100_000); err != nil {
			t.Error(err)
		}
	}}
	if _, err := publish(t, ws, sink, "**"); fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), `"a b/ü\nx": the file became shorter`) || posts != 1 {
		t.Errorf("a file that shrinks: %s, %v", fault.Of(err), err)
	}
	if after := objects(); after != before {
		t.Errorf("left behind:\n%s\nbefore:\n%s", after, before)
	}
	if done, err := publish(t, write(2<<20), server, "**"); err != nil || done[0].Size != 2<<20 {
		t.Error(err)
	}
}

// TestNotMine: the socket of one build takes nothing for another.
func TestNotMine(t *testing.T) {
	_, server := scoped(t, api.Options{})
	other := &Server{Client: server.Client, Job: "j", Build: ticket.Number(2)}
	if _, err := publish(t, tree(t, "a"), other, "a"); fault.Of(err) != fault.Denied || client.Status(err) != http.StatusForbidden {
		t.Error(err)
	}
}
