// Package ticket reads, checks and writes tickets: the small JSON documents
// that say what is to be done and, in the end, what came of it.
//
// A ticket keeps every field that it does not know, to the digit. See
// distci-ticket(5).
package ticket

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/distci/distci/lib/fault"
)

// MaxSize bounds the JSON text of a ticket, in bytes.
const MaxSize = 1 << 20

// DefaultRetry is how often a ticket is tried in all if it does not say.
const DefaultRetry = 3

// The values of Status.
const (
	Pending  = "pending"
	Running  = "running"
	Complete = "complete"
)

// The values of Result.
const (
	Success  = "success"
	Failure  = "failure"  // the job's verdict
	Error    = "error"    // tools or infrastructure
	Canceled = "canceled" // somebody said so
)

// Number is a build number. In JSON it is written as a string of digits, as
// the 2013 original did, whose workers put it into an environment variable as
// it stands; a JSON number is read too.
type Number int64

// MarshalJSON writes n as a string of digits.
func (n Number) MarshalJSON() ([]byte, error) { return []byte(`"` + n.String() + `"`), nil }

// UnmarshalJSON reads a string of at most 16 digits, or a number.
func (n *Number) UnmarshalJSON(b []byte) error {
	v, err := strconv.ParseInt(strings.Trim(string(b), `"`), 10, 64)
	if err != nil || v < 0 || len(b) > 18 {
		return fmt.Errorf("expected a build number of at most 16 digits, found %s", b)
	}
	*n = Number(v)
	return nil
}

func (n Number) String() string { return strconv.FormatInt(int64(n), 10) }

// Ticket is one unit of work. A field's zero value is a field that is absent.
type Ticket struct {
	ID           string              // UUID, lower-case; version 7 if made by New
	Type         string              // "execute-shell", …
	Capabilities []string            // all that a worker must offer
	Priority     int                 // the higher ones are taken first; MinPriority to MaxPriority
	Status       string              // Pending, Running or Complete
	Result       string              // when complete: Success, Failure, Error or Canceled
	Error        string              // a sentence for people
	Fault        fault.Kind          // the error's kind for programs
	Assignee     string              // the worker
	Attempt      int                 // 1, 2, …
	JobID        string              // with BuildNumber and Step: where it belongs
	BuildNumber  Number              //
	Step         string              // the key of the build's step
	Name         string              // the step's name for people
	Needs        []string            // keys of the steps that must have ended before
	When         string              // "", "failure" or "always": what of Needs lets it run
	Retry        int                 // attempts in all; 0: DefaultRetry
	Spared       int                 // attempts that do not count: given back by an operator
	Params       json.RawMessage     // the tool's own parameters: a JSON object
	Env          map[string]string   // variables for the script
	Timeout      int                 // seconds; 0: none
	Image        string              // the name of the root file system to run in; "": the worker's choice
	Secrets      []string            // names of those that the tool gets, if the worker's operator lets it
	Limits       *Limits             // what it may use; nil: as much as the worker says
	Network      string              // "none", "bridge", "bridge:NAME" or "host"; "": the worker's choice
	Workspace    []string            // layer digests, lowest first
	Artifacts    map[string][]string // artifact id → path as a list of its parts
	Started      *time.Time          // when the attempt began
	Ended        *time.Time          // when it was complete

	// Extra holds every other field as it was read.
	Extra map[string]json.RawMessage
}

// fields ties the JSON names to the struct, with what each must be.
func (t *Ticket) fields() []field {
	return []field{
		{"id", &t.ID, "a string"},
		{"type", &t.Type, "a string"},
		{"capabilities", &t.Capabilities, "a list of strings"},
		{"priority", &t.Priority, "a whole number"},
		{"status", &t.Status, `"pending", "running" or "complete"`},
		{"result", &t.Result, `"success", "failure", "error" or "canceled"`},
		{"error", &t.Error, "a string"},
		{"fault", &t.Fault, "the name of a kind of fault"},
		{"assignee", &t.Assignee, "a string"},
		{"attempt", &t.Attempt, "a whole number"},
		{"job_id", &t.JobID, "a string"},
		{"build_number", &t.BuildNumber, "a build number of at most 16 digits"},
		{"step", &t.Step, "a string"},
		{"name", &t.Name, "a string"},
		{"needs", &t.Needs, "a list of strings"},
		{"when", &t.When, `"success", "failure" or "always"`},
		{"retry", &t.Retry, "a whole number of attempts"},
		{"spared", &t.Spared, "a whole number of attempts"},
		{"params", &t.Params, "an object"},
		{"env", &t.Env, "an object of strings"},
		{"timeout", &t.Timeout, "a whole number of seconds"},
		{"image", &t.Image, "a string"},
		{"secrets", &t.Secrets, "a list of strings"},
		{"limits", &t.Limits, "an object of memory, cpus, pids and disk, each a number that is not negative"},
		{"network", &t.Network, "a string"},
		{"workspace", &t.Workspace, "a list of layer digests"},
		{"artifacts", &t.Artifacts, "an object of lists of path parts"},
		{"started", &t.Started, "a time as in RFC 3339"},
		{"ended", &t.Ended, "a time as in RFC 3339"},
	}
}

