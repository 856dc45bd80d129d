package worker_test

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/plain"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/worker"
	"github.com/distci/distci/lib/workspace"
)

// site is a cluster on this machine, in a folder: the real tools, the embedded
// coordination and the local store.
type site struct {
	testing.TB
	dir   string
	tools string
	store store.Store
	// There is one in a process, as it looks after all children.
	sandbox sandbox.Sandbox
}

func newSite(tb testing.TB) *site {
	s := &site{TB: tb, dir: tb.TempDir()}
	s.tools = s.path("tools")
	build := exec.Command("go", "build", "-o", s.tools+"/", "../../cmd/distci-exec", "../../cmd/distci-buildctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("%v\n%s", err, out)
	}
	st, err := dir.Open(s.path("store"))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { st.Close() })
	sb, err := plain.New()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { sb.Close() })
	s.store, s.sandbox = st, sb
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// connect begins a session.
func (s *site) connect() coord.Conn {
	s.Helper()
	conn, err := local.Open(s.Context(), s.path("coord.db"), local.Options{SessionTimeout: time.Minute})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { conn.Close() })
	return conn
}

func (s *site) repo(conn coord.Conn) *repo.Repo {
	s.Helper()
	r, err := repo.Open(s.Context(), conn, s.store, queue.Options{})
	if err != nil {
		s.Fatal(err)
	}
	return r
}

// putJob sets a job of scripts, one a step.
func (s *site) putJob(r *repo.Repo, id string, scripts ...string) {
	s.Helper()
	var tasks []string
	for _, script := range scripts {
		tasks = append(tasks, fmt.Sprintf(`{"type":"execute-shell","params":{"script":%q}}`, script))
	}
	config := fmt.Sprintf(`{"job_id":%q,"tasks":[%s]}`, id, strings.Join(tasks, ","))
	if err := r.PutJob(s.Context(), id, []byte(config)); err != nil {
		s.Fatal(err)
	}
}

// work starts a worker, and returns a function that lets it bring its step to
// an end and go. It looks for work, and after its claims, as often as one with
// the session time-out pace does.
func (s *site) work(name string, r *repo.Repo, pace time.Duration, log io.Writer) (end func()) {
	s.Helper()
	cache, err := workspace.OpenCache(s.path("layers"), 1<<30)
	if err != nil {
		s.Fatal(err)
	}
	w, err := worker.New(worker.Options{Repo: r, Layers: workspace.NewLayers(s.store, cache, workspace.Limits{}), Sandbox: s.sandbox, Name: name,
		Dir: s.path("work"), Slots: 1, Loop: true, Session: pace, Grace: time.Second,
		Log: slog.New(slog.NewTextHandler(log, nil)), Tools: worker.Tools{Path: []string{s.tools}}})
	if err != nil {
		s.Fatal(err)
	}
	drain := make(chan struct{})
	done := make(chan error)
	go func() {
		_, err := w.Run(s.Context(), drain)
		done <- err
	}()
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		close(drain)
		if err := <-done; err != nil {
			s.Error(err)
		}
		w.Close()
	}
	s.Cleanup(end)
	return end
}
