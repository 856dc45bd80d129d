package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/distci/distci/lib/fault"
)

const secret = "correct horse"

// sign signs a body as the forges do, by another way than verify.
func sign(body, key string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(body))
	return hex.EncodeToString(mac.Sum(nil))
}

// headers are those of a delivery, signed with key.
func headers(f Forge, event, body, key string) http.Header {
	h := http.Header{}
	h.Set("Content-Type", "application/json")
	switch f {
	case GitHub:
		h.Set("X-GitHub-Event", event)
		h.Set("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")
		h.Set("X-Hub-Signature-256", "sha256="+sign(body, key))
	case Gitea:
		h.Set("X-Gitea-Event", event)
		h.Set("X-Gitea-Delivery", "f6266f16-1bf3-46a5-9ea4-602e06ead473")
		h.Set("X-Gitea-Signature", sign(body, key))
	case GitLab:
		h.Set("X-Gitlab-Event", event)
		h.Set("X-Gitlab-Event-UUID", "13792a34-cac6-4fda-95a8-c58e00a3954e")
		h.Set("X-Gitlab-Token", key)
	}
	return h
}

func recorded(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestRecorded reads what the forges have sent.
func TestRecorded(t *testing.T) {
	const zero, simple = "0000000000000000000000000000000000000000", "refs/tags/simple-tag"
	hello := "https://github.com/Codertocat/Hello-World"
	for _, c := range []struct {
		name  string
		forge Forge
		event string
		want  Event
	}{
		{"github-push", GitHub, "push", Event{Kind: Push, Repository: "Codertocat/Hello-World", Ref: "refs/heads/master", Branch: "master",
			Commit: "6113728f27ae82c7b1a177c8d03f9e96e0adf246", Author: "Codertocat <21031067+Codertocat@users.noreply.github.com>", Message: "Initial commit",
			Sender: "Codertocat", URL: hello + "/commit/6113728f27ae82c7b1a177c8d03f9e96e0adf246", Paths: []string{"README.md"}}},
		{"github-push-tag", GitHub, "push", Event{Kind: Tag, Repository: "Codertocat/Hello-World", Ref: simple, Tag: "simple-tag", Before: "",
			Commit: "6113728f27ae82c7b1a177c8d03f9e96e0adf246", Author: "Codertocat <21031067+Codertocat@users.noreply.github.com>", Message: "Adding a .gitignore file",
			Sender: "Codertocat", URL: hello + "/compare/simple-tag"}},
		{"github-push-tag-deleted", GitHub, "push", Event{Kind: Tag, Repository: "Codertocat/Hello-World", Ref: simple, Tag: "simple-tag",
			Before: "6113728f27ae82c7b1a177c8d03f9e96e0adf246", Commit: zero, Sender: "Codertocat", URL: hello + "/compare/d70c5c6fa638^...000000000000",
			Nothing: "the ref was deleted"}},
		{"github-pull-request-opened", GitHub, "pull_request", Event{Kind: PullRequest, Repository: "Codertocat/Hello-World", Ref: "refs/pull/2/head", Branch: "changes",
			Commit: "ec26c3e57ca3a959ca5aad62de7213c562f8c821", Author: "Codertocat", Message: "Update the README with new information.",
			Sender: "Codertocat", URL: hello + "/pull/2", Pull: &Pull{2, "Update the README with new information.", "master", false}}},
		{"github-pull-request-synchronize", GitHub, "pull_request", Event{Kind: PullRequest, Repository: "Codertocat/Hello-World", Ref: "refs/pull/2/head", Branch: "changes",
			Commit: "ec26c3e57ca3a959ca5aad62de7213c562f8c821", Author: "Codertocat", Message: "Update the README with new information.",
			Sender: "Codertocat", URL: hello + "/pull/2", Pull: &Pull{2, "Update the README with new information.", "master", false}}},
		{"github-pull-request-closed", GitHub, "pull_request", Event{Kind: PullRequest, Repository: "Codertocat/Hello-World", Ref: "refs/pull/2/head", Branch: "changes",
			Commit: "ec26c3e57ca3a959ca5aad62de7213c562f8c821", Author: "Codertocat", Message: "Update the README with new information.",
			Sender: "Codertocat", URL: hello + "/pull/2", Pull: &Pull{2, "Update the README with new information.", "master", false},
			Nothing: `a pull request that is "closed" changes no commit`}},
		{"github-ping", GitHub, "ping", Event{Kind: Ping, Repository: "Octocoders/Hello-World", Sender: "Codertocat", URL: "https://github.com/Octocoders/Hello-World", Nothing: "it is a ping"}},
		{"gitlab-push-event", GitLab, "Push Hook", Event{Kind: Push, Repository: "mike/diaspora", Ref: "refs/heads/master", Branch: "master",
			Commit: "da1560886d4f094c3e6c9ef40349f7d38b5d27d7", Before: "95790bf891e76fee5e1747ab589903a6a1f80f22",
			Author: "GitLab dev user <gitlabdev@dv6700.(none)>", Message: "fixed readme", Sender: "John Smith", URL: "http://example.com/mike/diaspora",
			Paths: []string{"CHANGELOG", "app/controller/application.rb", "CHANGELOG", "app/controller/application.rb"}}}, // 2 of 4 commits
		{"gitlab-tag-event", GitLab, "Tag Push Hook", Event{Kind: Tag, Repository: "jsmith/example", Ref: "refs/tags/v1.0.0", Tag: "v1.0.0",
			Commit: "82b3d5ae55f7080f1e6022629cdb57bfae7cccc7", Author: "John Smith", Sender: "John Smith", URL: "http://example.com/jsmith/example"}},
		{"gitlab-merge-request-event", GitLab, "Merge Request Hook", Event{Kind: PullRequest, Repository: "gitlabhq/gitlab-test", Ref: "refs/merge-requests/1/head", Branch: "ms-viewport",
			Commit: "da1560886d4f094c3e6c9ef40349f7d38b5d27d7", Author: "GitLab dev user <gitlabdev@dv6700.(none)>", Message: "fixed readme", Sender: "root",
			URL: "http://example.com/diaspora/merge_requests/1", Pull: &Pull{1, "MS-Viewport", "master", false}}},
		{"gitea-push-event", Gitea, "push", Event{Kind: Push, Repository: "example/example", Ref: "refs/heads/master", Branch: "master",
			Commit: "67b56589a45103f891bdee7c0546e5d40bc02001", Author: "example <example@example.com>", Message: "example\n", Sender: "example",
			URL:   "http://localhost:3000/example/example/compare/0000000000000000000000000000000000000000...67b56589a45103f891bdee7c0546e5d40bc02001",
			Paths: []string{"example"}}},
		{"gitea-pull-request-event", Gitea, "pull_request", Event{Kind: PullRequest, Repository: "example/example", Ref: "refs/pull/2/head", Branch: "master",
			Commit: "48e773f892a831faa47c0a160d1b7f0cd369ae2a", Author: "example2", Message: "update", Sender: "example2",
			URL: "http://localhost:3000/example/example/pulls/2", Pull: &Pull{2, "update", "master", true}}},
	} {
		body := recorded(t, c.name)
		h := headers(c.forge, c.event, body, secret)
		got, err := Read(c.forge, h, []byte(body), "another", secret)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if got.Delivery == "" || !strings.HasPrefix(got.Key, string(c.forge)+"-") || got.Forge != c.forge {
			t.Errorf("%s: delivery %q, key %q", c.name, got.Delivery, got.Key)
		}
		c.want.Forge, c.want.Delivery, c.want.Key = c.forge, got.Delivery, got.Key
		if !reflect.DeepEqual(*got, c.want) {
			t.Errorf("%s:\n got %+v %+v\nwant %+v %+v", c.name, *got, got.Pull, c.want, c.want.Pull)
		}
		if c.forge == GitLab {
			continue
		}
		// The same as a form. GitHub signs the form, Gitea what is in it.
		form := url.Values{"payload": {body}}.Encode()
		h = headers(c.forge, c.event, form, secret)
		if c.forge == Gitea {
			h = headers(c.forge, c.event, body, secret)
		}
		h.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
		if again, err := Read(c.forge, h, []byte(form), secret); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%s as a form: %+v, %v", c.name, again, err)
		}
	}
}

