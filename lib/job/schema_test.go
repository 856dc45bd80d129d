package job

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/distci/distci/lib/fault"
)

// oracle is the schema as a whole implementation of JSON Schema reads it.
var oracle = sync.OnceValues(func() (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema()))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("job.schema.json", doc); err != nil {
		return nil, err
	}
	return c.Compile("job.schema.json") // which checks it against its meta-schema
})

// agree asserts that Parse accepts what the oracle accepts, and nothing else.
func agree(t *testing.T, b []byte) {
	t.Helper()
	s, err := oracle()
	if err != nil {
		t.Fatal(err)
	}
	j, err := Parse(b)
	if err != nil {
		if j != nil || fault.Of(err) != fault.Config || !strings.HasPrefix(err.Error(), "job: ") || !utf8.ValidString(err.Error()) {
			t.Errorf("%q gives (%s) %v", b, fault.Of(err), err)
		}
	}
	n, err2 := read(b)
	if err2 != nil || strictNumbers(n) {
		return // stricter than JSON Schema on purpose: see read and node.is
	}
	v, err2 := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err2 != nil {
		t.Fatalf("%q is JSON for us, and for the oracle: %v", b, err2)
	}
	want := s.Validate(v)
	var invalid *jsonschema.ValidationError
	if want != nil && !errors.As(want, &invalid) {
		t.Fatal(want)
	}
	if (err == nil) != (want == nil) {
		t.Errorf("%s\nParse: %v\noracle: %v", b, err, want)
	}
}

// strictNumbers tells whether n contains numbers that are not written as plain
// integers.
func strictNumbers(n *node) bool {
	if v, ok := n.value.(json.Number); ok {
		return strings.ContainsAny(v.String(), ".eE")
	}
	for _, m := range n.members {
		if strictNumbers(m) {
			return true
		}
	}
	return slices.ContainsFunc(n.items, strictNumbers)
}

// valid is a job that uses everything.
const valid = `{"job_id": "a", "$schema": "x", "configuration-version": "2013-02-26", "description": "d",
	"env": {"A": "b"}, "parameters": {"P": ""}, "triggers": {"events": ["push"], "repositories": ["o/*"],
	"branches": ["main", "!x/**"], "tags": ["v[0-9]*"], "paths": {"include": ["{a,b}/**"], "ignore": ["*.md"]}, "skip": ["[no]"], "forks": true},
	"status": {"forge": "gitea", "url": "https://git.example/api/v1", "secret": "S", "context": "c"}, "downstream_jobs": ["b"], "tasks": [
	{"type": "git-checkout", "params": {"repository": "r", "ref": "m", "checkout-dir": "c", "depth": 1, "submodules": true}},
	{"type": "execute-shell", "name": "n", "labels": ["l"], "env": {"A": "b"}, "timeout": 1, "retry": 1,
	 "secrets": ["S"], "limits": {"memory": 8388608, "cpus": 1, "pids": 1, "disk": "1G"}, "network": "none", "params": {"script": ["a"], "working_directory": "w", "nodelabels": ["x"]}},
	{"type": "publish-artifacts", "params": {"artifacts": ["a"], "always": true, "allow_empty": true}},
	{"type": "copy-artifacts", "params": {"job": "b", "artifacts": ["a"], "target_directory": "t", "build": 1, "flatten": true}},
	{"type": "foo", "params": {"x": 1}}]}`

// TestOracle changes each value of a valid job, in turn, to each of many
// others, and takes each key away.
func TestOracle(t *testing.T) {
	agree(t, []byte(valid))
	agree(t, []byte(`{"job_id": "a", "tasks": {"0": {"type": "a"}, "01": {"type": "b"}}}`))
	if _, err := Parse([]byte(valid)); err != nil {
		t.Fatal(err)
	}
	values := []any{nil, true, 0, 1, -1, 11, 1 << 40, json.Number("99999999999999999999"), "", "a", "a b", "../x", "a\x00", "a\n",
		"git-checkout", "copy-artifacts", "build-control", "lxc", "last-successful", "github", "gitea", "push", "!a", "!!a", "[", "[]a]", "[a-z]", "{a", "{a,{b}}", "a\\", "https://h", "ftp://h/", "host", "bridge:br0", "bridge:", "7M", "8M", "99999G", "01G", 8388607, 1 << 50, 1<<50 + 1, strings.Repeat("a", 257), "#!/bin/sh",
		[]any{}, []any{"a"}, []any{""}, []any{1}, []any{nil}, map[string]any{}, map[string]any{"a": "b"}, map[string]any{"0": map[string]any{"type": "a"}}, map[string]any{"=": ""}}
	tried := 0
	var root any
	try := func() {
		b, err := json.Marshal(root)
		if err != nil {
			t.Fatal(err)
		}
		agree(t, b)
		tried++
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, old := range v {
				for _, other := range values {
					v[k] = other
					try()
				}
				delete(v, k)
				try()
				v[k] = old
				walk(old)
			}
			v["unknown-key"] = "x"
			try()
			delete(v, "unknown-key")
		case []any:
			for i, old := range v {
				for _, other := range values {
					v[i] = other
					try()
				}
				v[i] = old
				walk(old)
			}
		}
	}
	if err := json.Unmarshal([]byte(valid), &root); err != nil {
		t.Fatal(err)
	}
	walk(root)
	if tried < 1000 {
		t.Errorf("only %d jobs tried", tried)
	}
}

// TestKeywords refuses a schema that uses a keyword that our reader would
// ignore.
func TestKeywords(t *testing.T) {
	known := []string{"$schema", "$id", "$ref", "$defs", "title", "description", "default", "type", "const", "enum", "not", "allOf", "if", "then",
		"required", "properties", "additionalProperties", "propertyNames", "items", "minItems", "maxItems", "minLength", "pattern", "minimum", "maximum"}
	var walk func(path string, v any)
	walk = func(path string, v any) {
		s, ok := v.(map[string]any)
		if !ok {
			return // additionalProperties: false
		}
		for k, v := range s {
			switch {
			case !slices.Contains(known, k):
				t.Errorf("%s: keyword %q", path, k)
			case k == "properties" || k == "$defs":
				for name, sub := range v.(map[string]any) {
					walk(path+"."+name, sub)
				}
			case k == "allOf":
				for _, sub := range v.([]any) {
					walk(path+".allOf", sub)
				}
			case k == "$ref" && compiled().Defs[strings.TrimPrefix(v.(string), "#/$defs/")] == nil:
				t.Errorf("%s: nothing at %s", path, v)
			case slices.Contains([]string{"not", "if", "then", "items", "additionalProperties", "propertyNames"}, k):
				walk(path+"."+k, v)
			case k == "additionalProperties" && v != false:
				t.Errorf("%s: additionalProperties may be a schema or false", path)
			}
		}
		if s["$ref"] != nil {
			delete(s, "$ref")
			delete(s, "description")
			if len(s) > 0 {
				t.Errorf("%s: next to $ref only a description is read, not %v", path, s)
			}
		}
	}
	var root any
	if err := json.Unmarshal(Schema(), &root); err != nil {
		t.Fatal(err)
	}
	walk("$", root)
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(valid))
	f.Add([]byte(`{"job_id": "a", "tasks": {"0": {"type": "foo", "timeout": 1e2}}}`))
	f.Add([]byte(`{"a": 1, "a": 2}`))
	f.Fuzz(func(t *testing.T, b []byte) { agree(t, b) })
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := Parse([]byte(valid)); err != nil {
			b.Fatal(err)
		}
	}
}
