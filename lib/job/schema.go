package job

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

//go:embed job.schema.json
var schemaText []byte

// Schema is the JSON Schema (draft 2020-12) of a job's configuration. It is
// the reference: Parse accepts what it accepts.
func Schema() []byte { return slices.Clone(schemaText) }

// schema is a JSON Schema, as many of its keywords as ours uses; a test
// refuses others, and compares the verdicts with those of a whole
// implementation. That one is not used here because it compiles the
// meta-schemas when a program starts, which takes longer than a whole step
// may, and because its messages say neither what was expected nor what was
// found. The titles in our schema are written to stand behind "expected".
type schema struct {
	Ref           string             `json:"$ref"`
	Defs          map[string]*schema `json:"$defs"`
	Title         string             `json:"title"`
	Type          types              `json:"type"`
	Const         *string            `json:"const"`
	Enum          []string           `json:"enum"`
	Not           *schema            `json:"not"`
	AllOf         []*schema          `json:"allOf"`
	If            *schema            `json:"if"`
	Then          *schema            `json:"then"`
	Required      []string           `json:"required"`
	Properties    map[string]*schema `json:"properties"`
	Additional    *additional        `json:"additionalProperties"`
	PropertyNames *schema            `json:"propertyNames"`
	Items         *schema            `json:"items"`
	MinItems      int                `json:"minItems"`
	MaxItems      int                `json:"maxItems"`
	MinLength     int                `json:"minLength"`
	Pattern       *pattern           `json:"pattern"`
	Minimum       *json.Number       `json:"minimum"`
	Maximum       *json.Number       `json:"maximum"`
}

// types is the name of a type, or a list of them.
type types []string

func (t *types) UnmarshalJSON(b []byte) error {
	if b[0] == '"' {
		*t = types{""}
		return json.Unmarshal(b, &(*t)[0])
	}
	return json.Unmarshal(b, (*[]string)(t))
}

// pattern is a regular expression; ours mean the same to Go and to ECMAScript.
type pattern struct{ *regexp.Regexp }

func (p *pattern) UnmarshalJSON(b []byte) (err error) {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	p.Regexp, err = regexp.Compile(s)
	return err
}

// additional is a schema for the properties that have none; a nil one forbids
// them.
type additional struct{ *schema }

func (a *additional) UnmarshalJSON(b []byte) error {
	if string(b) == "false" {
		return nil
	}
	return json.Unmarshal(b, &a.schema)
}

// compiled is the schema, made at the first use, so that a program that only
// imports this package does not pay for it.
var compiled = sync.OnceValue(func() *schema {
	root := new(schema)
	if err := json.Unmarshal(schemaText, root); err != nil {
		panic("job: embedded schema: " + err.Error()) // the tests read it too
	}
	return root
})

// problem is one thing that is wrong.
type problem struct{ path, text string }

// checker validates one configuration.
type checker struct {
	defs     map[string]*schema
	problems []problem
}

// check returns all that is wrong with n, in the order of the text, one thing
// a place.
func check(n *node) []problem {
	root := compiled()
	c := &checker{defs: root.Defs}
	c.validate(root, n, "$")
	seen := map[string]bool{}
	return slices.DeleteFunc(c.problems, func(p problem) bool {
		again := seen[p.path]
		seen[p.path] = true
		return again
	})
}

func (c *checker) add(path, format string, args ...any) {
	c.problems = append(c.problems, problem{path, fmt.Sprintf(format, args...)})
}

// accepts tells whether n is valid, without a word.
func (c *checker) accepts(s *schema, n *node) bool {
	quiet := &checker{defs: c.defs}
	quiet.validate(s, n, "$")
	return len(quiet.problems) == 0
}

func (c *checker) resolve(s *schema) *schema {
	for s.Ref != "" {
		s = c.defs[strings.TrimPrefix(s.Ref, "#/$defs/")]
	}
	return s
}

