package build

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/ticket"
)

// finished plays a job to its end; a step's result is that of its key.
func finished(t *testing.T, b *Build, post []*ticket.Ticket, results map[string]string) {
	t.Helper()
	for post[0].Step != "" {
		end := done(post[0], results[post[0].Step])
		if end.Result == "" {
			end.Result = ticket.Success
		}
		end.Workspace = append(end.Workspace, fmt.Sprintf("sha256:%d.%s", b.Number, end.Step))
		var err error
		if post, err = b.Advance(end, t0); err != nil || len(post) != 1 {
			t.Fatalf("posted %v, %v", post, err)
		}
	}
	b.Finish(nil, t0)
}

// shown is who has run each step, with its result.
func shown(b *Build) string {
	var s []string
	for _, key := range b.State.Keys() {
		t := b.State.Tasks[key]
		ran := fmt.Sprint(b.Number)
		if raw, ok := t.Extra[FieldTakenOver]; ok {
			ran = string(raw)
		} else if t.ID == "" {
			ran = "-"
		}
		s = append(s, ran+t.Result[:1])
	}
	return strings.Join(s, " ")
}

// retryJob has a step 2 that runs after a failure, too.
const retryJob = `{"job_id": "j", "tasks": [{"type": "a"}, {"type": "b", "env": {"X": "1"}},
	{"type": "publish-artifacts", "params": {"artifacts": ["x"], "always": true}}, {"type": "c"}, {"type": "d"}]}`

// TestRetry retries from each step after each way to fail, and looks at what
// is run again; s, f, c are results, before it the build that ran the step.
func TestRetry(t *testing.T) {
	j, err := job.Parse([]byte(retryJob))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ fails, from, want string }{
		{"0", "", "2s 2s 2s 2s 2s"},
		{"1", "", "1s 2s 2s 2s 2s"},
		{"2", "", "1s 1s 2s 2s 2s"},
		{"4", "", "1s 1s 1s 1s 2s"},
		{"4", "2", "1s 1s 2s 2s 2s"},
		{"4", "0", "2s 2s 2s 2s 2s"},
		{"none", "3", "1s 1s 1s 2s 2s"},
		{"none", "", "no step has failed"},
		{"0", "2", "1f 1c 2s -c -c"}, // it runs always; so it may
		{"0", "1", "cannot be retried from there: not run: step 0: failure"},
		{"1", "3", "cannot be retried from there: not run: step 1: failure"},
		{"1", "9", `step "9": the build has none`},
	} {
		old, _ := New("j", 1, &Cause{Kind: "request"}, t0)
		finished(t, old, old.Start(j, t0), map[string]string{tt.fails: ticket.Failure})
		from, err := old.State.RetryFrom(tt.from)
		if err != nil {
			if fault.Of(err) != fault.Usage || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s fails, from %q: %v", tt.fails, tt.from, err)
			}
			continue
		}
		before := shown(old)
		b, _ := New("j", 2, &Cause{Kind: KindRetry, Number: 1, From: from}, t0.Add(time.Hour))
		post, err := b.Restart(&old.State, t0.Add(time.Hour))
		if err != nil || len(post) != 1 || post[0].Step != from || post[0].BuildNumber != 2 {
			t.Errorf("%s fails, from %q: posted %v, %v", tt.fails, tt.from, post, err)
			continue
		}
		if len(post[0].Workspace) > 0 && !strings.HasPrefix(post[0].Workspace[0], "sha256:1.") {
			t.Errorf("from %q: it begins with %v", tt.from, post[0].Workspace)
		}
		finished(t, b, post, nil)
		if got := shown(b); got != tt.want {
			t.Errorf("%s fails, from %q: %s, want %s", tt.fails, tt.from, got, tt.want)
		}
		if step := b.State.Tasks["1"]; from == "1" && (step.Env["X"] != "1" || step.Type != "b" || step.Retry != 3) {
			t.Errorf("a step that is run again is %+v", step)
		}
		if shown(old) != before {
			t.Error("the build that was retried has changed")
		}
		// A retry of the retry tells who has run the step in the first place.
		c, _ := New("j", 3, &Cause{Kind: KindRetry, Number: 2, From: "4"}, t0)
		if strings.HasSuffix(tt.want, "2s") {
			if post, err := c.Restart(&b.State, t0); err != nil {
				t.Error(err)
			} else if finished(t, c, post, nil); shown(c) != strings.TrimSuffix(tt.want, "2s")+"3s" {
				t.Errorf("retried twice: %s, want %s", shown(c), tt.want)
			}
		}
	}
}
