package job

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// The bounds of what a build may be begun with. The parameters are in the
// build's record as often as it has steps, and once more.
const (
	maxParameters    = 64 << 10  // bytes of names and values together
	maxInSteps       = 256 << 10 // and in all the steps of a build
	maxParameterName = 128
	maxRef           = 1024
)

// SystemPrefix begins the names of the parameters that a webhook sets, whether
// or not the job has them.
const SystemPrefix = "CI_"

// CheckParameters returns an error of kind Usage unless a build can be begun
// with these values: each is one of the job's parameters or, with system, its
// name begins with [SystemPrefix]; none has a NUL; together they are not too
// large.
func (j *Job) CheckParameters(values map[string]string, system bool) error {
	size := 0
	for _, name := range slices.Sorted(maps.Keys(values)) {
		v := values[name]
		size += len(name) + len(v)
		_, ok := j.Parameters[name]
		if !ok && system && strings.HasPrefix(name, SystemPrefix) {
			ok = len(name) <= maxParameterName && isVariable(name)
		}
		if !ok {
			known := strings.Join(slices.Sorted(maps.Keys(j.Parameters)), ", ")
			return fault.Errorf(fault.Usage, "job %s: unknown parameter %.200q (known: %s)", j.ID, name, cmp.Or(known, "none"))
		}
		if strings.ContainsRune(v, 0) || !utf8.ValidString(v) {
			return fault.Errorf(fault.Usage, "job %s: parameter %q: expected UTF-8 text without NUL", j.ID, name)
		}
	}
	if size > maxParameters || size*len(j.Steps) > maxInSteps {
		return fault.Errorf(fault.Usage, "job %s: the parameters have %d bytes; at most %d are possible, and in its %d steps together %d", j.ID, size, maxParameters, len(j.Steps), maxInSteps)
	}
	return nil
}

// isVariable tells whether s can be the name of an environment variable.
func isVariable(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_") == "" && (s[0] < '0' || s[0] > '9')
}

// WithParameters returns j with other values for its parameters. A name that
// is none of them is an error of kind Usage.
func (j *Job) WithParameters(values map[string]string) (*Job, error) {
	if err := j.CheckParameters(values, false); err != nil {
		return nil, err
	}
	return j.For(values, ""), nil
}

// CheckRef returns an error of kind Usage unless ref can be checked out in
// place of the one that the job has.
func (j *Job) CheckRef(ref string) error {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f || r == utf8.RuneError }
	if ref == "" || len(ref) > maxRef || ref[0] == '-' || strings.ContainsFunc(ref, bad) {
		return fault.Errorf(fault.Usage, "ref %.200q: expected a branch, a tag or a commit", ref)
	}
	if _, ok := j.repository(); !ok {
		return fault.Errorf(fault.Usage, "job %s: it has no step of type %s, so that there is nothing to check out at ref %q", j.ID, ticket.GitCheckout, ref)
	}
	return nil
}

// repository is that of the job's first checkout: the one that the job is about.
func (j *Job) repository() (string, bool) {
	for _, s := range j.Steps {
		if s.Type == ticket.GitCheckout {
			return s.checkout(), true
		}
	}
	return "", false
}

// checkout is the repository that the step checks out.
func (s *Step) checkout() string {
	var p struct {
		Repository string `json:"repository"`
	}
	_ = json.Unmarshal(s.Params, &p) // valid by the schema
	return p.Repository
}

// For returns the job of one build: its steps have the values of the parameters
// as variables, and those that check out the repository of the job's first
// checkout do so at ref, unless that is empty. What is given was checked when
// the build was begun; the job may have changed since, and a ref that nothing
// is left for has no effect.
func (j *Job) For(values map[string]string, ref string) *Job {
	if len(values) == 0 && ref == "" {
		return j
	}
	c := *j
	c.Steps = slices.Clone(j.Steps)
	c.setEnv(values)
	repository, _ := j.repository()
	for i := range c.Steps {
		s := &c.Steps[i]
		if ref == "" || s.Type != ticket.GitCheckout || s.checkout() != repository {
			continue
		}
		var params map[string]json.RawMessage
		if json.Unmarshal(s.Params, &params) != nil || params == nil {
			continue
		}
		params["ref"], _ = json.Marshal(ref)
		s.Params, _ = json.Marshal(params)
	}
	return &c
}
