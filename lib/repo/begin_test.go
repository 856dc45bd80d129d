package repo_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/repo/repotest"
	"github.com/distci/distci/lib/ticket"
)

const paramJob = `{"job_id": "j", "parameters": {"P": "0"}, "tasks": [
	{"type": "git-checkout", "params": {"repository": "r", "ref": "main"}},
	{"type": "execute-shell", "params": {"script": ":"}, "env": {"E": "1"}}]}`

func putJob(t *testing.T, r *repo.Repo, config string) {
	t.Helper()
	if err := r.PutJob(t.Context(), "j", []byte(config)); err != nil {
		t.Fatal(err)
	}
}

// TestBegin: what a build is begun with is in its record and in its steps.
func TestBegin(t *testing.T) {
	w := repotest.New(t)
	putJob(t, w.Repo, paramJob)
	b, repeated, err := w.Repo.Begin(t.Context(), "j", repo.Start{Cause: &build.Cause{Kind: "request"}, Parameters: map[string]string{"P": "1"}, Ref: "v1"})
	if err != nil || repeated || b.Number != 1 {
		t.Fatal(b, repeated, err)
	}
	if more, err := w.Worker().Turn(t.Context()); err != nil || !more {
		t.Fatal(more, err)
	}
	s, err := w.Repo.Build(t.Context(), "j", 1)
	if err != nil || s.State.Status != build.Running {
		t.Fatal(s, err)
	}
	if s.State.Parameters["P"] != "1" || s.State.Ref != "v1" {
		t.Errorf("the record has %v and %q", s.State.Parameters, s.State.Ref)
	}
	if t0, t1 := s.State.Tasks["0"], s.State.Tasks["1"]; !strings.Contains(string(t0.Params), `"v1"`) || fmt.Sprint(t1.Env) != "map[E:1 P:1]" {
		t.Errorf("the steps have %s and %v", t0.Params, t1.Env)
	}
	for _, s := range []repo.Start{
		{Parameters: map[string]string{"Q": "1"}},
		{Parameters: map[string]string{"CI_REF": "1"}, Cause: &build.Cause{Kind: "request"}},
		{Ref: "a b"}, {Key: "a\nb"}, {Key: strings.Repeat("x", 256)},
	} {
		if _, _, err := w.Repo.Begin(t.Context(), "j", s); fault.Of(err) != fault.Usage {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if _, _, err := w.Repo.Begin(t.Context(), "j", repo.Start{Parameters: map[string]string{"CI_REF": "1"}, Cause: &build.Cause{Kind: "webhook"}}); err != nil {
		t.Error(err)
	}
	if _, _, err := w.Repo.Begin(t.Context(), "absent", repo.Start{Ref: "x"}); !errors.Is(err, repo.ErrNoJob) {
		t.Error(err)
	}
}

// TestKey: one key begins one build, whoever asks at the same time, whatever
// has become of the build.
func TestKey(t *testing.T) {
	w := repotest.New(t)
	putJob(t, w.Repo, paramJob)
	others := []*repo.Repo{w.Repo, w.Open(w.Store.Open()), w.Open(w.Store.Open())}
	s := repo.Start{Parameters: map[string]string{"P": "1"}, Key: "k"}
	var mu sync.Mutex
	first, numbers := 0, map[ticket.Number]int{}
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			b, repeated, err := others[i%3].Begin(t.Context(), "j", s)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			numbers[b.Number]++
			if !repeated {
				first++
			}
		})
	}
	wg.Wait()
	if len(numbers) != 1 || numbers[1] != 30 || first != 1 {
		t.Fatalf("the key began %v, %d of them said that they did", numbers, first)
	}
	if _, _, err := w.Repo.Begin(t.Context(), "j", repo.Start{Key: "k"}); !errors.Is(err, repo.ErrKeyReused) {
		t.Errorf("another request with the key: %v", err)
	}
	if b, repeated, err := w.Repo.Begin(t.Context(), "j", repo.Start{Key: "l"}); err != nil || repeated || b.Number != 2 {
		t.Errorf("another key: %v, %v, %v", b, repeated, err)
	}
	if err := w.Repo.DeleteBuild(t.Context(), "j", 1); err != nil {
		t.Fatal(err)
	}
	if b, repeated, err := w.Repo.Begin(t.Context(), "j", s); err != nil || !repeated || b.Number != 1 {
		t.Errorf("after the build's deletion: %v, %v, %v", b, repeated, err)
	}
	if err := w.Repo.DeleteJob(t.Context(), "j"); err != nil {
		t.Fatal(err)
	}
	putJob(t, w.Repo, paramJob)
	for _, want := range []bool{false, true} {
		if b, repeated, err := w.Repo.Begin(t.Context(), "j", s); err != nil || repeated != want || b.Number != 1 {
			t.Errorf("after the job's deletion: %v, %v, %v", b, repeated, err)
		}
	}
	if b, repeated, err := w.Repo.Begin(t.Context(), "j", repo.Start{Key: "l"}); err != nil || repeated || b.Number != 2 {
		t.Errorf("after the job's deletion: %v, %v, %v", b, repeated, err)
	}
}

