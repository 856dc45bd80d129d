package status_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/status"
	"github.com/distci/distci/lib/status/statustest"
)

const commit = "6113728f27ae82c7b1a177c8d03f9e96e0adf246"

func report(f *statustest.Forge, kind, state string) build.Report {
	return build.Report{Forge: kind, URL: f.URL, Repository: "octo/hello", Commit: commit, Context: "distci/hello", State: state,
		Description: "build 7: " + state, Target: "https://ci.example/ui/jobs/hello/builds/7"}
}

// post tells a forge without waiting, and returns what was logged and waited for.
func post(t *testing.T, r build.Report, token string) (log string, waits []time.Duration, err error) {
	t.Helper()
	var b bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = status.Post(ctx, r, status.Options{Token: token, Agent: "test/1", Log: slog.New(slog.NewTextHandler(&b, nil)),
		Pause: func(_ context.Context, d time.Duration) error { waits = append(waits, d); return nil }})
	if err != nil && strings.Contains(err.Error(), statustest.Token) || strings.Contains(b.String(), statustest.Token) {
		t.Errorf("the token is in %v or in\n%s", err, &b)
	}
	return b.String(), waits, err
}

// TestPost: each forge gets each state in its own words.
func TestPost(t *testing.T) {
	for kind, words := range map[string]string{
		"github": "pending success failure error error",
		"gitlab": "running success failed failed canceled",
		"gitea":  "pending success failure error error",
	} {
		f := statustest.New(t, kind)
		var got []string
		for _, state := range []string{"running", "success", "failure", "error", "canceled"} {
			if _, _, err := post(t, report(f, kind, state), statustest.Token); err != nil {
				t.Errorf("%s, %s: %v", kind, state, err)
			}
		}
		told, _ := f.Told()
		for i, s := range told {
			got = append(got, s.State)
			if s.Repository != "octo/hello" || s.Commit != commit || s.Context != "distci/hello" || s.Target != "https://ci.example/ui/jobs/hello/builds/7" || i == 1 && s.Description != "build 7: success" {
				t.Errorf("%s: %+v", kind, s)
			}
		}
		want := words
		if kind == "gitlab" { // a repeat of what it knows already is no error
			want = "running success failed canceled"
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s was told %v, want %s", kind, got, want)
		}
	}
	f := statustest.New(t, "gitlab")
	r := report(f, "gitlab", "running")
	r.Repository = "group/sub/hello"
	if _, _, err := post(t, r, statustest.Token); err != nil {
		t.Error(err)
	}
	if told, _ := f.Told(); len(told) != 1 || told[0].Repository != r.Repository {
		t.Errorf("%+v", told)
	}
}

// TestAgain: a forge that is busy or out of order is asked again, later and
// later, and as late as it wants.
func TestAgain(t *testing.T) {
	f := statustest.New(t, "github")
	f.Answer(statustest.Answer{Code: 502}, statustest.Answer{Code: 0, Done: true}, statustest.Answer{Code: 429, Header: http.Header{"Retry-After": {"7"}}},
		statustest.Answer{Code: 403, Header: http.Header{"X-Ratelimit-Remaining": {"0"}}, Body: `{"message": "API rate limit exceeded"}`})
	log, waits, err := post(t, report(f, "github", "success"), statustest.Token)
	if err != nil {
		t.Fatal(err)
	}
	want := []time.Duration{time.Second, 2 * time.Second, 7 * time.Second, 8 * time.Second}
	if len(waits) != len(want) {
		t.Fatalf("waits %v, want %v", waits, want)
	}
	for i := range want {
		if waits[i] != want[i] {
			t.Errorf("waits %v, want %v", waits, want)
		}
	}
	if !strings.Contains(log, "out of order (502)") || !strings.Contains(log, "API rate limit exceeded") {
		t.Error(log)
	}
	if told, _ := f.Told(); len(told) != 2 {
		t.Errorf("told %d times", len(told))
	}
	f.Answer(statustest.Answer{Code: 503, Header: http.Header{"Retry-After": {"3600"}}})
	if _, waits, err := post(t, report(f, "github", "success"), statustest.Token); fault.Of(err) != fault.Temporary || len(waits) != 0 {
		t.Errorf("a forge that wants an hour: %v, after %v", err, waits)
	}
	srv := httptest.NewServer(nil)
	r := report(f, "github", "success")
	r.URL = srv.URL
	srv.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := status.Post(ctx, r, status.Options{Token: statustest.Token, Log: slog.New(slog.DiscardHandler)}); fault.Of(err) != fault.Temporary {
		t.Errorf("nobody listens: (%s) %v", fault.Of(err), err)
	}
}