type field struct {
	name string
	ptr  any
	want string
}

// The bounds of a ticket's priority.
const (
	MinPriority = -100
	MaxPriority = 100
)

// New makes a pending ticket with a new id.
func New(typ string, capabilities ...string) *Ticket {
	return &Ticket{ID: NewID(), Type: typ, Capabilities: capabilities, Status: Pending}
}

// NewID makes a ticket id: a UUID of version 7, so that ids sort by time.
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// ValidID tells whether s is a UUID in its usual lower-case form.
func ValidID(s string) bool {
	u, err := uuid.Parse(s)
	return err == nil && u.String() == s
}

// Read reads exactly one ticket from r. The error is of kind BadTicket and
// names the field, what was expected and what was found.
func Read(r io.Reader) (*Ticket, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, fault.Errorf(fault.BadTicket, "ticket: reading: %w", err)
	}
	return Parse(b)
}

// Parse is Read from memory.
func Parse(b []byte) (*Ticket, error) {
	t := new(Ticket)
	if err := t.UnmarshalJSON(b); err != nil {
		return nil, fault.Errorf(fault.BadTicket, "ticket: %w", err)
	}
	return t, nil
}

// UnmarshalJSON reads a ticket; see Parse for one with a kind of fault.
func (t *Ticket) UnmarshalJSON(b []byte) error {
	if len(b) > MaxSize {
		return fmt.Errorf("larger than %d bytes", MaxSize)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	var m map[string]json.RawMessage
	if err := dec.Decode(&m); err == io.EOF {
		return fmt.Errorf("expected one JSON object, found nothing")
	} else if te, ok := err.(*json.UnmarshalTypeError); ok {
		return fmt.Errorf("expected one JSON object, found %s", te.Value)
	} else if err != nil {
		return fmt.Errorf("expected one JSON object: %w (near byte %d)", err, dec.InputOffset())
	}
	if m == nil {
		return fmt.Errorf("expected one JSON object, found null")
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("expected one JSON object, found more after it (at byte %d)", dec.InputOffset())
	}
	*t = Ticket{}
	for _, f := range t.fields() {
		raw, ok := m[f.name]
		if !ok {
			continue
		}
		delete(m, f.name)
		if err := decode(raw, f.ptr); err != nil {
			return fmt.Errorf("field %q: expected %s, found %s", f.name, f.want, clip(raw))
		}
	}
	t.Extra = m
	return t.check()
}

// decode is json.Unmarshal with a short way for what most fields are: a string
// without escapes.
func decode(raw json.RawMessage, ptr any) error {
	if s, ok := ptr.(*string); ok && len(raw) >= 2 && raw[0] == '"' && bytes.IndexByte(raw, '\\') < 0 && utf8.Valid(raw) {
		*s = string(raw[1 : len(raw)-1])
		return nil
	}
	return json.Unmarshal(raw, ptr)
}

// check finds values that a JSON type alone does not exclude.
func (t *Ticket) check() error {
	bad := func(name, want string, got any) error {
		return fmt.Errorf("field %q: expected %s, found %q", name, want, got)
	}
	switch {
	case t.ID != "" && !ValidID(t.ID):
		return bad("id", "a lower-case UUID", t.ID)
	case !slices.Contains([]string{"", Pending, Running, Complete}, t.Status):
		return bad("status", `"pending", "running" or "complete"`, t.Status)
	case !slices.Contains([]string{"", Success, Failure, Error, Canceled}, t.Result):
		return bad("result", `"success", "failure", "error" or "canceled"`, t.Result)
	case !fault.Known(t.Fault):
		return bad("fault", "the name of a kind of fault", t.Fault)
	case len(t.Params) > 0 && t.Params[0] != '{' && string(t.Params) != "null":
		return fmt.Errorf(`field "params": expected an object, found %s`, clip(t.Params))
	case t.Priority < MinPriority || t.Priority > MaxPriority:
		return fmt.Errorf(`field "priority": expected a whole number from %d to %d, found %d`, MinPriority, MaxPriority, t.Priority)
	case t.Timeout < 0:
		return fmt.Errorf(`field "timeout": expected a whole number of seconds, found %d`, t.Timeout)
	}
	for k := range t.Env {
		if k == "" || strings.ContainsAny(k, "=\x00") {
			return bad("env", "names without '='", k)
		}
	}
	return nil
}

func clip(raw []byte) string {
	if len(raw) > 40 {
		return string(raw[:40]) + "…"
	}
	return string(raw)
}

// MarshalJSON writes the fields that are there, in the order of their names.
func (t *Ticket) MarshalJSON() ([]byte, error) {
	m := make(map[string]any, len(t.Extra)+17)
	for name, raw := range t.Extra {
		m[name] = raw
	}
	for _, f := range t.fields() {
		if v := reflect.ValueOf(f.ptr).Elem(); !v.IsZero() {
			m[f.name] = v.Interface()
		}
	}
	return json.Marshal(m)
}

// Write writes t to w as one line.
func (t *Ticket) Write(w io.Writer) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Set gives the field that this package does not know the value v.
func (t *Ticket) Set(name string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if t.Extra == nil {
		t.Extra = map[string]json.RawMessage{}
	}
	t.Extra[name] = raw
	return nil
}

// Get reads the field that this package does not know into v, and tells
// whether it was there.
func (t *Ticket) Get(name string, v any) (bool, error) {
	raw, ok := t.Extra[name]
	if !ok {
		return false, nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return true, fault.Errorf(fault.BadTicket, "ticket: field %q: %w", name, err)
	}
	return true, nil
}

// DecodeParams reads the tool's parameters into the struct that dst points to.
// A key that the struct does not have is an error that names it.
func (t *Ticket) DecodeParams(dst any) error {
	if len(t.Params) == 0 || string(t.Params) == "null" {
		return nil
	}
	var m map[string]json.RawMessage
	if err := json.Unmarshal(t.Params, &m); err != nil {
		return fault.Errorf(fault.BadTicket, "ticket: params: %w", err)
	}
	var known []string
	v := reflect.ValueOf(dst).Elem()
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		known = append(known, name)
		raw, ok := m[name]
		if !ok {
			continue
		}
		if err := json.Unmarshal(raw, v.Field(i).Addr().Interface()); err != nil {
			return fault.Errorf(fault.BadTicket, "ticket: params: %q: expected %s, found %s", name, kindOf(v.Field(i).Type()), clip(raw))
		}
	}
	for name := range m {
		if !slices.Contains(known, name) {
			return fault.Errorf(fault.BadTicket, "ticket: params: unknown key %q (known: %s)", name, strings.Join(known, ", "))
		}
	}
	return nil
}

