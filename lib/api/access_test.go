package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/web"
)

// public are the routes that everybody may use, each with the reason. Whoever
// adds one here has thought about it.
var public = map[string]string{
	"GET ":                         "says that there is a server",
	"GET healthz":                  "balancers have no token",
	"GET readyz":                   "balancers have no token",
	"GET schema/job.json":          "the same everywhere",
	"GET jobs/{job}/config/schema": "the same everywhere; looks at no job",
	"GET openapi.yaml":             "the same everywhere",
	"GET whoami":                   "is how to find out",
	"GET ui/assets/{name}":         "the same everywhere",
	"GET ui/sign-in":               "is how to become somebody",
	"GET ui/sign-in/callback":      "is how to become somebody",
	"POST ui/sign-out":             "ends what only its owner has",
	"POST hooks/{forge}/{job}":     "is signed",
}

// gate is a frontend of a lab that asks who one is.
type gate struct {
	*lab
	tokens map[string]string // by what they are
	audit  *recordings
}

// recordings are an audit log in memory.
type recordings struct{ c chan access.Record }

func (r *recordings) Add(rec access.Record) { r.c <- rec }

// newGate has a job "mine" and a job "theirs", each with a build, an artefact
// and a ticket, and tokens of all kinds.
func newGate(t *testing.T, more ...func(*api.Options)) *gate {
	t.Helper()
	l := newLab(t)
	for _, id := range []string{"mine", "theirs"} {
		l.job(id, 1)
	}
	l.control()
	g := &gate{l, map[string]string{"": "", "wrong": "distci_", "garbage": "x"}, &recordings{make(chan access.Record, 100_000)}}
	st := l.repo.Store()
	for name, tk := range map[string]access.Token{
		"read": {Role: access.Read}, "trigger": {Role: access.Trigger}, "worker": {Role: access.Worker}, "admin": {Role: access.Admin},
		"expired": {Role: access.Admin, Expires: time.Now().Add(time.Hour)}, "revoked": {Role: access.Admin},
		"unknown": {Role: access.Admin},
		"mine":    {Role: access.Admin, Jobs: []string{"mine", "my-*"}}, "other": {Role: access.Admin, Jobs: []string{"other-*"}},
		"mine-worker": {Role: access.Worker, Jobs: []string{"mine"}},
	} {
		tk.Name = name
		now := time.Now()
		if name == "expired" {
			now, tk.Expires = now.Add(-2*time.Hour), now.Add(-time.Hour)
		}
		made, token, err := access.NewToken(tk, now)
		if err == nil && name != "unknown" {
			err = access.CreateToken(t.Context(), st, made)
		}
		if err == nil && name == "revoked" {
			err = access.RevokeToken(t.Context(), st, made.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		g.tokens[name] = token
	}
	g.tokens["wrong"] = g.tokens["admin"][:20] + g.tokens["read"][20:]
	o := api.Options{
		Pages: web.New(l.repo, web.Options{Done: l.done}), Temp: l.dir, Done: l.done, MaxUpload: 1 << 20, Audit: g.audit, Name: "here",
		Access: access.Chain{access.NewTokens(st, slog.New(slog.DiscardHandler)), access.Everybody(access.Anonymous(""))},
	}
	for _, f := range more {
		f(&o)
	}
	srv := httptest.NewServer(api.New(l.repo, o))
	t.Cleanup(srv.Close)
	l.url = srv.URL
	return g
}

// as sends a request with one of the tokens and returns the reply's beginning:
// some go on for ever.
func (g *gate) as(token, method, path, body string) *reply {
	g.Helper()
	ctx, cancel := context.WithTimeout(g.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+g.tokens[token])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		g.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return &reply{resp, ""}
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		g.Fatalf("%s %s: %v", method, path, err)
	}
	return &reply{resp, string(b)}
}

// path fills in a pattern with what there is of a job.
func (g *gate) path(pattern, job string) string {
	artifact, task := "00000000-0000-7000-8000-000000000000", "00000000-0000-7000-8000-000000000000"
	all, err := g.repo.Queue().List(g.Context())
	if err != nil {
		g.Fatal(err)
	}
	for _, id := range all {
		if t, _, err := g.repo.Queue().Get(g.Context(), id); err == nil && t.JobID == job {
			task = id
		}
	}
	return "/" + strings.NewReplacer("{job}", job, "{build}", "1", "{step}", "0", "{log}", "console", "{artifact}", artifact,
		"{task}", task, "{tag}", "t", "{name}", "x", "{forge}", "github").Replace(pattern)
}

// state is all that the store and the coordination have, but for what is only
// about access.
func (g *gate) state() string {
	g.Helper()
	infos, err := g.repo.Store().List(g.Context(), "", "", 0)
	if err != nil {
		g.Fatal(err)
	}
	var b strings.Builder
	for _, i := range infos {
		fmt.Fprintln(&b, i.Key, i.Version)
	}
	ids, err := g.repo.Queue().List(g.Context())
	if err != nil {
		g.Fatal(err)
	}
	for _, id := range ids {
		t, _, err := g.repo.Queue().Get(g.Context(), id)
		if err != nil {
			g.Fatal(err)
		}
		fmt.Fprintln(&b, encode(t))
	}
	live, err := g.repo.LiveBuilds(g.Context())
	if err != nil {
		g.Fatal(err)
	}
	text, err := json.Marshal(live)
	if err != nil {
		g.Fatal(err)
	}
	return b.String() + string(text)
}

// body is one that would do harm if it were taken.
func body(rt api.Route, job string) string {
	switch {
	case rt.Method == "PUT" && rt.Pattern == "jobs/{job}":
		return fmt.Sprintf(`{"job_id":%q,"tasks":[]}`, job)
	case strings.Contains(rt.Pattern, "/tags/"):
		return `{"build_number":1}`
	case strings.HasSuffix(rt.Pattern, "/state"):
		return `{"status":"complete","result":"success"}`
	case strings.HasPrefix(rt.Pattern, "tasks"):
		return `{"status":"complete","result":"success"}`
	}
	return ""
}

// TestEveryRouteRefuses goes through all routes with nothing, with what is
// wrong, expired, revoked and unknown, and with every role; and with a token
// for other jobs. What is refused changes nothing.
func TestEveryRouteRefuses(t *testing.T) {
	g := newGate(t)
	before := g.state()
	refused := 0
	for _, rt := range api.Routes() {
		name := rt.Method + " " + rt.Pattern
		path := g.path(rt.Pattern, "mine")
		if rt.Role == access.Public {
			if public[name] == "" {
				t.Errorf("%s is public, and the test does not know why", name)
			}
			continue
		}
		if !slices.Contains(access.Roles(), rt.Role) {
			t.Errorf("%s has no role", name)
		}
		for _, token := range []string{"", "wrong", "garbage", "expired", "revoked", "unknown"} {
			r := g.as(token, rt.Method, path, body(rt, "mine"))
			challenge := r.Header.Get("WWW-Authenticate")
			if r.StatusCode != 401 || !strings.HasPrefix(challenge, `Bearer realm="distci"`) || (token != "") != strings.Contains(challenge, "invalid_token") {
				t.Errorf("%s with token %q: status %d, %q: %s", name, token, r.StatusCode, challenge, r.body)
			}
			if token != "" && strings.Contains(r.body, g.tokens[token]) && token != "garbage" {
				t.Errorf("%s: the reply has the token", name)
			}
			if rt.Method != "GET" {
				refused++
			}
		}
		for _, role := range access.Roles() {
			if role.Includes(rt.Role) {
				continue
			}
			r := g.as(string(role), rt.Method, path, body(rt, "mine"))
			if r.StatusCode != 403 || !strings.Contains(r.body, "role "+string(rt.Role)) && !strings.HasPrefix(rt.Pattern, "ui") {
				t.Errorf("%s as %s: status %d: %s", name, role, r.StatusCode, r.body)
			}
			if rt.Method != "GET" {
				refused++
			}
		}
		if strings.Contains(rt.Pattern, "{job}") || strings.Contains(rt.Pattern, "{task}") {
			want := 403
			if rt.Method == "GET" || strings.Contains(rt.Pattern, "{task}") {
				want = 404
			}
			r := g.as("other", rt.Method, path, body(rt, "mine"))
			if r.StatusCode != want {
				t.Errorf("%s with a token for other jobs: status %d, want %d: %s", name, r.StatusCode, want, r.body)
			}
			// Whether the job is there makes no difference.
			absent := g.as("other", rt.Method, strings.Replace(path, "mine", "none", 1), body(rt, "none"))
			if !strings.Contains(rt.Pattern, "{task}") && (absent.StatusCode != r.StatusCode || strings.ReplaceAll(absent.body, "none", "mine") != r.body) && !strings.HasPrefix(rt.Pattern, "ui") {
				t.Errorf("%s: %d %q, but of a job that is not there %d %q", name, r.StatusCode, r.body, absent.StatusCode, absent.body)
			}
			if rt.Method != "GET" {
				refused += 2
			}
		}
	}
	if after := g.state(); after != before {
		t.Errorf("what was refused has changed something:\n%s\nand now\n%s", before, after)
	}
	// Each of those that would have changed something is in the audit log.
	close(g.audit.c)
	logged := 0
	for r := range g.audit.c {
		logged++
		if r.Outcome != access.Refused || r.From != "127.0.0.1" || r.Request == "" || r.Frontend != "here" || r.Route == "" || r.Error == "" || r.Time.IsZero() || r.Who == "" {
			t.Errorf("%+v", r)
		}
	}
	if logged != refused {
		t.Errorf("%d records of %d refusals", logged, refused)
	}
}

// TestEveryRouteLetsIn: with the role that it needs each route is open, and
// with an admin's token for this job.
func TestEveryRouteLetsIn(t *testing.T) {
	g := newGate(t)
	routes := api.Routes()
	// What deletes comes last.
	slices.SortStableFunc(routes, func(a, b api.Route) int {
		return strings.Compare(strings.TrimPrefix(b.Method, "DELETE"), strings.TrimPrefix(a.Method, "DELETE"))
	})
	for _, rt := range routes {
		if rt.Role == access.Public {
			continue
		}
		for _, token := range []string{string(rt.Role), "admin", "mine"} {
			r := g.as(token, rt.Method, g.path(rt.Pattern, "mine"), "")
			if r.StatusCode == 401 || r.StatusCode == 403 && rt.Pattern != "tasks" { // a ticket of no job
				t.Errorf("%s %s with token %q: status %d: %s", rt.Method, rt.Pattern, token, r.StatusCode, r.body)
			}
		}
	}
}

// TestHiddenJobs: no answer to somebody who has to do with one job has the name
// of another.
func TestHiddenJobs(t *testing.T) {
	g := newGate(t)
	// Somebody works on it.
	for _, id := range []string{"mine", "theirs"} {
		tk := g.ticketOf(id)
		tk.Assignee, tk.Status = "somebody", ticket.Running
		if r := g.as("admin", "PUT", "/tasks/"+tk.ID, encode(tk)); r.StatusCode != 200 {
			t.Fatal(r.body)
		}
	}
	for _, rt := range api.Routes() {
		if rt.Method != "GET" || strings.Contains(rt.Pattern, "{") || rt.Role == access.Public {
			continue
		}
		for _, query := range []string{"", "?limit=1", "?limit=1000", "?after=a"} {
			all, some := g.as("admin", "GET", "/"+rt.Pattern+query, ""), g.as("mine", "GET", "/"+rt.Pattern+query, "")
			if strings.Contains(some.body, "theirs") || strings.Contains(some.body, g.ticketOf("theirs").ID) {
				t.Errorf("GET /%s%s tells of another's job: %.300s", rt.Pattern, query, some.body)
			}
			if strings.Contains(all.body, `"mine"`) && !strings.Contains(some.body, `"mine"`) && some.StatusCode == 200 {
				t.Errorf("GET /%s%s does not tell of one's own: %.300s", rt.Pattern, query, some.body)
			}
		}
	}
	for i := range 30 {
		g.lab.want(401, "GET", "/jobs", "")
		if r := g.as("mine", "PUT", fmt.Sprintf("/jobs/my-%02d", i), fmt.Sprintf(`{"job_id":"my-%02d","tasks":[]}`, i)); r.StatusCode != 200 {
			t.Fatal(r.body)
		}
	}
	// Pages are full, although other jobs lie between.
	var seen []string
	for after, more := "", true; more; {
		var page struct {
			Jobs []string
			Next string
		}
		r := g.as("mine", "GET", "/jobs?limit=7&after="+after, "")
		if err := json.Unmarshal([]byte(r.body), &page); err != nil || len(page.Jobs) > 7 || len(page.Jobs) < 7 && page.Next != "" {
			t.Fatalf("%s: %v", r.body, err)
		}
		seen = append(seen, page.Jobs...)
		after, more = page.Next, page.Next != ""
	}
	if len(seen) != 31 || slices.Contains(seen, "theirs") {
		t.Errorf("%d jobs: %v", len(seen), seen)
	}
}

// ticketOf finds the ticket of a job's build.
func (g *gate) ticketOf(job string) *ticket.Ticket {
	g.Helper()
	all, err := g.repo.Queue().List(g.Context())
	if err != nil {
		g.Fatal(err)
	}
	for _, id := range all {
		if t, _, err := g.repo.Queue().Get(g.Context(), id); err == nil && t.JobID == job {
			return t
		}
	}
	g.Fatalf("job %s has no ticket", job)
	return nil
}

// TestNoWayRound: whoever has to do with some jobs does not reach others
// through them.
func TestNoWayRound(t *testing.T) {
	g := newGate(t)
	before := g.state()
	theirs := g.ticketOf("theirs")
	for _, c := range []struct {
		token, method, path, body string
		status                    int
	}{
		{"mine", "PUT", "/jobs/mine", `{"job_id":"mine","tasks":[],"downstream_jobs":["theirs"]}`, 403},
		{"mine", "PUT", "/jobs/mine", `{"job_id":"mine","tasks":[{"type":"copy-artifacts","params":{"job":"theirs","artifacts":["*"]}}]}`, 403},
		{"mine", "PUT", "/jobs/mine", `{"job_id":"theirs","tasks":[]}`, 400},
		{"mine-worker", "POST", "/tasks", `{"job_id":"theirs","type":"build-control"}`, 403},
		{"mine-worker", "POST", "/tasks", `{"type":"execute-shell","params":{"script":"id"}}`, 403},
		{"mine-worker", "PUT", "/tasks/" + theirs.ID, `{"status":"running","assignee":"me"}`, 404},
		{"mine-worker", "DELETE", "/tasks/" + theirs.ID, "", 404},
		{"mine-worker", "POST", "/tasks/" + theirs.ID + "/lease", "", 404},
		{"mine-worker", "GET", "/tasks/" + theirs.ID, "", 404},
		{"mine-worker", "PUT", "/tasks/" + g.ticketOf("mine").ID, `{"job_id":"theirs"}`, 403},
		{"mine-worker", "POST", "/jobs/mine/builds", "", 403},
		{"trigger", "PUT", "/tasks/" + theirs.ID, `{"status":"running","assignee":"me"}`, 403},
	} {
		if r := g.as(c.token, c.method, c.path, c.body); r.StatusCode != c.status {
			t.Errorf("%s: %s %s %s: status %d, want %d: %s", c.token, c.method, c.path, c.body, r.StatusCode, c.status, r.body)
		}
	}
	if after := g.state(); after != before {
		t.Errorf("something has changed:\n%s\nand now\n%s", before, after)
	}
}

// TestPathTricks: no way of writing a path leads to another job, or past the
// role.
func TestPathTricks(t *testing.T) {
	g := newGate(t)
	before := g.state()
	for _, path := range []string{
		"/jobs/mine/../theirs", "/jobs/mine/%2e%2e/theirs", "/jobs/mine%2f..%2ftheirs", "/jobs/mine%2F..%2Ftheirs",
		"/jobs//theirs", "//jobs/theirs", "/jobs/./theirs", "/jobs/theirs//", "/jobs/%74heirs", "/jobs/theirs%00", "/jobs/mine%00/../theirs",
		"/jobs/theirs;mine", "/jobs/theirs%20", "/jobs/theirs%0a", "/jobs/theirs?job=mine", "/jobs/theirs#mine", "/jobs/theirs/",
		"/JOBS/theirs", "/jobs/THEIRS", `/jobs\theirs`, "/jobs/mine/..;/theirs", "/jobs/..%252f..%252fjobs/theirs", "/ui/../jobs/theirs", "/healthz/../jobs/theirs",
		"/schema/job.json/../../jobs/theirs", "/jobs/mine/config/schema/../../../theirs", "/jobs/%ff", "/jobs/ｔheirs", "/ui/jobs/mine/../theirs", "/ui/jobs/%74heirs",
	} {
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "POST", "get", "delete", "PATCH", "TRACE", "OPTIONS", "X-DELETE"} {
			for _, token := range []string{"", "mine", "other"} {
				conn := g.raw()
				fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /jobs/theirs\r\nX-Rewrite-URL: /jobs/theirs\r\nConnection: close\r\n\r\n", method, path, g.tokens[token])
				resp, err := readResponse(conn, method)
				if err != nil {
					t.Fatalf("%s %q: %v", method, path, err)
				}
				if resp.StatusCode < 400 || strings.Contains(resp.body, `"config"`) {
					t.Errorf("%s %q with token %q: status %d: %s", method, path, token, resp.StatusCode, resp.body)
				}
			}
		}
	}
	if after := g.state(); after != before {
		t.Errorf("something has changed:\n%s\nand now\n%s", before, after)
	}
}

