package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/distci/distci/lib/ticket"
	testlab "github.com/distci/distci/test/lab"
)

const (
	uuid   = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
	nobody = "6ba7b810-9dad-11d1-80b4-00c04fd430c8" // an id that nothing has
)

// TestInterface walks through the interface of the original, row by row. A body
// is compared whole, as a pattern.
func TestInterface(t *testing.T) {
	l := newLab(t)
	config := `{"job_id":"j","tasks":[{"type":"git-checkout","params":{"repository":"r","ref":"refs/heads/main"}}]}`
	long := strings.Repeat("x", 256)
	rows := []struct {
		method, path, body string
		code               int
		want               string // pattern of the whole body; "": not looked at
	}{
		{"GET", "/", "", 204, "^$"},
		{"GET", "/nothing", "", 404, ""},
		{"GET", "/job", "", 404, ""},
		{"GET", "/healthz", "", 200, `{"status":"ok"}`},
		{"POST", "/healthz", "", 405, ""},

		{"GET", "/jobs", "", 200, `{"jobs":\[\]}`},
		{"GET", "/jobs/j", "", 404, "no such job\n"},
		{"DELETE", "/jobs/j", "", 404, ""},
		{"GET", "/jobs/j/builds", "", 404, ""},
		{"POST", "/jobs/j/builds", "", 404, ""},
		{"GET", "/jobs/j/tags", "", 404, ""},
		{"PUT", "/jobs/j", config, 200, regexp.QuoteMeta(`{"job_id":"j","config":` + config + `}`)},
		{"PUT", "/jobs/j", config, 200, ""},
		{"PUT", "/jobs/other", config, 400, `(?s).*job_id.*`},
		{"PUT", "/jobs/j", "no JSON", 400, ""},
		{"PUT", "/jobs/j", "", 400, ""},
		{"PUT", "/jobs/j", `{"tasks":[]}`, 400, `(?s).*job_id.*`},
		{"PUT", "/jobs/j", `{"job_id":"j","tasks":[{"type":7},{"typ":"x"}]}`, 400, `(?s).*\$\.tasks\[0\]\.type.*\n.*\$\.tasks\[1\].*`},
		{"GET", "/jobs", "", 200, `{"jobs":\["j"\]}`},
		{"GET", "/jobs/", "", 200, `{"jobs":\["j"\]}`},
		{"GET", "/jobs/j", "", 200, regexp.QuoteMeta(`{"job_id":"j","config":` + config + `}`)},
		{"GET", "/jobs/j/config/schema", "", 200, `(?s){.*}\s*`},
		{"GET", "/schema/job.json", "", 200, `(?s){.*}\s*`},

		{"GET", "/jobs/j/builds", "", 200, `{"builds":\[\]}`},
		{"GET", "/jobs/j/builds/1", "", 404, "no such build\n"},
		{"POST", "/jobs/j/builds", "", 201, `{"job_id":"j","build_number":1,"state":{"status":"preparing"}}`},
		{"POST", "/jobs/j/builds", "{}", 201, `{"job_id":"j","build_number":2,"state":{"status":"preparing"}}`},
		{"POST", "/jobs/j/builds", `{"parameters":{"NO":"1"}}`, 400, `(?s).*unknown parameter "NO".*`},
		{"POST", "/jobs/j/builds", `{"ref":7}`, 400, ""},
		{"POST", "/jobs/j/builds", `{"ref":""}`, 400, ""},
		{"POST", "/jobs/j/builds/1/retry", `{"from":["0"]}`, 400, ""},
		{"POST", "/jobs/j/builds/1/retry", "", 409, ""},
		{"POST", "/jobs/j/builds/9/retry", "", 404, ""},
		{"GET", "/jobs/j/builds", "", 200, `{"builds":\[1,2\],"last_build_number":2}`},
		{"GET", "/jobs/j/builds/1", "", 200, `{"job_id":"j","build_number":"1","state":{.*"status":"preparing".*}}`},
		{"GET", "/jobs/j/builds/0001/state", "", 200, `{"job_id":"j","build_number":"0001","state":{.*}}`},
		{"PUT", "/jobs/j/builds/1/state", `{"status":"running","controller":"u"}`, 200, `{"job_id":"j","build_number":1,"state":{"controller":"u","status":"running"}}`},
		{"PUT", "/jobs/j/builds/1/state", `[]`, 400, ""},
		{"PUT", "/jobs/j/builds/1/state", `{"tasks":{"../x":{}}}`, 400, ""},
		{"PUT", "/jobs/j/builds/1/state", `{"tasks":{"0":null}}`, 400, ""},
		{"PUT", "/jobs/j/builds/9/state", `{}`, 404, ""},
		{"GET", "/jobs/j/builds/1/state", "", 200, `{"job_id":"j","build_number":"1","state":{"controller":"u","status":"running"}}`},
		{"POST", "/jobs/j/builds/9/cancel", "", 404, ""},

		{"GET", "/jobs/j/builds/1/console", "", 200, "^$"},
		{"GET", "/jobs/j/builds/9/console", "", 404, ""},
		{"GET", "/jobs/j/builds/9/console?follow=1", "", 404, ""},
		{"POST", "/jobs/j/builds/1/console", "a\n", 204, "^$"},
		{"POST", "/jobs/j/builds/1/console", "b\n", 204, ""},
		{"POST", "/jobs/j/builds/9/console", "b\n", 404, ""},
		{"GET", "/jobs/j/builds/1/console", "", 200, "a\nb\n"},
		{"GET", "/jobs/j/builds/1/steps/0/log", "", 404, ""},

		{"GET", "/jobs/j/builds/2/workspace", "", 404, "no such workspace\n"},
		{"GET", "/jobs/j/builds/9/workspace", "", 404, ""},
		{"PUT", "/jobs/j/builds/9/workspace", "", 404, ""},
		{"PUT", "/jobs/j/builds/1/workspace", "this is no archive", 400, ""},
		{"DELETE", "/jobs/j/builds/1/workspace", "", 204, "^$"},
		{"GET", "/jobs/j/builds/1/workspace", "", 404, ""},

		{"GET", "/jobs/j/builds/1/artifacts", "", 200, `{"job_id":"j","build_number":1,"artifacts":{}}`},
		{"POST", "/jobs/j/builds/1/artifacts", "bytes", 201, `{"job_id":"j","build_number":1,"artifact_id":"` + uuid + `","size":5,"sha256":"[0-9a-f]{64}"}`},
		{"POST", "/jobs/j/builds/9/artifacts", "bytes", 404, ""},
		{"PUT", "/jobs/j/builds/1/artifacts/" + nobody, "x", 404, ""},
		{"GET", "/jobs/j/builds/1/artifacts/" + nobody, "", 404, "no such artifact\n"},
		{"DELETE", "/jobs/j/builds/1/artifacts/" + nobody, "", 404, ""},

		{"GET", "/jobs/j/tags", "", 200, `{"tags":\[\]}`},
		{"GET", "/jobs/j/tags/v1.0", "", 404, ""},
		{"PUT", "/jobs/j/tags/v1.0", `{"build_number":2}`, 200, `{"tag":"v1.0","build_number":2}`},
		{"PUT", "/jobs/j/tags/v1.0", `{"build_number":9}`, 404, ""},
		{"PUT", "/jobs/j/tags/v1.0", `{}`, 400, ""},
		{"GET", "/jobs/j/tags/v1.0", "", 200, `{"tag":"v1.0","build_number":2}`},
		{"GET", "/jobs/j/tags", "", 200, `{"tags":\["v1.0"\]}`},
		{"DELETE", "/jobs/j/tags/v1.0", "", 204, ""},
		{"DELETE", "/jobs/j/tags/v1.0", "", 404, ""},
		{"GET", "/jobs/j/tags/.hidden", "", 400, ""},

		{"DELETE", "/jobs/j/builds/2", "", 204, "^$"},
		{"DELETE", "/jobs/j/builds/2", "", 404, ""},
		{"GET", "/jobs/j/builds", "", 200, `{"builds":\[1\],"last_build_number":1}`},

		{"POST", "/tasks", "{}", 201, `{"id":"` + uuid + `","data":{.*}}`},
		{"POST", "/tasks", "", 201, ""},
		{"POST", "/tasks", `{"status":"preparing","timestamp":1}`, 201, `{"id":"` + uuid + `","data":{.*"timestamp":1.*}}`},
		{"POST", "/tasks", `{"id":"` + nobody + `"}`, 201, `{"id":"` + nobody + `","data":.*}`},
		{"POST", "/tasks", `{"id":"` + nobody + `"}`, 409, ""},
		{"POST", "/tasks", `{"job_id":"j","build_number":"1","step":"0"}`, 400, ""},
		{"POST", "/tasks", `[]`, 400, ""},
		{"POST", "/tasks", `{"status":"eaten"}`, 400, ""},
		{"POST", "/tasks", `{"status":"pending","capabilities":["a/b"]}`, 400, ""},
		{"GET", "/tasks/" + nobody, "", 200, `{"id":"` + nobody + `","data":{"id":"` + nobody + `"}}`},
		{"PUT", "/tasks/" + nobody, `{"x":1.50}`, 200, `{"id":"` + nobody + `","data":{"id":"` + nobody + `","x":1.50}}`},
		{"PUT", "/tasks/" + nobody, `{"id":"` + strings.Replace(nobody, "6", "7", 1) + `"}`, 400, ""},
		{"PUT", "/tasks/" + nobody, "", 400, ""},
		{"POST", "/tasks/" + nobody + "/lease", "", 409, ""},
		{"DELETE", "/tasks/" + nobody, "", 204, "^$"},
		{"DELETE", "/tasks/" + nobody, "", 204, ""},
		{"GET", "/tasks/" + nobody, "", 404, "no such ticket\n"},
		{"PUT", "/tasks/" + nobody, "{}", 404, ""},
		{"POST", "/tasks/" + nobody + "/lease", "", 404, ""},

		// A method or a path that is not there.
		{"POST", "/jobs", "", 400, ""},
		{"POST", "/jobs/j", "", 400, ""},
		{"PATCH", "/jobs/j", "", 400, ""},
		{"GET", "/jobs/j/nothing", "", 400, ""},
		{"PUT", "/jobs/j/builds", "", 400, ""},
		{"PUT", "/jobs/j/builds/1", "", 400, ""},
		{"GET", "/jobs/j/builds/1/nothing", "", 400, ""},
		{"GET", "/jobs/j/builds/1/artifacts/" + nobody + "/a/b", "", 400, ""},
		{"PUT", "/tasks", "", 400, ""},
		{"POST", "/tasks/" + nobody, "", 400, ""},
		{"GET", "/tasks/" + nobody + "/x", "", 400, ""},

		// Identifiers are taken as they are given.
		{"GET", "/jobs/a.b", "", 400, ""},
		{"GET", "/jobs/" + long, "", 404, ""},
		{"PUT", "/jobs/" + long, `{"job_id":"` + long + `","tasks":[{"type":"execute-shell","params":{"script":":"}}]}`, 200, ""},
		{"DELETE", "/jobs/" + long, "", 204, ""},
		{"GET", "/jobs/" + long + "x", "", 400, ""},
		{"GET", "/jobs/..", "", 400, ""},
		{"GET", "/jobs/%2e%2e/%2e%2e/etc/passwd", "", 400, ""},
		{"GET", "/jobs/j%2fbuilds", "", 400, ""},
		{"GET", "/jobs/j%00", "", 400, ""},
		{"GET", "/jobs//builds", "", 400, ""},
		{"GET", "/jobs/j/builds/x", "", 400, ""},
		{"GET", "/jobs/j/builds/-1", "", 400, ""},
		{"GET", "/jobs/j/builds/+1", "", 400, ""},
		{"GET", "/jobs/j/builds/12345678901234567", "", 400, ""},
		{"GET", "/jobs/j/builds/1/steps/..%2f..%2fstate/log", "", 400, ""},
		{"GET", "/jobs/j/builds/1/artifacts/..%2fstate", "", 400, ""},
		{"GET", "/jobs/j/builds/1/artifacts/" + strings.ToUpper(nobody), "", 400, ""},
		{"GET", "/tasks/" + strings.ToUpper(nobody), "", 400, ""},
		{"GET", "/tasks/1", "", 400, ""},

		{"DELETE", "/jobs/j", "", 204, "^$"},
		{"GET", "/jobs", "", 200, `{"jobs":\[\]}`},
	}
	for _, r := range rows {
		got := l.do(r.method, r.path, r.body)
		name := fmt.Sprintf("%s %.80s %.80s", r.method, r.path, r.body)
		if got.StatusCode != r.code {
			t.Errorf("%s: status %d, want %d: %s", name, got.StatusCode, r.code, got.body)
			continue
		}
		if want := "^(?:" + r.want + ")$"; r.want != "" && !regexp.MustCompile(want).MatchString(got.body) {
			t.Errorf("%s: %q does not match %q", name, got.body, want)
		}
		typ := got.Header.Get("Content-Type")
		switch {
		case got.StatusCode >= 400 && (!strings.HasPrefix(typ, "text/plain") && typ != "application/problem+json" || strings.TrimSpace(got.body) == ""):
			t.Errorf("%s: an error of type %q, %q", name, typ, got.body)
		case got.StatusCode < 400 && strings.HasPrefix(got.body, `{"`) && typ != "application/json" && typ != "application/schema+json":
			t.Errorf("%s: JSON of type %q", name, typ)
		}
		id := got.Header.Get("X-Request-Id")
		if id == "" {
			t.Errorf("%s: no request id", name)
		}
		testlab.Until(t, name+" in the log", func() bool { return strings.Contains(l.log.String(), "id="+id) }) // behind the reply
		if got.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(got.Header.Get("Content-Security-Policy"), "sandbox") {
			t.Errorf("%s: headers %v", name, got.Header)
		}
	}
}