// kindOf tells in words what JSON a field of type typ wants.
func kindOf(typ reflect.Type) string {
	switch typ.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "an object"
	case reflect.Pointer:
		return kindOf(typ.Elem())
	}
	return "a number"
}

// Spent tells whether the ticket has used up its attempts, the present one not
// counted.
func (t *Ticket) Spent() bool {
	retry := t.Retry
	if retry == 0 {
		retry = DefaultRetry
	}
	return t.Attempt-t.Spared > retry
}

// Finish completes t with the outcome of err: nil is a success.
func (t *Ticket) Finish(err error) {
	k := fault.Of(err)
	t.Status, t.Result, t.Fault, t.Error = Complete, k.Result(), k, ""
	if err != nil {
		t.Error = err.Error()
	}
}

// Clone returns a copy that shares nothing that anybody changes: the texts of
// Params and Extra are replaced as a whole, never in place.
func (t *Ticket) Clone() *Ticket {
	c := *t
	c.Capabilities = slices.Clone(t.Capabilities)
	c.Needs = slices.Clone(t.Needs)
	c.Workspace = slices.Clone(t.Workspace)
	c.Env = maps.Clone(t.Env)
	c.Secrets = slices.Clone(t.Secrets)
	if t.Limits != nil {
		limits := *t.Limits
		c.Limits = &limits
	}
	c.Artifacts = maps.Clone(t.Artifacts)
	c.Extra = maps.Clone(t.Extra)
	return &c
}
