package source_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source"
)

// poller polls and renders each event as "ref subject".
type poller struct {
	t *testing.T
	o source.PollOptions
}

func newPoller(t *testing.T, url string, refs ...string) *poller {
	return &poller{t, source.PollOptions{Repository: url, Refs: refs, State: filepath.Join(t.TempDir(), "dir", "state"),
		Access: source.Access{Mirror: t.TempDir()}}}
}

func (p *poller) want(want ...string) {
	p.t.Helper()
	var got []string
	err := source.Poll(p.t.Context(), p.o, func(e source.Event) error {
		if e.Repository != p.o.Repository || len(e.Commit) != 40 || e.Author == "" || e.Time.IsZero() || e.Parents == nil {
			p.t.Errorf("%+v", e)
		}
		got = append(got, strings.TrimPrefix(e.Ref, "refs/")+" "+e.Subject)
		return nil
	})
	if err != nil {
		p.t.Fatal(err)
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		p.t.Errorf("got:\n%s\nwant:\n%s", g, w)
	}
}

func TestPoll(t *testing.T) {
	r := newRepo(t)
	p := newPoller(t, r.dir)
	p.want() // empty: nothing, and no error
	r.commit("1", nil)
	r.commit("2", nil)
	p.want("heads/main 1", "heads/main 2") // it has been looked at before
	p.want()
	r.commit("3", nil)
	r.commit("4", nil)
	p.want("heads/main 3", "heads/main 4")

	// A branch at an old commit is told by its tip; one with commits of its own
	// by these.
	r.git("branch", "old", "main~1")
	r.git("checkout", "-q", "-b", "side", "main~2")
	r.commit("s1", nil)
	r.commit("s2", nil)
	p.want("heads/old 3", "heads/side s1", "heads/side s2")

	// A merge brings its commits to the branch, parents before children.
	r.git("checkout", "-q", "main")
	r.git("merge", "-q", "-m", "merged", "side")
	p.want("heads/main s1", "heads/main s2", "heads/main merged")

	// By force: what is new, or the tip if nothing is.
	r.git("reset", "-q", "--hard", "main~1")
	p.want("heads/main 4")
	r.git("commit", "-q", "--amend", "--allow-empty", "-m", "4 again")
	p.want("heads/main 4 again")

	// What is gone is forgotten, and new when it comes back.
	r.git("branch", "-D", "old")
	p.want()
	r.git("branch", "old", "main~1")
	p.want("heads/old 3")

	// The mirror is only a cache.
	if err := os.RemoveAll(p.o.Mirror); err != nil {
		t.Fatal(err)
	}
	r.commit("5", nil)
	p.want("heads/main 5")
	p.o.Mirror = ""
	r.commit("6", nil)
	p.want("heads/main 6")
}

func TestPollFirst(t *testing.T) {
	r := sample(t)
	newPoller(t, r.dir).want("heads/main third", "heads/topic/x on topic")
	newPoller(t, r.dir, "topic/*", "v*").want("heads/topic/x on topic", "tags/v1 first", "tags/v2 second")
	newPoller(t, r.dir, "refs/tags/**").want("tags/v1 first", "tags/v2 second")
	newPoller(t, r.dir, "*").want("heads/main third", "tags/v1 first", "tags/v2 second")
	p := newPoller(t, r.dir, "main")
	p.o.All = true
	p.want("heads/main first", "heads/main second", "heads/main on topic", "heads/main merged", "heads/main third")
	p.want()
}

// TestPollRepeats: what could not be handed over is told again; what could is
// remembered for each repository of a shared state file.
func TestPollRepeats(t *testing.T) {
	a, b := sample(t), sample(t)
	p := newPoller(t, a.dir, "main")
	p.want("heads/main third")
	a.commit("x", nil)
	a.commit("y", nil)
	told := 0
	err := source.Poll(t.Context(), p.o, func(source.Event) error {
		if told++; told == 2 {
			return errors.New("the pipe is closed")
		}
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "the pipe is closed") {
		t.Error(err)
	}
	p.want("heads/main x", "heads/main y")
	q := &poller{t, p.o}
	q.o.Repository = b.dir
	q.want("heads/main third")
	p.want()
	q.want()

	write(t, p.o.State, "{ not json")
	wantFault(t, source.Poll(t.Context(), p.o, nil), fault.Config, p.o.State)
	p.o.Refs = []string{"[a"}
	wantFault(t, source.Poll(t.Context(), p.o, nil), fault.Usage, "[a")
}

// TestPollTogether: of several polls at once, one tells each commit.
func TestPollTogether(t *testing.T) {
	r := sample(t)
	p := newPoller(t, r.dir, "main")
	p.want("heads/main third")
	r.commit("x", nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	told := map[string]int{}
	for range 5 {
		wg.Go(func() {
			err := source.Poll(context.Background(), p.o, func(e source.Event) error {
				mu.Lock()
				defer mu.Unlock()
				told[e.Subject]++
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(told) != 1 || told["x"] != 1 {
		t.Errorf("told: %v", told)
	}
}
