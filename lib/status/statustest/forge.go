// Package statustest has forges for tests: servers that take commit statuses as
// the documentation of GitHub, GitLab and Gitea has it, and nothing else.
package statustest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Token is the one that a forge takes.
const Token = "ghp_notarealtoken1234567890"

// Status is one that a forge was told.
type Status struct {
	Repository, Commit          string
	State, Context, Description string
	Target                      string
}

// Forge is a server. It may be used by several goroutines.
type Forge struct {
	URL string // of its API

	kind string

	mu     sync.Mutex
	told   []Status
	script []Answer
	held   int
	asked  int
	news   chan struct{} // closed and replaced when something is told
}

// Answer is what a forge says instead of doing what it is asked. Done means that
// it has done it.
type Answer struct {
	Code   int // 0: it breaks the connection
	Header http.Header
	Body   string
	Done   bool
	// Hold makes it wait until this is closed, and then do what it is asked. The
	// rest does not matter then.
	Hold <-chan struct{}
}

// New starts a forge of a kind: "github", "gitlab" or "gitea".
func New(t testing.TB, kind string) *Forge {
	f := &Forge{kind: kind, news: make(chan struct{})}
	srv := httptest.NewServer(f)
	t.Cleanup(srv.Close)
	f.URL = srv.URL + map[string]string{"github": "/api/v3", "gitlab": "/api/v4", "gitea": "/api/v1"}[kind]
	return f
}

// Answer makes the forge answer the next requests so.
func (f *Forge) Answer(as ...Answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.script = append(f.script, as...)
}

// Told is what the forge was told, in order; news is closed when there is more.
func (f *Forge) Told() (told []Status, news <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.told), f.news
}

// Held is how many requests were or are made to wait.
func (f *Forge) Held() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.held
}

// Asked is how many requests there were, good and bad.
func (f *Forge) Asked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// ServeHTTP is the API.
func (f *Forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s, code, problem := f.read(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if code == 0 && len(f.script) > 0 {
		a := f.script[0]
		f.script = f.script[1:]
		if a.Hold != nil {
			f.held++
			f.mu.Unlock()
			<-a.Hold
			f.mu.Lock()
			f.note(s)
			w.WriteHeader(http.StatusCreated)
			return
		}
		if a.Done {
			f.note(s)
		}
		if a.Code == 0 {
			panic(http.ErrAbortHandler)
		}
		for name, v := range a.Header {
			w.Header()[name] = v
		}
		w.WriteHeader(a.Code)
		io.WriteString(w, a.Body)
		return
	}
	if code == 0 {
		f.note(s)
		code, problem = http.StatusCreated, "created"
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]string{"message": problem})
}

func (f *Forge) note(s Status) {
	f.told = append(f.told, s)
	close(f.news)
	f.news = make(chan struct{})
}

var (
	hub = regexp.MustCompile(`^/api/v[13]/repos/([^/]+/[^/]+)/statuses/([0-9a-f]{40})$`)
	lab = regexp.MustCompile(`^/api/v4/projects/([^/]+)/statuses/([0-9a-f]{40})$`)
)

// read checks a request as the forge does.
func (f *Forge) read(r *http.Request) (s Status, code int, problem string) {
	path, auth, states := hub, "Bearer "+Token, []string{"error", "failure", "pending", "success"}
	got := r.Header.Get("Authorization")
	switch f.kind {
	case "gitea":
		auth, states = "token "+Token, append(states, "warning")
	case "gitlab":
		path, auth, states = lab, Token, []string{"pending", "running", "success", "failed", "canceled", "skipped"}
		got = r.Header.Get("PRIVATE-TOKEN")
	}
	if r.Method != http.MethodPost {
		return s, http.StatusMethodNotAllowed, "method not allowed"
	}
	m := path.FindStringSubmatch(r.URL.EscapedPath())
	if m == nil || r.URL.RawQuery != "" {
		return s, http.StatusNotFound, "404 Not Found"
	}
	s.Repository, s.Commit = m[1], m[2]
	if f.kind == "gitlab" {
		s.Repository, _ = url.PathUnescape(m[1])
	}
	switch {
	case got != auth:
		return s, http.StatusUnauthorized, "Bad credentials"
	case f.kind == "github" && (r.Header.Get("Accept") != "application/vnd.github+json" || r.Header.Get("X-GitHub-Api-Version") == "" || r.Header.Get("User-Agent") == ""):
		return s, http.StatusForbidden, "Request forbidden by administrative rules. Please make sure your request has a User-Agent header"
	case r.Header.Get("Content-Type") != "application/json":
		return s, http.StatusUnsupportedMediaType, "unsupported media type"
	case strings.Contains(s.Repository, "missing"):
		return s, http.StatusNotFound, "Not Found"
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		return s, http.StatusBadRequest, err.Error()
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	var in struct {
		State       string `json:"state"`
		Target      string `json:"target_url"`
		Description string `json:"description"`
		Context     string `json:"context"`
	}
	if err := dec.Decode(&in); err != nil {
		return s, http.StatusUnprocessableEntity, err.Error()
	}
	target, err := url.Parse(in.Target)
	switch {
	case !slices.Contains(states, in.State):
		return s, http.StatusUnprocessableEntity, fmt.Sprintf("state %q is not included in the list", in.State)
	case len([]rune(in.Description)) > 140:
		return s, http.StatusUnprocessableEntity, "description is too long (maximum is 140 characters)"
	case err != nil || in.Target != "" && target.Scheme != "http" && target.Scheme != "https":
		return s, http.StatusUnprocessableEntity, "target_url must use http(s) scheme"
	}
	s.State, s.Target, s.Description, s.Context = in.State, in.Target, in.Description, in.Context
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.kind != "gitlab" || len(f.told) == 0 {
		return s, 0, ""
	}
	// A pipeline's job is at a state, and cannot come to it again.
	if last := f.told[len(f.told)-1]; last.Commit == s.Commit && last.Context == s.Context && last.State == s.State {
		event := map[string]string{"running": "run", "success": "success", "failed": "drop", "canceled": "cancel"}[s.State]
		return s, http.StatusBadRequest, fmt.Sprintf("Cannot transition status via :%s from :%s (Reason(s): Status cannot transition via %q)", event, s.State, event)
	}
	return s, 0, ""
}
