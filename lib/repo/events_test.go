package repo_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/repo/repotest"
)

// changes collects what a follower is told, as "#1 running" and "#1.0 pending".
type changes struct {
	mu   sync.Mutex
	list []string
	news chan struct{}
}

func (c *changes) take(cs []repo.Change) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range cs {
		var d struct{ Status, Result string }
		if err := json.Unmarshal(k.Data, &d); err != nil {
			return err
		}
		place := fmt.Sprintf("#%d", k.Number)
		if k.Kind == repo.ChangeStep {
			place += "." + k.Step
		}
		c.list = append(c.list, strings.TrimSpace(place+" "+d.Status+" "+d.Result))
	}
	select {
	case c.news <- struct{}{}:
	default:
	}
	return nil
}

// until waits until the follower was told something.
func (c *changes) until(t *testing.T, what string) {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		c.mu.Lock()
		found := slices.Contains(c.list, what)
		c.mu.Unlock()
		if found {
			return
		}
		select {
		case <-c.news:
		case <-timeout:
			t.Fatalf("waited in vain for %s; there was %v", what, c.list)
		}
	}
}

// TestChanges follows one build and all of them.
func TestChanges(t *testing.T) {
	w := repotest.New(t)
	repotest.PutJob(t, w.Repo, "job", "")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	all := &changes{news: make(chan struct{}, 1)}
	wg.Go(func() {
		if err := w.Repo.WatchAllChanges(ctx, all.take); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	if err := w.Repo.WatchBuildChanges(ctx, "job", 1, all.take); !errors.Is(err, repo.ErrNoBuild) {
		t.Errorf("no build: %v", err)
	}
	if _, err := w.Repo.Trigger(ctx, "job", nil); err != nil {
		t.Fatal(err)
	}
	all.until(t, "#1 preparing")
	one := make([]*changes, 3)
	ended := make(chan struct{})
	var followers sync.WaitGroup
	for i := range one {
		one[i] = &changes{news: make(chan struct{}, 1)}
		followers.Go(func() {
			if err := w.Repo.WatchBuildChanges(ctx, "job", 1, one[i].take); err != nil {
				t.Error(err)
			}
		})
	}
	go func() { followers.Wait(); close(ended) }()
	one[0].until(t, "#1 preparing")
	x := w.Worker()
	turn := func() {
		if more, err := x.Turn(ctx); err != nil || !more {
			t.Fatal(more, err)
		}
	}
	turn()
	one[1].until(t, "#1.0 pending")
	one[1].until(t, "#1 running")
	all.until(t, "#1.0 pending")
	c, err := w.Repo.Queue().Claim(ctx, []string{"make_a_v1"}, "x", nil)
	if err != nil || c == nil {
		t.Fatal(c, err)
	}
	one[2].until(t, "#1.0 running")
	all.until(t, "#1.0 running")
	if err := c.Release(ctx, fault.Errorf(fault.Interrupted, "given back"), false); err != nil {
		t.Fatal(err)
	}
	one[0].mu.Lock()
	one[0].list = nil
	one[0].mu.Unlock()
	settle(t, x)
	one[0].until(t, "#1.1 complete success")
	<-ended // each of them
	for _, o := range one {
		if last := o.list[len(o.list)-1]; last != "#1 complete success" {
			t.Errorf("the last change is %s", last)
		}
	}
	all.until(t, "#1 complete success")
	// Of what is over one learns how it is.
	late := &changes{news: make(chan struct{}, 1)}
	if err := w.Repo.WatchBuildChanges(ctx, "job", 1, late.take); err != nil || fmt.Sprint(late.list) != "[#1.0 complete success #1.1 complete success #1 complete success]" {
		t.Errorf("%v, %v", late.list, err)
	}
	if _, err := w.Repo.Trigger(ctx, "job", nil); err != nil {
		t.Fatal(err)
	}
	all.until(t, "#2 preparing")
	if err := w.Repo.DeleteBuild(ctx, "job", 2); err != nil {
		t.Fatal(err)
	}
	all.until(t, "#2 deleted")
}