// with is a recorded delivery with some values changed; a key is a path.
func with(t *testing.T, name string, change map[string]any) string {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal([]byte(recorded(t, name)), &root); err != nil {
		t.Fatal(err)
	}
	for path, v := range change {
		m := root
		parts := strings.Split(path, ".")
		for _, p := range parts[:len(parts)-1] {
			m = m[p].(map[string]any)
		}
		m[parts[len(parts)-1]] = v
	}
	b, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

const (
	one = "1111111111111111111111111111111111111111"
	two = "2222222222222222222222222222222222222222"
)

// TestAllPaths: the files of a push are known to be all only if nothing is
// left out.
func TestAllPaths(t *testing.T) {
	commit := map[string]any{"id": two, "added": []string{"a"}, "modified": []string{"b"}, "removed": []string{"c"}}
	var many []string
	for range 3000 {
		many = append(many, "x")
	}
	large := map[string]any{"id": two, "added": many}
	for _, c := range []struct {
		name   string
		forge  Forge
		event  string
		change map[string]any
		want   bool
	}{
		{"github-push", GitHub, "push", map[string]any{"before": one, "commits": []any{commit, commit}}, true},
		{"github-push", GitHub, "push", map[string]any{"before": one, "commits": []any{commit}, "forced": true}, false},
		{"github-push", GitHub, "push", map[string]any{"before": one, "commits": []any{}}, false},
		{"github-push", GitHub, "push", map[string]any{"before": one, "commits": []any{large}}, false},
		{"github-push", GitHub, "push", map[string]any{"commits": []any{commit}}, false},
		{"gitea-push-event", Gitea, "push", map[string]any{"before": one, "commits": []any{commit}, "total_commits": 1}, true},
		{"gitea-push-event", Gitea, "push", map[string]any{"before": one, "commits": []any{commit}, "total_commits": 6}, false},
		{"gitea-push-event", Gitea, "push", map[string]any{"before": one, "commits": []any{commit}}, false},
		{"gitlab-push-event", GitLab, "Push Hook", map[string]any{"commits": []any{commit}, "total_commits_count": 1}, true},
		{"gitlab-push-event", GitLab, "Push Hook", map[string]any{"commits": []any{}, "total_commits_count": 0}, false},
	} {
		body := with(t, c.name, c.change)
		e, err := Read(c.forge, headers(c.forge, c.event, body, secret), []byte(body), secret)
		if err != nil || e.AllPaths != c.want {
			t.Errorf("%s with %.100v: %v, want %v; %v", c.name, c.change, e, c.want, err)
		}
	}
}

// TestOddDeliveries: what the recorded ones do not show.
func TestOddDeliveries(t *testing.T) {
	for _, c := range []struct {
		name   string
		forge  Forge
		event  string
		change map[string]any
		want   string // the kind, a commit's first digit, what is to be done
	}{
		{"github-push-tag", GitHub, "push", map[string]any{"after": one, "head_commit": map[string]any{"id": two}}, "tag 2 "},
		{"gitlab-tag-event", GitLab, "", map[string]any{"after": one, "checkout_sha": two}, "tag 2 "},
		{"gitlab-push-event", GitLab, "System Hook", nil, "push d "},
		{"gitlab-push-event", GitLab, "", map[string]any{"after": strings.Repeat("0", 40), "checkout_sha": nil}, "push  the ref was deleted"},
		{"github-push", GitHub, "push", map[string]any{"ref": "refs/notes/commits"}, " 6 the push is to neither a branch nor a tag"},
		{"github-push", GitHub, "issues", nil, `  events "issues" start no builds`},
		{"gitlab-push-event", GitLab, "", map[string]any{"object_kind": "note", "object_attributes": []any{1}}, `  events "note" start no builds`},
		{"gitlab-merge-request-event", GitLab, "", map[string]any{"object_attributes.action": "update"}, `pull_request d a merge request's action "update" that brings no commit`},
		{"gitlab-merge-request-event", GitLab, "", map[string]any{"object_attributes.action": "update", "object_attributes.oldrev": one}, "pull_request d "},
		{"gitlab-merge-request-event", GitLab, "", map[string]any{"object_attributes.source_project_id": 15}, "pull_request d fork"},
		{"github-pull-request-opened", GitHub, "pull_request", map[string]any{"pull_request.head.repo": nil}, "pull_request e fork"},
		{"gitea-pull-request-event", Gitea, "pull_request", map[string]any{"action": "synchronized"}, "pull_request 4 fork"},
		{"gitea-pull-request-event", Gitea, "pull_request", map[string]any{"action": "label_updated"}, `pull_request 4 a pull request that is "label_updated" changes no commit`},
	} {
		body := with(t, c.name, c.change)
		e, err := Read(c.forge, headers(c.forge, c.event, body, secret), []byte(body), secret)
		if err != nil {
			t.Errorf("%s with %v: %v", c.name, c.change, err)
			continue
		}
		does := e.Nothing
		if does == "" && e.Pull != nil && e.Pull.Fork {
			does = "fork"
		}
		if got := string(e.Kind) + " " + e.Commit[:min(1, len(e.Commit))] + " " + does; got != c.want {
			t.Errorf("%s with %v: %q, want %q", c.name, c.change, got, c.want)
		}
	}
}

// TestSignatures: nothing passes that one of the secrets has not signed.
func TestSignatures(t *testing.T) {
	body := recorded(t, "github-push")
	for _, f := range Forges() {
		good := func() http.Header { return headers(f, "push", body, secret) }
		for name, c := range map[string]struct {
			header  http.Header
			body    string
			secrets []string
		}{
			"unsigned":            {http.Header{"Content-Type": {"application/json"}, "X-Github-Event": {"push"}}, body, []string{secret}},
			"no secrets":          {good(), body, nil},
			"an empty secret":     {headers(f, "push", body, ""), body, []string{""}},
			"another's secret":    {headers(f, "push", body, "other"), body, []string{secret}},
			"a prefix of it":      {headers(f, "push", body, secret[:5]), body, []string{secret}},
			"longer than it":      {headers(f, "push", body, secret+"x"), body, []string{secret}},
			"a changed body":      {good(), body + " ", []string{secret}},
			"nothing but garbage": {good(), "\x00\xff{", []string{secret}},
		} {
			if f == GitLab && (name == "a changed body" || name == "nothing but garbage") {
				continue // it signs no bodies
			}
			if e, err := Read(f, c.header, []byte(c.body), c.secrets...); !errors.Is(err, ErrSignature) || e != nil {
				t.Errorf("%s, %s: %+v, %v", f, name, e, err)
			}
		}
		if _, err := Read(f, good(), []byte(body), "old", secret); errors.Is(err, ErrSignature) {
			t.Errorf("%s: the second of two secrets does not count", f)
		}
		// The signature of one forge is none for another.
		for _, other := range Forges() {
			if _, err := Read(other, good(), []byte(body), secret); other != f && !errors.Is(err, ErrSignature) {
				t.Errorf("signed for %s, sent as %s: %v", f, other, err)
			}
		}
	}
	h := headers(GitHub, "push", body, secret)
	h.Set("X-Hub-Signature", "sha1=0000000000000000000000000000000000000000")
	h.Del("X-Hub-Signature-256")
	if _, err := Read(GitHub, h, []byte(body), secret); !errors.Is(err, ErrSignature) {
		t.Errorf("SHA-1: %v", err)
	}
}

// TestRepeats: a repeat has the same key, whatever its headers say that nobody
// has signed.
func TestRepeats(t *testing.T) {
	body := recorded(t, "github-push")
	read := func(f Forge, h http.Header, body string) string {
		t.Helper()
		e, err := Read(f, h, []byte(body), secret)
		if err != nil {
			t.Fatal(err)
		}
		return e.Key
	}
	h := headers(GitHub, "push", body, secret)
	key := read(GitHub, h, body)
	h.Set("X-GitHub-Delivery", "a-new-one")
	if read(GitHub, h, body) != key {
		t.Error("a recorded delivery is a new one by another id")
	}
	if other := with(t, "github-push", map[string]any{"before": one}); read(GitHub, headers(GitHub, "push", other, secret), other) == key {
		t.Error("two deliveries have the same key")
	}
	body = recorded(t, "gitlab-push-event")
	h = headers(GitLab, "Push Hook", body, secret)
	key = read(GitLab, h, body)
	h.Set("Idempotency-Key", "6f3a")
	if read(GitLab, h, body) == key {
		t.Error("GitLab: another delivery with the same body has the same key")
	}
}

func TestUnreadable(t *testing.T) {
	for _, c := range []struct {
		event, typ, body, want string
	}{
		{"push", "text/plain", "{}", ErrMediaType.Error()},
		{"push", "", "{}", ErrMediaType.Error()},
		{"push", "application/json", "[]", "the delivery cannot be read: json: cannot unmarshal array"},
		{"push", "application/json", "{", "the delivery cannot be read: unexpected end"},
		{"push", "application/json", "{}", "the delivery cannot be read: a push without ref and after"},
		{"", "application/json", "{}", "the delivery cannot be read: no header says which event it is of"},
		{"pull_request", "application/json", "{}", "the delivery cannot be read: a pull request without pull_request"},
		{"push", "application/x-www-form-urlencoded", "a=b", "the form cannot be read: it has no field payload"},
		{"push", "application/x-www-form-urlencoded", "payload=%zz", `the form cannot be read: invalid URL escape "%zz"`},
		{"push", "application/json", with(t, "github-push", map[string]any{"after": "HEAD", "head_commit": nil}), `the delivery cannot be read: commit "HEAD": expected 40 or 64 hex digits`},
		{"push", "application/json", with(t, "github-push", map[string]any{"before": "--upload-pack=x"}), `the delivery cannot be read: commit before "--upload-pack=x"`},
		{"push", "application/json", with(t, "github-push", map[string]any{"repository.full_name": "a/../../b"}), `the delivery cannot be read: repository "a/../../b"`},
		{"push", "application/json", with(t, "github-push", map[string]any{"repository.full_name": "a/b?c"}), `the delivery cannot be read: repository "a/b?c"`},
		{"push", "application/json", with(t, "github-push", map[string]any{"ref": "refs/heads/a\nb"}), `the delivery cannot be read: ref "refs/heads/a\nb"`},
		{"push", "application/json", with(t, "github-push", map[string]any{"ref": "refs/heads/" + strings.Repeat("a", 2000)}), `the delivery cannot be read: ref "refs/heads/a`},
		{"push", "application/json", with(t, "github-push", map[string]any{"ref": "refs/heads/"}), "the delivery cannot be read: it names no branch"},
		{"push", "application/json", strings.Repeat("[", 1<<20), "the delivery cannot be read: invalid character"},
	} {
		h := headers(GitHub, c.event, c.body, secret)
		h.Set("Content-Type", c.typ)
		e, err := Read(GitHub, h, []byte(c.body), secret)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) && !strings.Contains(err.Error(), "max depth") || fault.Of(err) != fault.BadTicket {
			t.Errorf("%s %s %.60q: %+v, %v; want %s", c.event, c.typ, c.body, e, err, c.want)
		}
	}
}

