package build

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/ticket"
)

var seedFlag = flag.Uint64("seed", 0, "replay the random schedule of this seed")

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)

func linear(t *testing.T, n int) *job.Job {
	t.Helper()
	type task struct {
		Type   string         `json:"type"`
		Params map[string]any `json:"params"`
	}
	c := map[string]any{"job_id": "j", "downstream_jobs": []string{"down"}}
	var tasks []task
	for range n {
		tasks = append(tasks, task{"execute-shell", map[string]any{"script": ":"}})
	}
	c["tasks"] = tasks
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	j, err := job.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func done(t *ticket.Ticket, result string) *ticket.Ticket {
	c := t.Clone()
	c.Status, c.Result = ticket.Complete, result
	return c
}

// TestLinear takes a build of three steps from its trigger to its end.
func TestLinear(t *testing.T) {
	j := linear(t, 3)
	b, control := New("j", 1, &Cause{Kind: "request"}, t0)
	if b.State.Status != Preparing || !b.Waits(control) {
		t.Fatalf("%+v", b.State)
	}
	post := b.Start(j, t0)
	for i := range 3 {
		if len(post) != 1 || post[0].Step != fmt.Sprint(i) || post[0].BuildNumber != 1 {
			t.Fatalf("step %d: posted %+v", i, post)
		}
		if want := i; len(post[0].Workspace) != want {
			t.Errorf("step %d begins with layers %v", i, post[0].Workspace)
		}
		end := done(post[0], ticket.Success)
		end.Workspace = append(end.Workspace, fmt.Sprintf("sha256:%d", i))
		var err error
		if post, err = b.Advance(end, t0.Add(time.Duration(i)*time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Advance(end, t0); err != ErrStale {
			t.Errorf("the same end twice: %v", err)
		}
	}
	if len(post) != 1 || post[0].Type != controlType || !b.Waits(post[0]) {
		t.Fatalf("posted %+v", post)
	}
	jobs, cause := b.Finish(j, t0)
	if b.State.Status != Complete || b.State.Result != ticket.Success || !slices.Equal(jobs, []string{"down"}) || cause.Number != 1 || cause.Depth != 1 {
		t.Errorf("%+v, %v, %+v", b.State, jobs, cause)
	}
}

// TestImage: the ticket of a step names its image and asks for a worker that has
// it; it says what else the step is to have, too.
func TestImage(t *testing.T) {
	j, err := job.Parse([]byte(`{"job_id": "j", "tasks": [{"type": "foo", "image": "debian", "secrets": ["S"], "limits": {"pids": 9}, "network": "host"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := New("j", 1, nil, t0)
	post := b.Start(j, t0)
	if len(post) != 1 || post[0].Image != "debian" || !slices.Contains(post[0].Capabilities, "image_debian") ||
		!slices.Equal(post[0].Secrets, []string{"S"}) || post[0].Limits.Processes != 9 || post[0].Network != "host" {
		t.Errorf("posted %+v", post)
	}
}

func TestFailureSkipsTheRest(t *testing.T) {
	for _, result := range []string{ticket.Failure, ticket.Error} {
		j := linear(t, 3)
		b, _ := New("j", 1, nil, t0)
		post := b.Start(j, t0)
		post, err := b.Advance(done(post[0], result), t0)
		if err != nil || len(post) != 1 || post[0].Type != controlType {
			t.Fatalf("posted %+v, %v", post, err)
		}
		jobs, _ := b.Finish(j, t0)
		if b.State.Result != result || jobs != nil {
			t.Errorf("%s: result %q, triggers %v", result, b.State.Result, jobs)
		}
		if s := b.State.Tasks["2"]; s.Result != ticket.Canceled || s.Error != "not run: step 1: canceled" {
			t.Errorf("step 2: %+v", s)
		}
	}
}

func TestCancel(t *testing.T) {
	b, _ := New("j", 1, nil, t0)
	if post := b.Cancel("ann", t0); post != nil {
		t.Errorf("before its start: %+v", post)
	}
	if post := b.Start(linear(t, 2), t0); len(post) != 1 || post[0].Type != controlType {
		t.Errorf("a canceled build posts %+v", post)
	}
	b, _ = New("j", 2, nil, t0)
	post := b.Start(linear(t, 2), t0)
	if more := b.Cancel("ann", t0); more != nil {
		t.Errorf("while step 0 runs: %+v", more)
	}
	if post, _ = b.Advance(done(post[0], ticket.Canceled), t0); len(post) != 1 || post[0].Type != controlType {
		t.Errorf("%+v", post)
	}
	if b.Finish(nil, t0); b.State.Result != ticket.Canceled {
		t.Errorf("result %q", b.State.Result)
	}
}

func TestFailedStart(t *testing.T) {
	b, _ := New("j", 1, nil, t0)
	if post := b.Fail("no such job", t0); len(post) != 1 || post[0].Type != controlType {
		t.Fatalf("%+v", post)
	}
	if b.Finish(nil, t0); b.State.Result != ticket.Error || b.State.Error != "no such job" {
		t.Errorf("%+v", b.State)
	}
}

func TestTriggersInACircleEnd(t *testing.T) {
	cause := &Cause{Kind: "upstream", Depth: maxDepth}
	b, _ := New("j", 1, cause, t0)
	post := b.Start(linear(t, 1), t0)
	if _, err := b.Advance(done(post[0], ticket.Success), t0); err != nil {
		t.Fatal(err)
	}
	if jobs, _ := b.Finish(linear(t, 1), t0); jobs != nil {
		t.Errorf("at depth %d it triggers %v", maxDepth, jobs)
	}
}

// TestStateKeepsWhatItDoesNotKnow: a controller that speaks REST may put
// anything into a record.
func TestStateKeepsWhatItDoesNotKnow(t *testing.T) {
	in := `{"artifacts":{"id":["a"]},"config":{"x":1.50},"controller":"u","status":"running","tasks":{"0":{"id":"0196f1ce-0000-7000-8000-000000000000","odd":1}}}`
	var s State
	if err := json.Unmarshal([]byte(in), &s); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(s)
	if err != nil || string(out) != in {
		t.Errorf("%s, %v; want %s", out, err, in)
	}
}

// TestRandomGraphs runs random graphs of steps in random orders with random
// results and cancellations, and holds what must always hold.
func TestRandomGraphs(t *testing.T) {
	first, n := uint64(1), uint64(3000)
	if *seedFlag != 0 {
		first, n = *seedFlag, 1
	}
	for seed := first; seed < first+n; seed++ {
		if msg := randomBuild(seed); msg != "" {
			t.Fatalf("seed %d: %s (replay with -seed %d)", seed, msg, seed)
		}
	}
}

func randomBuild(seed uint64) string {
	rng := rand.New(rand.NewPCG(seed, 0))
	j := &job.Job{ID: "j"}
	size := 1 + rng.IntN(8)
	for i := range size {
		s := job.Step{Key: fmt.Sprint(i), Type: "execute-shell", When: []string{"", "", "", "always", "failure"}[rng.IntN(5)]}
		for k := range i {
			if rng.IntN(3) == 0 {
				s.Needs = append(s.Needs, fmt.Sprint(k))
			}
		}
		j.Steps = append(j.Steps, s)
	}
	b, _ := New("j", 1, nil, t0)
	open := b.Start(j, t0)
	posted, ended, finishing := map[string]int{}, map[string]string{}, 0
	canceled := false
	for now := t0; len(open) > 0; now = now.Add(time.Millisecond) {
		for _, t := range open {
			if t.Step == "" {
				finishing++
			}
		}
		i := rng.IntN(len(open))
		t := open[i]
		open = slices.Delete(open, i, i+1)
		if t.Step == "" {
			b.Finish(j, now)
			continue
		}
		posted[t.Step]++
		for _, need := range t.Needs {
			if b.State.Tasks[need].Status != ticket.Complete {
				return fmt.Sprintf("step %s was posted before %s ended", t.Step, need)
			}
		}
		if !canceled && rng.IntN(20) == 0 {
			canceled = true
			open = append(open, b.Cancel("test", now)...)
		}
		result := []string{ticket.Success, ticket.Success, ticket.Success, ticket.Failure, ticket.Error}[rng.IntN(5)]
		ended[t.Step] = result
		post, err := b.Advance(done(t, result), now)
		if err != nil {
			return err.Error()
		}
		// The record goes through JSON at every commit.
		data, err := json.Marshal(b.State)
		if err != nil {
			return err.Error()
		}
		var s State
		if err := json.Unmarshal(data, &s); err != nil {
			return err.Error()
		}
		b.State = s
		open = append(open, post...)
	}
	if finishing != 1 || b.State.Status != Complete {
		return fmt.Sprintf("finished %d times, status %q", finishing, b.State.Status)
	}
	for key, t := range b.State.Tasks {
		switch {
		case t.Status != ticket.Complete:
			return fmt.Sprintf("step %s is %q at the end", key, t.Status)
		case posted[key] > 1:
			return fmt.Sprintf("step %s was posted %d times", key, posted[key])
		case posted[key] == 1 && t.Result != ended[key]:
			return fmt.Sprintf("step %s ended with %q, the record says %q", key, ended[key], t.Result)
		case posted[key] == 0 && t.Result != ticket.Canceled:
			return fmt.Sprintf("step %s never ran, the record says %q", key, t.Result)
		}
		if !canceled && len(t.Needs) == 0 && t.When != "failure" && posted[key] == 0 {
			return fmt.Sprintf("step %s needs nothing and never ran", key)
		}
	}
	if canceled != (b.State.Result == ticket.Canceled) && canceled {
		return fmt.Sprintf("canceled, with result %q", b.State.Result)
	}
	if b.State.Result == ticket.Success {
		for key, r := range ended {
			if r != ticket.Success {
				return fmt.Sprintf("success, although step %s: %s", key, r)
			}
		}
	}
	return ""
}