// TestRefusals: what another try does not mend is told at once, and clearly.
func TestRefusals(t *testing.T) {
	f := statustest.New(t, "gitea")
	for _, c := range []struct {
		name   string
		change func(*build.Report)
		token  string
		answer *statustest.Answer
		kind   fault.Kind
		want   string
	}{
		{"a wrong token", nil, "wrong", nil, fault.Denied, "refuses the token, or it may not do this (401): Bad credentials"},
		{"no token", nil, "", nil, fault.Config, "the token is not one"},
		{"a token with a line end", nil, "a\r\nX-Evil: 1", nil, fault.Config, "the token is not one"},
		{"a missing repository", func(r *build.Report) { r.Repository = "o/missing" }, "", nil, fault.Unavailable, "no such repository or commit"},
		{"another forge's state", func(r *build.Report) { r.State = "skipped" }, "", nil, fault.BadTicket, `found "skipped"`},
		{"a path", func(r *build.Report) { r.Repository = "o/../admin" }, "", nil, fault.BadTicket, "expected owner/name"},
		{"a query", func(r *build.Report) { r.Repository = "o/r?x" }, "", nil, fault.BadTicket, "expected owner/name"},
		{"no commit", func(r *build.Report) { r.Commit = "main" }, "", nil, fault.BadTicket, "expected 40 or 64 hex digits"},
		{"a password in the address", func(r *build.Report) { r.URL = "http://u:p@h/" }, "", nil, fault.BadTicket, "without a user or a password"},
		{"a password in what is no address", func(r *build.Report) { r.URL = "http://u:" + statustest.Token + "%zz@h/" }, "", nil, fault.BadTicket, "without a user or a password"},
		{"an address that ends as a query", func(r *build.Report) { r.URL += "?" }, "", nil, fault.BadTicket, "expected the address of an API"},
		{"an address that ends as a fragment", func(r *build.Report) { r.URL += "#" }, "", nil, fault.BadTicket, "expected the address of an API"},
		{"no forge", func(r *build.Report) { r.Forge = "sourcehut" }, "", nil, fault.BadTicket, "expected github, gitlab or gitea"},
		{"it will not have it", nil, statustest.Token, &statustest.Answer{Code: 422, Body: `{"message": "no\u001b[2J ` + statustest.Token + `"}`}, fault.BadTicket, "will not have it (422): no [2J ***"},
		{"it is elsewhere", nil, statustest.Token, &statustest.Answer{Code: 302, Header: http.Header{"Location": {"https://elsewhere/"}}}, fault.Config, `redirects (302) to "https://elsewhere/"`},
		{"no JSON", nil, statustest.Token, &statustest.Answer{Code: 400, Body: "<html>"}, fault.BadTicket, "will not have it (400)"},
	} {
		r := report(f, "gitea", "success")
		token := c.token
		if c.change != nil {
			c.change(&r)
			token = statustest.Token
		}
		if c.answer != nil {
			f.Answer(*c.answer)
		}
		_, waits, err := post(t, r, token)
		if fault.Of(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.want) || len(waits) > 0 || strings.Contains(err.Error(), statustest.Token) || strings.ContainsRune(err.Error(), 0x1b) {
			t.Errorf("%s: (%s) %v, after %v", c.name, fault.Of(err), err, waits)
		}
	}
	if told, _ := f.Told(); len(told) != 0 {
		t.Errorf("told %+v", told)
	}
}

// FuzzPost: whatever a ticket says, nothing but a status goes out, and only to
// its forge.
func FuzzPost(f *testing.F) {
	f.Add("github", "http://h/api", "o/r", commit, "success", "t", "c", "d", `{"message": "m"}`, 201)
	f.Add("gitlab", "https://h", "g/s/r", commit, "running", "", "", "", "", 400)
	f.Add("github", "http://h?", "o/r", commit, "success", "", "", "", "", 201)
	f.Add("gitea", "http://h/../x", "../..", "HEAD", "x", "javascript:", "\x00", strings.Repeat("ä", 200), "[", 302)
	f.Fuzz(func(t *testing.T, forge, url, repository, id, state, target, name, description, answer string, code int) {
		if code < 200 || code > 599 {
			return
		}
		sent := 0
		r := build.Report{Forge: forge, URL: url, Repository: repository, Commit: id, State: state, Target: target, Context: name, Description: description}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := status.Post(ctx, r, status.Options{Token: statustest.Token, Agent: "a", Log: slog.New(slog.DiscardHandler),
			Pause: func(context.Context, time.Duration) error { return context.Canceled },
			Transport: roundTrip(func(req *http.Request) (*http.Response, error) {
				sent++
				if p := req.URL.EscapedPath(); req.Method != "POST" || !strings.HasSuffix(p, "/statuses/"+id) || req.URL.RawQuery != "" {
					t.Errorf("%s %s", req.Method, req.URL)
				}
				rec := httptest.NewRecorder()
				rec.WriteHeader(code)
				rec.WriteString(answer)
				return rec.Result(), nil
			})})
		if sent > 1 || err == nil && sent == 0 {
			t.Errorf("sent %d times, %v", sent, err)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