func (c *checker) validate(s *schema, n *node, path string) {
	s = c.resolve(s)
	if !s.fits(n) || s.Not != nil && c.accepts(s.Not, n) {
		c.add(path, "expected %s, found %s", s.want(), n)
		return
	}
	switch n.kind {
	case "object":
		c.object(s, n, path)
	case "array":
		for i, item := range n.items {
			if s.Items != nil {
				c.validate(s.Items, item, path+index(i))
			}
		}
	}
	for _, sub := range s.AllOf {
		c.validate(sub, n, path)
	}
	if s.If != nil && c.accepts(s.If, n) {
		c.validate(s.Then, n, path)
	}
}

func (c *checker) object(s *schema, n *node, path string) {
	for _, key := range s.Required {
		if n.members[key] == nil {
			want := "a value"
			if sub := s.Properties[key]; sub != nil {
				want = c.resolve(sub).want()
			}
			c.add(path+member(key), "expected %s, found nothing", want)
		}
	}
	for _, key := range n.keys {
		at := path + member(key)
		if s.PropertyNames != nil && !s.PropertyNames.fits(&node{kind: "string", value: key}) {
			c.add(at, "expected %s", s.PropertyNames.want())
		}
		switch sub := s.Properties[key]; {
		case sub != nil:
			c.validate(sub, n.members[key], at)
		case s.Additional == nil:
		case s.Additional.schema == nil:
			c.add(at, "unknown key (known: %s)", s.known())
		default:
			c.validate(s.Additional.schema, n.members[key], at)
		}
	}
}

func (s *schema) known() string {
	var keys []string
	for key := range s.Properties {
		if key != "$schema" {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return strings.Join(keys, ", ")
}

// fits tells whether n is of the schema's type and within its bounds, apart
// from what is inside it.
func (s *schema) fits(n *node) bool {
	if s.Type != nil && !slices.ContainsFunc(s.Type, n.is) {
		return false
	}
	switch v := n.value.(type) {
	case string:
		return (s.Const == nil || v == *s.Const) &&
			(s.Enum == nil || slices.Contains(s.Enum, v)) &&
			utf8.RuneCountInString(v) >= s.MinLength &&
			(s.Pattern == nil || s.Pattern.MatchString(v))
	case json.Number:
		return s.Const == nil && s.Enum == nil &&
			(s.Minimum == nil || compare(v, *s.Minimum) >= 0) &&
			(s.Maximum == nil || compare(v, *s.Maximum) <= 0)
	}
	if n.kind == "array" && (len(n.items) < s.MinItems || s.MaxItems > 0 && len(n.items) > s.MaxItems) {
		return false
	}
	return s.Const == nil && s.Enum == nil
}

// compare is exact for integers of 64 bits; a float64 does for all others, of
// which there are none near an integer's bounds.
func compare(a, b json.Number) int {
	i, err1 := a.Int64()
	k, err2 := b.Int64()
	if err1 == nil && err2 == nil {
		return cmp.Compare(i, k)
	}
	x, _ := a.Float64() // too large ones are infinite
	y, _ := b.Float64()
	return cmp.Compare(x, y)
}

// is tells whether n is of a type of JSON Schema. An integer must be written as
// one: 1.0 is none here, because it is not one for the tools that read it.
func (n *node) is(typ string) bool {
	if typ == "integer" && n.kind == "number" {
		return !strings.ContainsAny(n.value.(json.Number).String(), ".eE")
	}
	return n.kind == typ
}

// want tells people what the schema expects.
func (s *schema) want() string {
	if s.Title != "" {
		return s.Title
	}
	if s.Minimum != nil && s.Maximum != nil {
		return fmt.Sprintf("an integer from %s to %s", *s.Minimum, *s.Maximum)
	}
	names := map[string]string{"string": "a string", "object": "an object", "array": "a list", "boolean": "true or false", "integer": "an integer"}
	if len(s.Type) == 1 {
		return names[s.Type[0]]
	}
	return "another value"
}
