package access

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"unicode"

	"github.com/distci/distci/lib/fault"
)

// Rules say what the claims of a provider make of somebody.
type Rules struct {
	// Name is the claim that is his name here; "": the e-mail address if the
	// provider has verified it, else preferred_username, else sub.
	Name string `json:"name"`
	// Scopes are asked for besides "openid"; none: profile and email.
	Scopes []string `json:"scopes"`
	// Roles are looked through in their order, see Rules.Match.
	Roles []Rule `json:"roles"`
}

// Rule gives a role to whoever has a value in a claim.
type Rule struct {
	// Claim is the name of a claim, or names of objects in objects joined by
	// dots: "realm_access.roles".
	Claim string `json:"claim"`
	// Value is what the claim is, or has in its list; * stands for any letters.
	Value string   `json:"value"`
	Role  Role     `json:"role"`
	Jobs  []string `json:"jobs"` // patterns of job ids; none: all jobs
}

// ReadRules reads rules from a JSON file. Errors are of kind Config and name
// the place.
func ReadRules(file string) (*Rules, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.Wrap(fault.Config, err)
	}
	r, err := ParseRules(b)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "%s: %w", file, err)
	}
	return r, nil
}

// ParseRules is ReadRules for the file's content.
func ParseRules(b []byte) (*Rules, error) {
	var r Rules
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return nil, fault.Wrap(fault.Config, err)
	}
	if dec.More() {
		return nil, fault.Errorf(fault.Config, "there is something behind the object")
	}
	if len(r.Roles) == 0 {
		return nil, fault.Errorf(fault.Config, "roles: there is none, so nobody could sign in")
	}
	for _, s := range r.Scopes {
		if s == "" || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c == '"' || c == '\\' || c > '~' }) {
			return nil, fault.Errorf(fault.Config, "scopes: %q is not a scope", s)
		}
	}
	for i, rule := range r.Roles {
		err := CheckPatterns(rule.Jobs)
		if err == nil {
			_, err = ParseRole(string(rule.Role))
		}
		if err == nil && (rule.Claim == "" || rule.Value == "") {
			err = fault.Errorf(fault.Config, "it needs a claim and a value")
		}
		if err != nil {
			return nil, fault.Errorf(fault.Config, "roles[%d]: %w", i, err)
		}
	}
	return &r, nil
}

// Claims are what a provider says of somebody.
type Claims map[string]json.RawMessage

// Match tells the role and the job patterns of whoever has the claims. The
// first rule that fits him gives the role; those behind it that fit and give
// the same role add their jobs. ok is false if none fits.
func (r *Rules) Match(c Claims) (role Role, jobs []string, ok bool) {
	all := false
	for _, rule := range r.Roles {
		if ok && rule.Role != role || !rule.fits(c) {
			continue
		}
		role, ok = rule.Role, true
		all = all || len(rule.Jobs) == 0
		jobs = append(jobs, rule.Jobs...)
	}
	if all {
		jobs = nil
	}
	return role, jobs, ok
}

func (r Rule) fits(c Claims) bool {
	want := regexp.MustCompile("(?s)^" + strings.ReplaceAll(regexp.QuoteMeta(r.Value), `\*`, ".*") + "$")
	for _, v := range c.values(r.Claim) {
		if want.MatchString(v) {
			return true
		}
	}
	return false
}

// values returns what a claim has: strings, numbers and truth values, one or a
// list of them. An e-mail address that its provider has not verified is none:
// at many of them everybody may enter any.
func (c Claims) values(claim string) []string {
	if claim == "email" && !c.emailVerified() {
		return nil
	}
	raw, ok := c[claim]
	for in, rest := c, claim; !ok; {
		var name string
		var more bool
		if name, rest, more = strings.Cut(rest, "."); !more {
			raw = in[name]
			break
		}
		var next Claims
		if json.Unmarshal(in[name], &next) != nil {
			return nil
		}
		in = next
		raw, ok = in[rest] // the rest may have dots in its name
	}
	list := []json.RawMessage{raw}
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte("[")) {
		list = nil // or raw itself would be written to
		if json.Unmarshal(raw, &list) != nil {
			return nil
		}
	}
	var values []string
	for _, e := range list {
		var v any
		dec := json.NewDecoder(bytes.NewReader(e))
		dec.UseNumber()
		if dec.Decode(&v) != nil {
			continue
		}
		switch v := v.(type) {
		case string, bool, json.Number:
			values = append(values, fmt.Sprint(v))
		}
	}
	return values
}

// emailVerified: some providers write the truth value as a string.
func (c Claims) emailVerified() bool {
	v, err := strconv.ParseBool(strings.Trim(string(c["email_verified"]), `"`))
	return v && err == nil
}

// NameOf is the name of whoever has the claims: one line that can be printed,
// and not too long.
func (r *Rules) NameOf(c Claims) string {
	claims := []string{"email", "preferred_username", "sub"}
	if r.Name != "" {
		claims = []string{r.Name, "sub"}
	}
	for _, claim := range claims {
		v := c.values(claim)
		if len(v) == 1 && v[0] != "" && len(v[0]) <= 256 && !strings.ContainsFunc(v[0], func(c rune) bool { return !unicode.IsPrint(c) }) {
			return v[0]
		}
	}
	return "somebody"
}