// TestParameters: hostile texts are values, bounded, and nothing for a terminal
// or a parser of lines.
func TestParameters(t *testing.T) {
	hostile := "$(rm -rf ~) `id` \"; exit 1 #\n\x1b[2J\x1b]0;t\x07<script>\x00\u202e\xff\ttab"
	body := with(t, "github-push", map[string]any{"head_commit.message": hostile, "head_commit.author.name": hostile, "sender.login": hostile})
	e, err := Read(GitHub, headers(GitHub, "push", body, secret), []byte(body), secret)
	if err != nil {
		t.Fatal(err)
	}
	const room = 1 << 20
	p := e.Parameters(room)
	if want := "$(rm -rf ~) `id` \"; exit 1 #\n[2J]0;t<script>\uFFFD\ttab"; p["CI_MESSAGE"] != want {
		t.Errorf("message %q, want %q", p["CI_MESSAGE"], want)
	}
	if want := "$(rm -rf ~) `id` \"; exit 1 #  [2J ]0;t <script>  \uFFFD tab"; p["CI_SENDER"] != want {
		t.Errorf("sender %q, want %q", p["CI_SENDER"], want)
	}
	if p["CI_COMMIT"] != e.Commit || p["CI_EVENT"] != "push" || p["CI_BRANCH"] != "master" {
		t.Errorf("%v", p)
	}
	if _, ok := p["CI_BEFORE"]; ok {
		t.Error("CI_BEFORE of a new branch")
	}
	for _, s := range []string{strings.Repeat("a", 1<<20), strings.Repeat("ä", 1<<20), strings.Repeat("\U0001F600", 1<<20)} {
		e.Message, e.Author = s, s
		e.clean()
		p := e.Parameters(room)
		if m, a := p["CI_MESSAGE"], p["CI_AUTHOR"]; len(m) > maxMessage || len(a) > maxText || !utf8.ValidString(m) || !utf8.ValidString(a) || !strings.HasSuffix(a, "…") {
			t.Errorf("%.8q: %d and %d bytes", s, len(m), len(a))
		}
	}
	for _, room := range []int{3000, 1000, 400, 0} {
		total := 0
		p := e.Parameters(room)
		for name, v := range p {
			total += len(name) + len(v)
		}
		if total > max(room, 300) || p["CI_COMMIT"] != e.Commit || room == 3000 && len(p["CI_MESSAGE"]) < 1000 {
			t.Errorf("%d bytes in %d: %q", total, room, p)
		}
	}
	e.Kind, e.Pull = PullRequest, &Pull{7, hostile, "main", true}
	e.clean()
	if p := e.Parameters(room); p["CI_PULL_REQUEST"] != "7" || p["CI_TARGET_BRANCH"] != "main" || p["CI_FORK"] != "true" || strings.Contains(p["CI_PULL_REQUEST_TITLE"], "\n") {
		t.Errorf("%v", p)
	}
}

