package gc_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/gc"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/repo/repotest"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/workspace"
)

// killVar tells a process that it is to collect in a folder and to kill itself
// at an operation: "FOLDER NUMBER before|after".
const killVar = "DISTCI_GC_TEST_KILL"

func TestMain(m *testing.M) {
	if s := os.Getenv(killVar); s != "" {
		var folder, when string
		var n int
		if _, err := fmt.Sscan(s, &folder, &n, &when); err != nil {
			panic(err)
		}
		if err := collectIn(folder, func(s store.Store) store.Store { return &killer{s, n, when == "after"} }); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// openIn opens the cluster in a folder.
func openIn(folder string, wrap func(store.Store) store.Store) (*repo.Repo, func(), error) {
	s, err := dir.Open(filepath.Join(folder, "store"))
	if err != nil {
		return nil, nil, err
	}
	conn, err := local.Open(context.Background(), filepath.Join(folder, "coord.db"), local.Options{SessionTimeout: time.Second})
	if err != nil {
		return nil, nil, err
	}
	r, err := repo.Open(context.Background(), conn, wrap(s), queue.Options{})
	return r, func() { conn.Close(); s.Close() }, err
}

func same(s store.Store) store.Store { return s }

// collectIn collects, three days later.
func collectIn(folder string, wrap func(store.Store) store.Store) error {
	r, done, err := openIn(folder, wrap)
	if err != nil {
		return err
	}
	defer done()
	rep, err := gc.Run(context.Background(), r, gc.Options{Grace: grace, Jobs: 1, Now: func() time.Time { return time.Now().Add(72 * time.Hour) }})
	if err == nil && len(rep.Problems) > 0 {
		err = fmt.Errorf("%q", rep.Problems)
	}
	return err
}

// killer is a store that kills its process at the operation after n others.
type killer struct {
	store.Store
	n     int
	after bool
}

func (k *killer) at(do func() error) error {
	if k.n--; k.n >= 0 {
		return do()
	}
	if k.after {
		_ = do()
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func (k *killer) Put(ctx context.Context, key string, r io.Reader) (i store.Info, err error) {
	err = k.at(func() error { i, err = k.Store.Put(ctx, key, r); return err })
	return i, err
}

func (k *killer) Swap(ctx context.Context, key, version string, r io.Reader) (i store.Info, err error) {
	err = k.at(func() error { i, err = k.Store.Swap(ctx, key, version, r); return err })
	return i, err
}

func (k *killer) Delete(ctx context.Context, key string) error {
	return k.at(func() error { return k.Store.Delete(ctx, key) })
}

// TestKilled is TestDiesAnywhere with a real process, a real store and
// kill -9, at every third operation that changes something.
func TestKilled(t *testing.T) {
	ctx := context.Background()
	prepared := t.TempDir()
	func() {
		r, done, err := openIn(prepared, same)
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		repotest.PutJob(t, r, "job", `, "retention": {"builds": 2, "artifacts_days": 1, "workspace_days": 1}`)
		n := 0
		x := &repotest.Worker{Name: "w", Repo: r, Layers: workspace.NewLayers(r.Store(), repotest.NewCache(t), workspace.Limits{}),
			Trees: repotest.NewTrees(t, 4), Pick: func(k int) int { n++; return n % k }, Rest: func() {}, Stray: true}
		for range 3 {
			if _, err := r.Trigger(ctx, "job", &build.Cause{Kind: "request"}); err != nil {
				t.Fatal(err)
			}
			for more := true; more; {
				if more, err = x.Turn(ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
	}()
	var want string
	for n := 0; ; n += 3 {
		folder := t.TempDir()
		if err := os.CopyFS(folder, os.DirFS(prepared)); err != nil {
			t.Fatal(err)
		}
		if err := keepTimes(folder, prepared); err != nil {
			t.Fatal(err)
		}
		if want == "" {
			if err := collectIn(folder, same); err != nil {
				t.Fatal(err)
			}
			want = files(t, folder)
			n = -3
			continue
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", killVar, folder, n, []string{"before", "after"}[n%2]))
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Logf("killed at every third of %d operations", n)
			return
		}
		if s, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || s.Signal() != syscall.SIGKILL {
			t.Fatalf("operation %d: %v: %s", n, err, out)
		}
		r, done, err := openIn(folder, same)
		if err != nil {
			t.Fatal(err)
		}
		repotest.Check(t, r)
		done()
		// The dead one's right goes with its session.
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			err := collectIn(folder, same)
			if err == nil {
				break
			}
			if !strings.Contains(err.Error(), "at work") || time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		if got := files(t, folder); got != want {
			t.Fatalf("killed at operation %d: left\n%s\nwant\n%s", n, got, want)
		}
		if r, done, err = openIn(folder, same); err != nil {
			t.Fatal(err)
		}
		repotest.Check(t, r)
		done()
	}
}

// keepTimes gives copies the times of their originals.
func keepTimes(to, from string) error {
	return fs.WalkDir(os.DirFS(from), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		return os.Chtimes(filepath.Join(to, path), time.Time{}, info.ModTime())
	})
}

// files lists the objects in a folder.
func files(t *testing.T, folder string) string {
	t.Helper()
	s, err := dir.Open(filepath.Join(folder, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	infos, err := s.List(context.Background(), "", "", 10_000)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, i := range infos {
		fmt.Fprintln(&b, i.Key)
	}
	return b.String()
}
