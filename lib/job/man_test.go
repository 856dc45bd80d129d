package job

import (
	"encoding/json"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

func page(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../../man/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// described tells whether a page has a list entry for a key.
func described(page, key string) bool {
	return regexp.MustCompile(`(?m)^\.It Va (.* )?` + regexp.QuoteMeta(key) + `( |$)`).MatchString(page)
}

// TestJobPage asserts that distci-job(5) describes each property of the
// schema, in the section for its object, and no other.
func TestJobPage(t *testing.T) {
	text := page(t, "distci-job.5")
	text = text[:strings.Index(text, "\n.Sh SECRETS")]
	sections := strings.Split(text, "\n.Ss ")
	root := compiled()
	objects := map[string]*schema{"Tasks": root.Defs["task"]}
	for name, s := range root.Defs {
		if s.Properties != nil && name != "task" {
			objects[name] = s
		}
	}
	if len(sections) != 1+len(objects) {
		t.Errorf("%d sections for %d objects", len(sections)-1, len(objects))
	}
	for i, section := range sections {
		name, _, _ := strings.Cut(section, "\n")
		s := objects[name]
		if i == 0 {
			name, s = "job", root
		}
		if s == nil {
			t.Errorf("section %q is for nothing in the schema", name)
			continue
		}
		for key := range s.Properties {
			if !described(section, key) {
				t.Errorf("%s: key %s is not described", name, key)
			}
		}
		if n := strings.Count(section, "\n.It Va "); n != len(s.Properties) {
			t.Errorf("%s: %d entries for %d keys", name, n, len(s.Properties))
		}
	}
}

// TestTicketPage asserts that distci-ticket(5) describes each field of a
// ticket, and each kind of fault with its status.
func TestTicketPage(t *testing.T) {
	text := page(t, "distci-ticket.5")
	var full ticket.Ticket
	v := reflect.ValueOf(&full).Elem()
	for i := range v.NumField() {
		fill(v.Field(i))
	}
	full.Extra = nil
	b, err := json.Marshal(&full)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	if len(fields) != v.NumField()-1 {
		t.Errorf("%d fields in JSON, %d in Go", len(fields), v.NumField()-1)
	}
	for name := range fields {
		if !described(text, name) {
			t.Errorf("field %s is not described", name)
		}
	}

	source, err := os.ReadFile("../fault/fault.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := regexp.MustCompile(`Kind = "([a-z-]+)"`).FindAllSubmatch(source, -1)
	if len(kinds) < 10 {
		t.Fatalf("only %d kinds of fault found", len(kinds))
	}
	for _, k := range kinds {
		kind := fault.Kind(k[1])
		entry := regexp.MustCompile(`(?m)^\.It (.*, )?` + strconv.Itoa(kind.Status()) + `(\+n)? Dq ` + string(kind) + `$`)
		if !entry.MatchString(text) {
			t.Errorf("fault %s with status %d is not described", kind, kind.Status())
		}
	}
}

// fill gives v a value that is not its zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.SetBytes([]byte("{}"))
		} else {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
	}
}
