package job

import (
	"fmt"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
)

func TestRef(t *testing.T) {
	j, err := Parse([]byte(`{"job_id": "a", "parameters": {"P": "0"}, "tasks": [
		{"type": "git-checkout", "params": {"repository": "one", "ref": "main", "depth": 1}},
		{"type": "git-checkout", "params": {"repository": "two", "checkout-dir": "lib"}},
		{"type": "git-checkout", "params": {"repository": "one", "checkout-dir": "again"}},
		{"type": "execute-shell", "params": {"script": ":"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	b := j.For(map[string]string{"P": "1", "CI_TAG": "v1"}, "v1")
	var got []string
	for _, s := range b.Steps {
		got = append(got, string(s.Params))
	}
	want := `{"depth":1,"ref":"v1","repository":"one"} {"repository": "two", "checkout-dir": "lib"} {"checkout-dir":"again","ref":"v1","repository":"one"} {"script": ":"}`
	if s := strings.Join(got, " "); s != want {
		t.Errorf("params are\n%s, want\n%s", s, want)
	}
	if env := fmt.Sprint(b.Steps[3].Env); env != "map[CI_TAG:v1 P:1]" {
		t.Errorf("variables are %s", env)
	}
	if !strings.Contains(string(j.Steps[0].Params), `"main"`) || j.Steps[0].Env["P"] != "0" {
		t.Error("the job itself has changed")
	}
	if j.For(nil, "") != j {
		t.Error("a build as the job is needs another one")
	}
}

func TestCheckParameters(t *testing.T) {
	j, err := Parse([]byte(`{"job_id": "a", "parameters": {"P": "0"}, "tasks": [` + strings.Repeat(`{"type": "x"},`, 9) + `{"type": "git-checkout", "params": {"repository": "r"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, value string
		system      bool
		want        string
	}{
		{"P", "1", false, ""},
		{"Q", "1", true, `unknown parameter "Q" (known: P)`},
		{"CI_REF", "1", false, `unknown parameter "CI_REF"`},
		{"CI_REF", "1", true, ""},
		{"CI_RE F", "1", true, `unknown parameter "CI_RE F"`},
		{"P", "a\x00b", false, "without NUL"},
		{"P", "\xff", false, "UTF-8"},
		{"P", strings.Repeat("x", 20<<10), false, ""},
		{"P", strings.Repeat("x", 60<<10), false, "in its 10 steps"},
		{"P", strings.Repeat("x", 70<<10), false, "at most 65536"},
	} {
		err := j.CheckParameters(map[string]string{tt.name: tt.value}, tt.system)
		if tt.want == "" && err != nil || tt.want != "" && (fault.Of(err) != fault.Usage || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s=%.20q: %v, want %q", tt.name, tt.value, err, tt.want)
		}
	}
	for ref, ok := range map[string]bool{"main": true, "refs/pull/1/head": true, "v1.0+ä": true, "": false, "-f": false, "a b": false, "a\nb": false, strings.Repeat("x", 2000): false} {
		if err := j.CheckRef(ref); (err == nil) != ok {
			t.Errorf("ref %.20q: %v", ref, err)
		}
	}
	none, _ := Parse([]byte(`{"job_id": "a"}`))
	if err := none.CheckRef("main"); fault.Of(err) != fault.Usage {
		t.Errorf("a job without a checkout: %v", err)
	}
}
