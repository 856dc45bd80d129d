package worker_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/sandbox/plain"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/worker"
	"github.com/distci/distci/lib/workspace"
)

// BenchmarkStep is a no-op step in the middle of a build, with its process,
// its log and its commit.
func BenchmarkStep(b *testing.B) {
	tmp := b.TempDir()
	build := exec.Command("go", "build", "-o", tmp, "../../cmd/distci-exec", "../../cmd/distci-buildctl")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	conn, err := local.Open(b.Context(), filepath.Join(tmp, "coord.db"), local.Options{SessionTimeout: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	st, err := dir.Open(filepath.Join(tmp, "store"))
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	r, err := repo.Open(b.Context(), conn, st, queue.Options{})
	if err != nil {
		b.Fatal(err)
	}
	const steps = 20
	one := `{"type":"execute-shell","params":{"script":":"}}`
	if err := r.PutJob(b.Context(), "noop", fmt.Appendf(nil, `{"job_id":"noop","tasks":[%s%s]}`, strings.Repeat(one+",", steps-1), one)); err != nil {
		b.Fatal(err)
	}
	cache, err := workspace.OpenCache(filepath.Join(tmp, "layers"), 1<<30)
	if err != nil {
		b.Fatal(err)
	}
	sb, err := plain.New()
	if err != nil {
		b.Fatal(err)
	}
	defer sb.Close()
	w, err := worker.New(worker.Options{Repo: r, Layers: workspace.NewLayers(st, cache, workspace.Limits{}), Sandbox: sb, Name: "w",
		Dir: filepath.Join(tmp, "work"), Slots: 1, Loop: true, Session: time.Minute, Grace: time.Second,
		Log: slog.New(slog.DiscardHandler), Tools: worker.Tools{Path: []string{tmp}}})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	drain := make(chan struct{})
	done := make(chan error)
	go func() {
		_, err := w.Run(b.Context(), drain)
		done <- err
	}()
	n := ticket.Number(0)
	for i := 0; b.Loop(); i++ {
		if i%steps != 0 {
			continue
		}
		if _, err := r.Trigger(b.Context(), "noop", nil); err != nil {
			b.Fatal(err)
		}
		for n++; ; time.Sleep(20 * time.Millisecond) {
			s, err := r.Build(b.Context(), "noop", n)
			if err != nil {
				b.Fatal(err)
			}
			if s.State.Status == "complete" {
				break
			}
		}
	}
	close(drain)
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}