// lossy loses the answer to the next transactions that create a build.
type lossy struct {
	coord.Conn
	lose int
}

func (l *lossy) Txn(ctx context.Context, ops ...coord.Op) ([]coord.Stat, error) {
	stats, err := l.Conn.Txn(ctx, ops...)
	if l.lose > 0 && len(ops) > 1 && strings.HasPrefix(ops[1].Path, "/builds/") && err == nil {
		l.lose--
		return nil, coord.ErrUnknown
	}
	return stats, err
}

// TestKeyAnswerLost: whoever has got no answer asks again, elsewhere, and begins
// no second build.
func TestKeyAnswerLost(t *testing.T) {
	w := repotest.New(t)
	putJob(t, w.Repo, paramJob)
	l := &lossy{Conn: w.Conn, lose: 1}
	r, err := repo.Open(t.Context(), l, w.Store.Open(), queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, _, err := r.Begin(t.Context(), "j", repo.Start{Key: "k"})
	if err != nil || b.Number != 1 {
		t.Fatal(b, err)
	}
	if b, repeated, err := w.Repo.Begin(t.Context(), "j", repo.Start{Key: "k"}); err != nil || !repeated || b.Number != 1 {
		t.Fatal(b, repeated, err)
	}
}

// TestKeysAreForgotten: those of days ago go, those of yesterday count.
func TestKeysAreForgotten(t *testing.T) {
	w := repotest.New(t)
	putJob(t, w.Repo, paramJob)
	today := time.Now().Unix() / 86400
	for _, ago := range []int64{3, 20} {
		for i := range 250 {
			folder := fmt.Sprintf("/keys/%d/%02x", today-ago, i%2)
			if err := coord.EnsurePath(t.Context(), w.Conn, fmt.Sprintf("%s/%03d", folder, i)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 12 {
		if _, _, err := w.Repo.Begin(t.Context(), "j", repo.Start{Key: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	days, err := w.Conn.Children(t.Context(), "/keys")
	if err != nil || len(days) > 2 { // it may be midnight
		t.Errorf("%v, %v", days, err)
	}
	folders, err := w.Conn.Children(t.Context(), "/keys/"+days[0])
	if err != nil || len(folders) == 0 {
		t.Fatal(folders, err)
	}
	// A day later the key counts still.
	for _, f := range folders {
		from := "/keys/" + days[0] + "/" + f
		names, err := w.Conn.Children(t.Context(), from)
		if err != nil {
			t.Fatal(err)
		}
		to := fmt.Sprintf("/keys/%d/%s", today-1, f)
		if err := coord.EnsurePath(t.Context(), w.Conn, to); err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			data, _, err := w.Conn.Get(t.Context(), from+"/"+n)
			if err == nil {
				_, err = w.Conn.Txn(t.Context(), coord.Delete(from+"/"+n, coord.AnyVersion), coord.Create(to+"/"+n, data))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if b, repeated, err := w.Repo.Begin(t.Context(), "j", repo.Start{Key: "3"}); err != nil || !repeated || b.Number != 4 {
		t.Error(b, repeated, err)
	}
}