// FuzzRead: whatever is signed, the reader gives an event that can be relied on,
// or an error.
func FuzzRead(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) < 10 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		forge, event := GitHub, "push"
		switch {
		case strings.Contains(name, "gitlab"):
			forge = GitLab
		case strings.Contains(name, "gitea"):
			forge = Gitea
		}
		if strings.Contains(name, "pull") {
			event = "pull_request"
		}
		f.Add(string(forge), event, "application/json", b)
	}
	f.Add("gitea", "push", "application/x-www-form-urlencoded", []byte("payload=%7B%7D"))
	f.Fuzz(func(t *testing.T, forge, event, typ string, body []byte) {
		fg, err := ParseForge(forge)
		if err != nil {
			return
		}
		h := headers(fg, "x", string(body), secret)
		if data, err := formPayload(body); err == nil && fg == Gitea && typ == "application/x-www-form-urlencoded" {
			h = headers(fg, "x", string(data), secret)
		}
		h["Content-Type"] = []string{typ}
		h["X-Github-Event"], h["X-Gitea-Event"] = []string{event}, []string{event}
		e, err := Read(fg, h, body, secret)
		if err != nil {
			if fault.Of(err) != fault.BadTicket && !errors.Is(err, ErrSignature) || e != nil {
				t.Fatalf("%+v, (%s) %v", e, fault.Of(err), err)
			}
			return
		}
		if e.Nothing != "" {
			return
		}
		if !ValidCommit(e.Commit) || !ValidRepository(e.Repository) || strings.ContainsAny(e.Ref, "\n\x00") {
			t.Fatalf("%+v", e)
		}
		total := 0
		for name, v := range e.Parameters(1 << 20) {
			total += len(name) + len(v)
			if !strings.HasPrefix(name, "CI_") || strings.ContainsRune(v, 0) || !utf8.ValidString(v) || bytes.ContainsAny([]byte(v), "\x1b\r") {
				t.Fatalf("%s=%q", name, v)
			}
		}
		if total > 16<<10 {
			t.Fatalf("%d bytes of parameters", total)
		}
	})
}
