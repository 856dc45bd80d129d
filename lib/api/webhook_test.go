package api_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/webhook"
)

// hookLab is a lab with a job that has hooks.
type hookLab struct {
	*lab
	secret map[webhook.Forge]string
}

func newHookLab(t *testing.T, triggers string) *hookLab {
	t.Helper()
	l := &hookLab{newLab(t), map[webhook.Forge]string{}}
	l.put("j", triggers)
	for _, f := range webhook.Forges() {
		h, err := webhook.NewHooks(l.repo.Store()).Create(t.Context(), "j", f, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		l.secret[f] = h.Secret
	}
	return l
}

func (l *hookLab) put(job, triggers string) {
	l.Helper()
	l.want(200, "PUT", "/jobs/"+job, fmt.Sprintf(`{"job_id": %q, "triggers": %s, "tasks": [
		{"type": "git-checkout", "params": {"repository": "https://git.example/hello.git", "ref": "main"}},
		{"type": "execute-shell", "params": {"script": ":"}}]}`, job, triggers))
}

// sent is a recorded delivery.
func sent(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("../webhook/testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// signed are the headers of a delivery, which a secret has signed.
func signed(f webhook.Forge, event, body, secret string) []string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(body))
	sum := hex.EncodeToString(mac.Sum(nil))
	h := []string{"Content-Type", "application/json"}
	switch f {
	case webhook.GitHub:
		return append(h, "X-GitHub-Event", event, "X-GitHub-Delivery", "d-1", "X-Hub-Signature-256", "sha256="+sum)
	case webhook.Gitea:
		return append(h, "X-Gitea-Event", event, "X-Gitea-Delivery", "d-1", "X-Gitea-Signature", sum)
	}
	return append(h, "X-Gitlab-Event", event, "X-Gitlab-Event-UUID", "d-1", "X-Gitlab-Token", secret)
}

// hooked is a reply to a delivery.
type hooked struct {
	Builds []struct {
		JobID  string `json:"job_id"`
		Number int    `json:"build_number"`
	}
	Repeated bool
	Reason   string
}

func (l *hookLab) deliver(f webhook.Forge, event, body string) hooked {
	l.Helper()
	r := l.want(202, "POST", "/hooks/"+string(f)+"/j", body, signed(f, event, body, l.secret[f])...)
	var h hooked
	if err := json.Unmarshal([]byte(r.body), &h); err != nil || h.Builds == nil {
		l.Fatalf("%s: %v", r.body, err)
	}
	return h
}

// TestHookBegins: each forge's delivery begins a build of exactly its commit,
// that knows what has happened.
func TestHookBegins(t *testing.T) {
	l := newHookLab(t, `{"events": ["push", "tag", "pull_request"], "forks": true}`)
	for i, c := range []struct {
		forge             webhook.Forge
		event, name       string
		commit, what, who string
	}{
		{webhook.GitHub, "push", "github-push", "6113728f27ae82c7b1a177c8d03f9e96e0adf246", "CI_BRANCH=master", "Codertocat"},
		{webhook.GitHub, "push", "github-push-tag", "6113728f27ae82c7b1a177c8d03f9e96e0adf246", "CI_TAG=simple-tag", "Codertocat"},
		{webhook.GitHub, "pull_request", "github-pull-request-opened", "ec26c3e57ca3a959ca5aad62de7213c562f8c821", "CI_PULL_REQUEST=2", "Codertocat"},
		{webhook.GitLab, "Push Hook", "gitlab-push-event", "da1560886d4f094c3e6c9ef40349f7d38b5d27d7", "CI_MESSAGE=fixed readme", "John Smith"},
		{webhook.GitLab, "Merge Request Hook", "gitlab-merge-request-event", "da1560886d4f094c3e6c9ef40349f7d38b5d27d7", "CI_REF=refs/merge-requests/1/head", "root"},
		{webhook.Gitea, "push", "gitea-push-event", "67b56589a45103f891bdee7c0546e5d40bc02001", "CI_REPOSITORY=example/example", "example"},
		{webhook.Gitea, "pull_request", "gitea-pull-request-event", "48e773f892a831faa47c0a160d1b7f0cd369ae2a", "CI_FORK=true", "example2"},
	} {
		body := sent(t, c.name)
		h := l.deliver(c.forge, c.event, body)
		if len(h.Builds) != 1 || h.Builds[0].Number != i+1 || h.Builds[0].JobID != "j" || h.Repeated || h.Reason != "" {
			t.Fatalf("%s: %+v", c.name, h)
		}
		if again := l.deliver(c.forge, c.event, body); len(again.Builds) != 1 || again.Builds[0].Number != i+1 || !again.Repeated {
			t.Errorf("%s once more: %+v", c.name, again)
		}
		l.control()
		s := l.state("j", i+1)
		cause, _ := s["cause"].(map[string]any)
		event, _ := cause["event"].(map[string]any)
		if s["ref"] != c.commit || cause["kind"] != "webhook" || cause["by"] != c.who || event["commit"] != c.commit || event["delivery"] != "d-1" || event["forge"] != string(c.forge) {
			t.Errorf("%s: %v", c.name, s)
		}
		name, value, _ := strings.Cut(c.what, "=")
		steps := s["tasks"].(map[string]any)
		env := steps["1"].(map[string]any)["env"].(map[string]any)
		if env[name] != value || env["CI_COMMIT"] != c.commit {
			t.Errorf("%s: %v", c.name, env)
		}
		if params := steps["0"].(map[string]any)["params"].(map[string]any); params["ref"] != c.commit {
			t.Errorf("%s: checks out %v", c.name, params)
		}
	}
	if h := l.deliver(webhook.GitHub, "ping", sent(t, "github-ping")); len(h.Builds) != 0 || h.Reason != "nothing to build: it is a ping" {
		t.Errorf("ping: %+v", h)
	}
	form := url.Values{"payload": {strings.Replace(sent(t, "github-push"), "Initial commit", "another", 1)}}.Encode()
	h := signed(webhook.GitHub, "push", form, l.secret[webhook.GitHub])
	h[1] = "application/x-www-form-urlencoded"
	if r := l.want(202, "POST", "/hooks/github/j", form, h...); !strings.Contains(r.body, `"build_number":8`) {
		t.Error(r.body)
	}
}

// TestHookRejects: what the job does not want begins nothing, and says why.
func TestHookRejects(t *testing.T) {
	l := newHookLab(t, `{"branches": ["release/**"]}`)
	if h := l.deliver(webhook.GitHub, "push", sent(t, "github-push")); len(h.Builds) != 0 || h.Reason != `branch "master" does not match the job's triggers.branches` {
		t.Errorf("%+v", h)
	}
	// Foreign code does not get the job's secrets unless the job says so.
	l.put("j", `{"events": ["pull_request"]}`)
	if h := l.deliver(webhook.Gitea, "pull_request", sent(t, "gitea-pull-request-event")); len(h.Builds) != 0 || !strings.Contains(h.Reason, "another repository") {
		t.Errorf("%+v", h)
	}
	l.put("j", `{"skip": ["initial"]}`)
	if h := l.deliver(webhook.GitHub, "push", sent(t, "github-push")); len(h.Builds) != 0 || h.Reason != `the commit's message has "initial"` {
		t.Errorf("%+v", h)
	}
	if ns := l.want(200, "GET", "/jobs/j/builds", "").body; !strings.Contains(ns, `"builds":[]`) {
		t.Error(ns)
	}
}

// TestHookSecurity: what is not signed, or is not what it should be, begins
// nothing and tells nothing.
func TestHookSecurity(t *testing.T) {
	l := newHookLab(t, `{}`)
	l.put("other", `{}`)
	other, err := webhook.NewHooks(l.repo.Store()).Create(t.Context(), "other", webhook.GitHub, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	body := sent(t, "github-push")
	hub := func(key string) []string { return signed(webhook.GitHub, "push", body, key) }
	good := hub(l.secret[webhook.GitHub])
	refusals := map[string]bool{}
	for name, c := range map[string]struct {
		path, body string
		header     []string
		code       int
	}{
		"unsigned":               {"github/j", body, []string{"Content-Type", "application/json", "X-GitHub-Event", "push"}, 401},
		"wrongly signed":         {"github/j", body, hub("guess"), 401},
		"changed afterwards":     {"github/j", body + " ", good, 401},
		"for another job":        {"github/j", body, hub(other.Secret), 401},
		"for another forge":      {"gitea/j", body, signed(webhook.Gitea, "push", body, l.secret[webhook.GitHub]), 401},
		"to a job without hooks": {"gitlab/other", body, signed(webhook.GitLab, "Push Hook", body, "x"), 401},
		"to no job":              {"github/none", body, good, 401},
		"oversized":              {"github/j", strings.Repeat("x", webhook.MaxSize+1), good, 413},
		"signed garbage":         {"github/j", "\x00garbage", signed(webhook.GitHub, "push", "\x00garbage", l.secret[webhook.GitHub]), 400},
		"of another type":        {"github/j", body, append([]string{"Content-Type", "text/xml"}, good[2:]...), 415},
		"to another forge":       {"svn/j", body, good, 400},
		"to a bad name":          {"github/a%2Fb", body, good, 400},
		"a bearer token instead": {"github/j", body, []string{"Content-Type", "application/json", "Authorization", "Bearer " + l.secret[webhook.GitHub]}, 401},
	} {
		r := l.do("POST", "/hooks/"+c.path, c.body, c.header...)
		if r.StatusCode != c.code || r.Header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s, want %d", name, r.StatusCode, r.body, c.code)
		}
		if c.code == 401 {
			refusals[r.body] = true
		}
	}
	if len(refusals) != 1 {
		t.Errorf("the refusals differ: %v", refusals)
	}
	for _, id := range []string{"j", "other"} {
		if ns := l.want(200, "GET", "/jobs/"+id+"/builds", "").body; !strings.Contains(ns, `"builds":[]`) {
			t.Error(ns)
		}
	}

	// Replayed, also with another id, which nobody has signed.
	first := l.deliver(webhook.GitHub, "push", body)
	replay := append([]string{}, good...)
	replay[5] = "d-2"
	r := l.want(202, "POST", "/hooks/github/j", body, replay...)
	if len(first.Builds) != 1 || !strings.Contains(r.body, `"build_number":1`) || !strings.Contains(r.body, `"repeated":true`) {
		t.Errorf("%+v, %s", first, r.body)
	}
	// To a job whose steps have changed meanwhile, too.
	l.want(200, "PUT", "/jobs/j", `{"job_id": "j", "tasks": [`+strings.TrimSuffix(strings.Repeat(`{"type": "execute-shell", "params": {"script": ":"}},`, 400), ",")+`]}`)
	if r := l.want(202, "POST", "/hooks/github/j", body, good...); !strings.Contains(r.body, `"repeated":true`) {
		t.Error(r.body)
	}
	if ns := l.want(200, "GET", "/jobs/j/builds", "").body; !strings.Contains(ns, `"builds":[1]`) {
		t.Error(ns)
	}

	// After a rotation the old secret counts as long as was said, and no longer.
	hooks := webhook.NewHooks(l.repo.Store())
	if _, err := hooks.Rotate(t.Context(), "j", webhook.GitHub, time.Hour, time.Now()); err != nil {
		t.Fatal(err)
	}
	l.want(202, "POST", "/hooks/github/j", body, good...)
	if _, err := hooks.Rotate(t.Context(), "j", webhook.GitHub, 0, time.Now()); err != nil {
		t.Fatal(err)
	}
	l.want(401, "POST", "/hooks/github/j", body, good...)

	// No secret is in what the server has logged or serves.
	for _, secret := range l.secret {
		if strings.Contains(l.log.String(), secret) || strings.Contains(l.want(200, "GET", "/jobs/j", "").body, secret) {
			t.Error("a secret has come out")
		}
	}
}

// TestHookHostile: what an event says in words is nothing but words.
func TestHookHostile(t *testing.T) {
	l := newHookLab(t, `{}`)
	var event map[string]any
	if err := json.Unmarshal([]byte(sent(t, "github-push")), &event); err != nil {
		t.Fatal(err)
	}
	hostile := "$(touch /tmp/x) `id`; \"<script>alert(1)</script>\x1b[31m\r\nX-Evil: 1\x00" + strings.Repeat("A", 1<<20)
	event["head_commit"].(map[string]any)["message"] = hostile
	event["sender"].(map[string]any)["login"] = hostile
	event["compare"] = "javascript:alert(1)//" + hostile
	body, err := json.Marshal(event)
	if err != nil {
		t.Fatal(err)
	}
	if h := l.deliver(webhook.GitHub, "push", string(body)); len(h.Builds) != 1 {
		t.Fatalf("%+v", h)
	}
	l.control()
	s := l.state("j", 1)
	raw, err := json.Marshal(s)
	if err != nil || len(raw) > 40_000 {
		t.Errorf("the record has %d bytes", len(raw))
	}
	for name, v := range s["parameters"].(map[string]any) {
		if text := v.(string); name == "CI_EVENT_URL" || strings.ContainsAny(text, "\x00\x1b\r") || name != "CI_MESSAGE" && strings.Contains(text, "\n") || len(text) > 4096 {
			t.Errorf("%s=%.100q", name, text)
		}
	}
	if by := s["cause"].(map[string]any)["by"].(string); strings.ContainsAny(by, "\r\n\x00\x1b") || len(by) > 512 {
		t.Errorf("by %.100q", by)
	}
	// Names that become parts of addresses and of git's requests are refused.
	for path, v := range map[string]string{"ref": "refs/heads/a\nb", "after": "--upload-pack=/bin/sh", "before": "../../x"} {
		var e map[string]any
		if err := json.Unmarshal([]byte(sent(t, "github-push")), &e); err != nil {
			t.Fatal(err)
		}
		e[path] = v
		b, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		l.want(400, "POST", "/hooks/github/j", string(b), signed(webhook.GitHub, "push", string(b), l.secret[webhook.GitHub])...)
	}
}
