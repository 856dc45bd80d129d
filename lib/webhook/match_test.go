package webhook

import (
	"encoding/json"
	"testing"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/distci/distci/lib/job"
)

func push(branch string, files ...string) *Event {
	return &Event{Kind: Push, Repository: "o/r", Branch: branch, Paths: files, AllPaths: files != nil}
}

func pull(target string, fork bool) *Event {
	return &Event{Kind: PullRequest, Repository: "o/r", Branch: "topic", Pull: &Pull{Number: 1, Title: "t", Target: target, Fork: fork}}
}

func TestReject(t *testing.T) {
	tag := &Event{Kind: Tag, Repository: "o/r", Tag: "v1.2"}
	says := func(message string) *Event { return &Event{Kind: Push, Branch: "main", Message: message} }
	for _, c := range []struct {
		triggers string
		event    *Event
		want     string
	}{
		{`{}`, push("any/thing"), ""},
		{`{}`, tag, `the job's triggers.events do not have "tag"`},
		{`{}`, pull("main", false), `the job's triggers.events do not have "pull_request"`},
		{`{}`, &Event{Kind: Ping, Nothing: "it is a ping"}, "nothing to build: it is a ping"},
		{`{"events": ["tag"]}`, push("main"), `the job's triggers.events do not have "push"`},
		{`{"branches": ["main", "release/**"]}`, push("release/1/x"), ""},
		{`{"branches": ["main", "release/*"]}`, push("release/1/x"), `branch "release/1/x" does not match the job's triggers.branches`},
		{`{"branches": ["!wip/**"]}`, push("main"), ""},
		{`{"branches": ["!wip/**"]}`, push("wip/a"), `branch "wip/a" does not match the job's triggers.branches`},
		{`{"branches": ["**", "!wip/**", "wip/keep"]}`, push("wip/keep"), ""},
		{`{"branches": []}`, push("main"), ""},
		{`{"tags": ["v*"]}`, tag, ""},
		{`{"tags": ["v*"]}`, push("main"), ""},
		{`{"tags": ["v*", "!v1.*"]}`, tag, `tag "v1.2" does not match the job's triggers.tags`},
		{`{"repositories": ["o/*"]}`, push("main"), ""},
		{`{"repositories": ["other/*"]}`, push("main"), `repository "o/r" does not match the job's triggers.repositories`},
		{`{"events": ["pull_request"], "branches": ["main"]}`, pull("main", false), ""},
		{`{"events": ["pull_request"], "branches": ["main"]}`, pull("old", false), `branch "old", which the pull request is for, does not match the job's triggers.branches`},
		{`{"events": ["pull_request"]}`, pull("main", true), "the pull request comes from another repository, and the job's triggers.forks is not true"},
		{`{"events": ["pull_request"], "forks": true}`, pull("main", true), ""},
		{`{}`, says("docs\n\n[Skip CI] please"), `the commit's message has "[skip ci]"`},
		{`{"skip": []}`, says("[skip ci]"), ""},
		{`{"skip": ["#nope"]}`, says("a #NOPE b"), `the commit's message has "#nope"`},
		{`{"paths": {"include": ["src/**"]}}`, push("main", "doc/a", "src/x/y"), ""},
		{`{"paths": {"include": ["src/**"]}}`, push("main", "doc/a"), "no file that was changed matches the job's triggers.paths"},
		{`{"paths": {"ignore": ["**/*.md"]}}`, push("main", "README.md", "a/b.md"), "no file that was changed matches the job's triggers.paths"},
		{`{"paths": {"ignore": ["**/*.md"]}}`, push("main", "README.md", "main.go"), ""},
		{`{"paths": {"ignore": ["**", "!src/**"]}}`, push("main", "src/a"), ""},
		{`{"paths": {"include": ["src/**"]}}`, push("main"), ""}, // not all files are known
	} {
		var triggers job.Triggers
		if err := json.Unmarshal([]byte(c.triggers), &triggers); err != nil {
			t.Fatal(err)
		}
		if got := Reject(triggers, c.event); got != c.want {
			t.Errorf("%s with %+v: %q, want %q", c.triggers, c.event, got, c.want)
		}
	}
}

// FuzzPattern: what the schema of a job lets pass as a pattern is one.
func FuzzPattern(f *testing.F) {
	for _, s := range []string{"main", "!release/**", "v[0-9]*", "{a,b}/?", "[a-", "[]", "{", "a\\", "!!", "[!a]", "[^-a]", "{,}", "[z-a]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b, err := json.Marshal(map[string]any{"job_id": "a", "triggers": map[string]any{"branches": []string{s}}})
		if err != nil {
			t.Fatal(err)
		}
		j, err := job.Parse(b)
		if err != nil {
			return
		}
		for _, p := range j.Triggers.Branches {
			if p[0] == '!' {
				p = p[1:]
			}
			if !doublestar.ValidatePattern(p) {
				t.Errorf("%q passes, and is no pattern", p)
			}
		}
		Reject(j.Triggers, push("main"))
	})
}