// TestAudit: what was changed is recorded, by whom, and how it ended; what is
// only looked at is not.
func TestAudit(t *testing.T) {
	g := newGate(t)
	for _, c := range []struct {
		token, method, path, body string
		want                      access.Record
	}{
		{"admin", "GET", "/jobs", "", access.Record{}},
		{"", "GET", "/jobs", "", access.Record{}},
		{"admin", "POST", "/jobs/mine/builds", "", access.Record{Who: "admin", Via: "token", Role: "admin", Route: "/jobs/{job}/builds", Job: "mine", Build: 2, Status: 201, Outcome: access.Done}},
		{"read", "POST", "/jobs/mine/builds", "", access.Record{Who: "read", Via: "token", Role: "read", Route: "/jobs/{job}/builds", Job: "mine", Status: 403, Outcome: access.Refused}},
		{"wrong", "DELETE", "/jobs/mine", "", access.Record{Who: "anonymous", Via: "anonymous", Route: "/jobs/{job}", Job: "mine", Status: 401, Outcome: access.Refused}},
		{"trigger", "POST", "/jobs/mine/builds/1/cancel", "", access.Record{Who: "trigger", Via: "token", Role: "trigger", Route: "/jobs/{job}/builds/{build}/cancel", Job: "mine", Build: 1, Status: 202, Outcome: access.Done}},
		{"admin", "PUT", "/jobs/mine/tags/t", `{"build_number":1}`, access.Record{Who: "admin", Via: "token", Role: "admin", Route: "/jobs/{job}/tags/{tag}", Job: "mine", Object: "t", Status: 200, Outcome: access.Done}},
		{"admin", "PUT", "/jobs/mine", "{", access.Record{Who: "admin", Via: "token", Role: "admin", Route: "/jobs/{job}", Job: "mine", Status: 400, Outcome: access.Refused}},
	} {
		r := g.as(c.token, c.method, c.path, c.body)
		if c.want.Who == "" {
			select {
			case rec := <-g.audit.c:
				t.Errorf("%s %s was recorded: %+v", c.method, c.path, rec)
			default:
			}
			continue
		}
		rec := <-g.audit.c
		if rec.Request != r.Header.Get("X-Request-Id") || rec.Method != c.method || (rec.ID == "") != (rec.Via != "token") || (rec.Error == "") != (rec.Outcome == access.Done) {
			t.Errorf("%+v", rec)
		}
		c.want.Time, c.want.Request, c.want.Method, c.want.ID, c.want.Error, c.want.From, c.want.Frontend = rec.Time, rec.Request, rec.Method, rec.ID, rec.Error, "127.0.0.1", "here"
		if rec != c.want {
			t.Errorf("%s %s as %q:\n%+v, want\n%+v", c.method, c.path, c.token, rec, c.want)
		}
	}
	// What a page of another site makes a browser do is refused, and recorded.
	if r := g.do("POST", "/jobs/mine/builds", "", "Authorization", "Bearer "+g.tokens["admin"], "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"); r.StatusCode != 403 {
		t.Errorf("status %d", r.StatusCode)
	}
	if rec := <-g.audit.c; rec.Status != 403 || rec.Outcome != access.Refused {
		t.Errorf("%+v", rec)
	}
}

// TestAnonymousRead: everybody may look, nobody may do, and a token that is
// wrong is not as good as none.
func TestAnonymousRead(t *testing.T) {
	g := newGate(t, func(o *api.Options) {
		o.Access.(access.Chain)[1] = access.Everybody(access.Anonymous(access.Read))
	})
	for _, c := range []struct {
		token, method, path string
		status              int
	}{
		{"", "GET", "/jobs/mine", 200},
		{"", "POST", "/jobs/mine/builds", 401},
		{"", "DELETE", "/jobs/mine", 401},
		{"wrong", "GET", "/jobs/mine", 401},
		{"revoked", "GET", "/jobs/mine", 401},
		{"trigger", "POST", "/jobs/mine/builds", 201},
		{"read", "POST", "/jobs/mine/builds", 403},
	} {
		if r := g.as(c.token, c.method, c.path, ""); r.StatusCode != c.status {
			t.Errorf("%s %s with %q: status %d, want %d", c.method, c.path, c.token, r.StatusCode, c.status)
		}
	}
}
