package api_test

import (
	"encoding/json"
	"encoding/xml"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
)

// TestIdempotencyKey: a repeat has the same reply, another request is refused.
func TestIdempotencyKey(t *testing.T) {
	l := newLab(t)
	l.want(200, "PUT", "/jobs/j", `{"job_id":"j","parameters":{"P":"0"},"tasks":[{"type":"git-checkout","params":{"repository":"r"}}]}`)
	body := `{"parameters":{"P":"1"},"ref":"v1"}`
	first := l.want(201, "POST", "/jobs/j/builds", body, "Idempotency-Key", "k").body
	if again := l.want(201, "POST", "/jobs/j/builds", body, "Idempotency-Key", "k").body; again != first {
		t.Errorf("%s, then %s", first, again)
	}
	l.want(422, "POST", "/jobs/j/builds", `{"ref":"v1"}`, "Idempotency-Key", "k")
	l.want(400, "POST", "/jobs/j/builds", body, "Idempotency-Key", strings.Repeat("k", 300))
	l.want(400, "POST", "/jobs/j/builds", "no JSON", "Content-Type", "application/json")
	l.want(201, "POST", "/jobs/j/builds", "no JSON") // as the original's clients may
	if s := l.state("j", 1); fmt.Sprint(s["parameters"], s["ref"]) != "map[P:1]v1" {
		t.Errorf("the record has %v", s)
	}
	if got := l.want(200, "GET", "/jobs/j/builds", "").body; !strings.Contains(got, "[1,2]") {
		t.Errorf("builds %s", got)
	}
}

// TestRetryRequest goes on with a build whose second step has failed.
func TestRetryRequest(t *testing.T) {
	l := newLab(t)
	l.job("j", 2)
	l.control()
	l.complete(200, l.claim(l.pending(), "w"), ticket.Success)
	l.complete(200, l.claim(l.pending(), "w"), ticket.Failure)
	l.control()
	for range 2 {
		r := l.want(202, "POST", "/jobs/j/builds/1/retry", "", "Idempotency-Key", "k")
		if r.body != `{"job_id":"j","build_number":2,"state":{"status":"preparing"}}` {
			t.Errorf("reply %s", r.body)
		}
	}
	l.want(422, "POST", "/jobs/j/builds/1/retry", `{"from":0}`, "Idempotency-Key", "k")
	l.want(400, "POST", "/jobs/j/builds/1/retry", `{"from":"7"}`)
	l.control()
	if p := l.pending(); p.Step != "1" || p.BuildNumber != 2 {
		t.Errorf("to be done is %+v", p)
	}
	l.complete(200, l.claim(l.pending(), "w"), ticket.Success)
	l.control()
	if s := l.state("j", 2); s["result"] != "success" || s["cause"].(map[string]any)["kind"] != build.KindRetry {
		t.Errorf("the retry is %v", s)
	}
	l.want(202, "POST", "/jobs/j/builds/1/retry", `{"from":0}`)
}

// TestPagesOfBuilds pages through builds, some of which are gone.
func TestPagesOfBuilds(t *testing.T) {
	l := newLab(t)
	l.want(200, "PUT", "/jobs/j", `{"job_id":"j"}`)
	var all []int64
	for n := range int64(60) {
		l.want(201, "POST", "/jobs/j/builds", "")
		if n%3 == 0 {
			l.control() // finished ones and such that are not
		}
		all = append(all, n+1)
	}
	l.control()
	gone := func(n int64) bool { return n > 5 && n < 45 && n != 20 || n == 58 }
	var left []int64
	for _, n := range all {
		if gone(n) {
			l.want(204, "DELETE", fmt.Sprintf("/jobs/j/builds/%d", n), "")
		} else {
			left = append(left, n)
		}
	}
	for _, limit := range []int{1, 4, 7, 1000} {
		var got []int64
		for path := fmt.Sprintf("/jobs/j/builds?limit=%d", limit); path != ""; {
			var page struct {
				Builds []int64
				Next   int64
				Last   int64 `json:"last_build_number"`
			}
			if err := json.Unmarshal([]byte(l.want(200, "GET", path, "").body), &page); err != nil || len(page.Builds) > limit {
				t.Fatal(page, err)
			}
			if len(got) == 0 && page.Last != 60 {
				t.Errorf("the last is %d", page.Last)
			}
			got = append(append([]int64{}, page.Builds...), got...)
			if path = ""; page.Next > 0 {
				path = fmt.Sprintf("/jobs/j/builds?limit=%d&before=%d", limit, page.Next)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(left) {
			t.Errorf("by %d: %v, want %v", limit, got, left)
		}
	}
	for _, q := range []string{"limit=0", "limit=x", "limit=10001", "before=0", "before=-1", "before=x"} {
		l.want(400, "GET", "/jobs/j/builds?"+q, "")
	}
	l.want(404, "GET", "/jobs/none/builds?limit=1", "")
}

// TestTaskWait: those who wait are told of a ticket, each of another one.
func TestTaskWait(t *testing.T) {
	l := newLab(t)
	l.want(204, "GET", "/tasks?wait=0&capabilities=x_v1", "")
	l.want(204, "GET", "/tasks?wait=1&capabilities=x_v1", "")
	for _, q := range []string{"wait=61", "wait=-1", "wait=x", "capabilities=a%20b", "capabilities=" + strings.Repeat("a,", 65)} {
		l.want(400, "GET", "/tasks?"+q, "")
	}
	const n = 8
	got := make(chan string, n)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			r, err := l.try("GET", "/tasks?wait=60&capabilities=x_v1,y_v1", "")
			if err != nil || r.StatusCode != 200 {
				t.Errorf("%v, %v", r, err)
				got <- ""
				return
			}
			var k task
			if err := json.Unmarshal([]byte(r.body), &k); err != nil || k.Data.Status != ticket.Pending || r.Header.Get("Etag") == "" {
				t.Errorf("%s: %v", r.body, err)
			}
			got <- k.ID
		})
	}
	ids := map[string]bool{}
	for i := range n {
		caps := []string{"x_v1", "y_v1"}[i%2]
		l.want(201, "POST", "/tasks", fmt.Sprintf(`{"type":"x","status":"pending","capabilities":[%q]}`, caps))
		id := <-got
		if ids[id] {
			t.Errorf("ticket %s was told twice", id)
		}
		ids[id] = true
		if id != "" {
			l.claim(l.want(200, "GET", "/tasks/"+id, "").task(t).Data, "w")
		}
	}
	wg.Wait()
	// What nobody has taken is told again.
	l.want(201, "POST", "/tasks", `{"type":"x","status":"pending","capabilities":["x_v1"]}`)
	first := l.want(200, "GET", "/tasks?capabilities=x_v1", "").task(t).ID
	if again := l.want(200, "GET", "/tasks?wait=60&capabilities=x_v1", "").task(t).ID; again != first {
		t.Errorf("%s, then %s", first, again)
	}
}