func TestPagesOfJobs(t *testing.T) {
	l := newLab(t)
	for _, id := range []string{"a", "b", "c"} {
		l.want(200, "PUT", "/jobs/"+id, `{"job_id":"`+id+`","tasks":[{"type":"execute-shell","params":{"script":":"}}]}`)
	}
	for path, want := range map[string]string{
		"/jobs":                 `{"jobs":["a","b","c"]}`,
		"/jobs?limit=2":         `{"jobs":["a","b"],"next":"b"}`,
		"/jobs?limit=2&after=b": `{"jobs":["c"]}`,
		"/jobs?limit=3":         `{"jobs":["a","b","c"]}`,
	} {
		if got := l.want(200, "GET", path, "").body; got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	for _, bad := range []string{"limit=0", "limit=x", "limit=100000", "after=../x"} {
		l.want(400, "GET", "/jobs?"+bad, "")
	}
}

func TestGithubWebhook(t *testing.T) {
	l := newLab(t)
	l.want(200, "PUT", "/jobs/j", `{"job_id":"j","tasks":[
		{"type":"git-checkout","params":{"repository":"r","ref":"main"}},
		{"type":"git-checkout","params":{"repository":"r","ref":"refs/heads/old"}}]}`)
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	for _, c := range []struct {
		payload string
		code    int
	}{
		{`{"ref":"refs/heads/main"}`, 201},
		{`{"ref":"main"}`, 201},
		{`{"ref":"refs/heads/old"}`, 201},
		{`{"ref":"refs/heads/else"}`, 400},
		{`{"ref":""}`, 400},
		{`{}`, 400},
		{`[`, 400},
	} {
		r := l.want(c.code, "POST", "/jobs/j/github-webhook", "payload="+url.QueryEscape(c.payload), form...)
		if c.code == 201 && !strings.Contains(r.body, `"state":{"status":"preparing"}`) {
			t.Errorf("%s: %s", c.payload, r.body)
		}
	}
	l.want(400, "POST", "/jobs/j/github-webhook", "", form...)
	l.want(404, "POST", "/jobs/none/github-webhook", "payload="+url.QueryEscape(`{"ref":"x"}`), form...)
	l.want(400, "GET", "/jobs/j/github-webhook", "")
}

// TestTooLarge: what is too large is refused, and changes nothing.
func TestTooLarge(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	mega := strings.Repeat(" ", 1<<20) + "{}"
	posted := l.want(201, "POST", "/tasks", "{}").task(t)
	for _, path := range []string{"/jobs/j", "/jobs/j/builds/1/state", "/tasks/" + posted.ID, "/jobs/j/tags/t"} {
		l.want(413, "PUT", path, mega)
	}
	l.want(413, "POST", "/tasks", mega)
	l.want(413, "POST", "/jobs/j/builds/1/artifacts", mega)
	l.want(413, "PUT", "/jobs/j/builds/1/workspace", strings.Repeat("x", 1<<20+1))
	l.want(413, "POST", "/jobs/j/builds/1/console", strings.Repeat("x", 16<<20+1))
	// Without a length it is found out on the way.
	req, err := http.NewRequest("POST", l.url+"/jobs/j/builds/1/artifacts", struct{ *strings.Reader }{strings.NewReader(mega)})
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = -1
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 413 {
		t.Errorf("a stream without end: %d", resp.StatusCode)
	}
	if got := l.want(200, "GET", "/jobs/j/builds/1/artifacts", "").body; !strings.Contains(got, `"artifacts":{}`) {
		t.Error(got)
	}
}

// TestOtherSites: a page of another site cannot make a browser change anything.
func TestOtherSites(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	l.want(403, "POST", "/jobs/j/builds", "", "Sec-Fetch-Site", "cross-site")
	l.want(403, "POST", "/jobs/j/builds", "", "Origin", "https://example.com")
	l.want(201, "POST", "/jobs/j/builds", "", "Sec-Fetch-Site", "same-origin")
	l.want(200, "GET", "/jobs/j", "", "Sec-Fetch-Site", "cross-site")
}

// TestRequestID: a proxy's id is kept if it is one.
func TestRequestID(t *testing.T) {
	l := newLab(t)
	if id := l.do("GET", "/", "", "X-Request-Id", "from-proxy.1").Header.Get("X-Request-Id"); id != "from-proxy.1" {
		t.Error(id)
	}
	if id := l.do("GET", "/", "", "X-Request-Id", "a b").Header.Get("X-Request-Id"); id == "a b" || id == "" {
		t.Error(id)
	}
}

// TestInsideStaysInside: an error inside is told without its details, which
// stand in the log with the request's id.
func TestInsideStaysInside(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	st := l.repo.Store()
	if _, err := st.Put(t.Context(), "builds/j/0000000000000001/workspace", strings.NewReader("secret path")); err != nil {
		t.Fatal(err)
	}
	r := l.want(500, "GET", "/jobs/j/builds/1/workspace", "")
	id := r.Header.Get("X-Request-Id")
	if !strings.Contains(r.body, id) || strings.Contains(r.body, "invalid character") {
		t.Errorf("%q", r.body)
	}
	if !strings.Contains(l.log.String(), "invalid character") {
		t.Errorf("the log does not say why: %s", l.log)
	}
}

// FuzzPutTask: no body makes the server fail, and a ticket stays one.
func FuzzPutTask(f *testing.F) {
	f.Add(`{"status":"running","assignee":"w"}`)
	f.Add(`{"status":"complete","result":"success","artifacts":{"` + nobody + `":["a"]}}`)
	f.Add(`{"status":"pending","capabilities":["x"],"lease":1e300}`)
	f.Add(`{"attempt":-1,"lease":-5,"previous":[],"status":"preparing"}`)
	lab := newLab(f)
	f.Fuzz(func(t *testing.T, body string) {
		l := *lab
		l.TB = t
		id := l.want(201, "POST", "/tasks", `{"status":"pending","capabilities":["x"]}`).task(t).ID
		for range 2 {
			r := l.do("PUT", "/tasks/"+id, body)
			switch r.StatusCode {
			case 200:
				var k struct{ Data json.RawMessage }
				if err := json.Unmarshal([]byte(r.body), &k); err != nil {
					t.Fatal(err)
				}
				if _, err := ticket.Parse(k.Data); err != nil {
					t.Fatalf("%s: %v", r.body, err)
				}
			case 400, 409, 413:
			default:
				t.Fatalf("status %d: %s; %s", r.StatusCode, r.body, l.log)
			}
		}
		l.want(200, "GET", "/tasks/"+id, "")
		l.want(204, "DELETE", "/tasks/"+id, "")
		l.want(404, "GET", "/tasks/"+id, "")
	})
}
