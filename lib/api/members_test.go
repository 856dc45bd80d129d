package api_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/ticket"
)

// TestMembersAndQueue: what a worker that speaks REST has is shown with it, and
// what waits with its age; an empty list is a list.
func TestMembersAndQueue(t *testing.T) {
	l := newLab(t)
	if got := l.want(200, "GET", "/members", "").body; got != `{"members":[]}` {
		t.Errorf("nobody: %s", got)
	}
	if got := l.want(200, "GET", "/queue", "").body; got != `{"queue":[]}` {
		t.Errorf("nothing: %s", got)
	}
	l.job("j", 1)
	l.control()
	l.claim(l.pending(), "script")
	l.want(201, "POST", "/tasks", `{"id":"01000000-0000-7000-8000-000000000000","status":"pending","capabilities":["z","a"]}`)
	l.want(201, "POST", "/tasks", `{"status":"pending"}`)

	var members struct{ Members []map[string]any }
	r := l.want(200, "GET", "/members", "")
	if err := json.Unmarshal([]byte(r.body), &members); err != nil || len(members.Members) != 1 || r.Header.Get("Content-Type") != "application/json" {
		t.Fatalf("%v: %s", err, r.body)
	}
	m := members.Members[0]
	if m["kind"] != "rest" || m["name"] != "script" || m["id"] != nil {
		t.Errorf("the member: %s", r.body)
	}
	run := m["runs"].([]any)[0].(map[string]any)
	if run["type"] != "execute-shell" || run["job_id"] != "j" || run["build_number"] != 1.0 || run["step"] != "0" || run["attempt"] != 1.0 || !ticket.ValidID(run["ticket"].(string)) {
		t.Errorf("it runs: %s", r.body)
	}
	for field, past := range map[string]bool{"since": true, "lease_until": false} {
		if at, err := time.Parse(time.RFC3339, run[field].(string)); err != nil || at.Before(time.Now()) != past {
			t.Errorf("%s: %v, %v", field, run[field], err)
		}
	}

	var queue struct {
		Queue []struct {
			Capabilities             []string
			Priority, Ready, Running *int
			OldestAge                *float64 `json:"oldest_age"`
		}
	}
	r = l.want(200, "GET", "/queue", "")
	if err := json.Unmarshal([]byte(r.body), &queue); err != nil || len(queue.Queue) != 3 {
		t.Fatalf("%v: %s", err, r.body)
	}
	for _, q := range queue.Queue {
		if q.Priority == nil || q.Ready == nil || q.Running == nil || q.OldestAge == nil {
			t.Fatalf("something is missing: %s", r.body)
		}
		switch caps := strings.Join(q.Capabilities, " "); {
		case caps == "execute_shell_v1" && *q.Ready == 0 && *q.Running == 1 && *q.OldestAge == 0:
		case caps == "a z" && *q.Ready == 1 && *q.Running == 0 && *q.OldestAge > 1e8: // the id is of the last century
		case caps == "" && q.Capabilities != nil && *q.Ready == 1 && *q.Running == 0 && *q.OldestAge < 600:
		default:
			t.Errorf("%q: %s", caps, r.body)
		}
	}
}

// TestProblems: errors of what is new here are problem details; those of what
// the original had are text.
func TestProblems(t *testing.T) {
	l := newLab(t)
	for _, c := range []struct {
		method, path string
		code         int
		problem      bool
	}{
		{"POST", "/members", 405, true},
		{"DELETE", "/queue", 405, true},
		{"GET", "/members/x", 404, true},
		{"GET", "/queue/x/y", 404, true},
		{"GET", "/jobs/nosuch", 404, false},
		{"POST", "/jobs", 400, false},
		{"GET", "/nosuch", 404, false},
	} {
		r := l.want(c.code, c.method, c.path, "")
		var p struct {
			Title, Detail string
			Status        int
		}
		err := json.Unmarshal([]byte(r.body), &p)
		isProblem := r.Header.Get("Content-Type") == "application/problem+json"
		if isProblem != c.problem || c.problem && (err != nil || p.Status != c.code || p.Title != http.StatusText(c.code) || p.Detail == "") {
			t.Errorf("%s %s: %s %s", c.method, c.path, r.Header.Get("Content-Type"), r.body)
		}
	}
	if r := l.want(200, "HEAD", "/queue", ""); r.body != "" {
		t.Errorf("HEAD: %s", r.body)
	}
}

// TestMembersAreNotForSteps: a step does not learn who is there.
func TestMembersAreNotForSteps(t *testing.T) {
	l := newLab(t)
	h := api.Scoped(api.New(l.repo, api.Options{}), "j", 1)
	for _, path := range []string{"/members", "/queue"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		if w.Code != 403 {
			t.Errorf("%s: status %d", path, w.Code)
		}
	}
}