// TestMonitors: what badges and build monitors get.
func TestMonitors(t *testing.T) {
	l := newLab(t)
	badge := func(query, want string) {
		t.Helper()
		r := l.want(200, "GET", "/jobs/j/badge.svg"+query, "")
		if !strings.Contains(r.body, ">"+want+"<") || r.Header.Get("Content-Type") != "image/svg+xml; charset=utf-8" || xml.Unmarshal([]byte(r.body), new(struct{})) != nil {
			t.Errorf("badge %s: %s, want %s", query, r.body, want)
		}
		l.want(304, "GET", "/jobs/j/badge.svg"+query, "", "If-None-Match", r.Header.Get("Etag"))
	}
	l.want(404, "GET", "/jobs/j/badge.svg", "")
	l.want(200, "PUT", "/jobs/j", `{"job_id":"j","tasks":[{"type":"git-checkout","params":{"repository":"r"}}]}`)
	badge("", "unknown")
	finish := func(ref, result string) {
		l.want(201, "POST", "/jobs/j/builds", fmt.Sprintf(`{"ref":%q}`, ref))
		l.control()
		l.complete(200, l.claim(l.pending(), "w"), result)
		l.control()
	}
	finish("main", ticket.Success)
	finish("refs/tags/v1", ticket.Error)
	finish("other", ticket.Failure)
	l.want(200, "PUT", "/jobs/j/tags/good", `{"build_number":1}`)
	badge("", "failing")
	badge("?branch=main", "passing")
	badge("?branch=none%3Cscript%3E", "unknown")
	badge("?tag=v1", "error")
	badge("?tag=good", "passing")
	l.want(400, "GET", "/jobs/j/badge.svg?tag=good&branch=main", "")

	l.want(201, "POST", "/jobs/j/builds", "")
	l.want(200, "PUT", "/jobs/k", `{"job_id":"k"}`)
	r := l.want(200, "GET", "/cctray.xml", "")
	var x struct {
		Project []struct {
			Name     string `xml:"name,attr"`
			Activity string `xml:"activity,attr"`
			Status   string `xml:"lastBuildStatus,attr"`
			Label    string `xml:"lastBuildLabel,attr"`
			Time     string `xml:"lastBuildTime,attr"`
			URL      string `xml:"webUrl,attr"`
		}
	}
	if err := xml.Unmarshal([]byte(r.body), &x); err != nil || len(x.Project) != 2 {
		t.Fatalf("%s: %v", r.body, err)
	}
	j, k := x.Project[0], x.Project[1]
	if j.Name != "j" || j.Activity != "Building" || j.Status != "Failure" || j.Label != "3" || j.URL != l.url+"/ui/jobs/j" {
		t.Errorf("%+v", j)
	}
	if _, err := time.Parse(time.RFC3339, j.Time); err != nil {
		t.Error(err)
	}
	if k.Name != "k" || k.Activity != "Sleeping" || k.Status != "Unknown" || k.Label != "" {
		t.Errorf("%+v", k)
	}
	l.want(304, "GET", "/cctray.xml", "", "If-None-Match", r.Header.Get("Etag"))
}

func TestReady(t *testing.T) {
	l := newLab(t)
	l.want(200, "GET", "/readyz", "")
	close(l.done)
	if r := l.want(503, "GET", "/readyz", ""); r.Header.Get("Content-Type") != "application/problem+json" || r.Header.Get("Retry-After") == "" {
		t.Errorf("%v %s", r.Header, r.body)
	}
}
