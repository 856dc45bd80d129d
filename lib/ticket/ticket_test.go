package ticket

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
)

// TestRoundTrip asserts that what a tool does not know survives to the digit,
// and that what is absent stays absent.
func TestRoundTrip(t *testing.T) {
	in := `{"artifacts":{"a":["x","y"]},"build_number":"3","grease":{"n":12345678901234567890.00100,"z":null},"job_id":"j","limits":{"memory":1024,"cpus":0.5,"pids":3,"disk":9},"network":"bridge:br0","params":{"big":9007199254740993},"secrets":["A","B"],"timeout":60,"zz":[1e999]}`
	tk, err := Parse([]byte(in))
	if err != nil {
		t.Fatal(err)
	}
	if tk.BuildNumber != 3 || tk.Timeout != 60 || tk.Artifacts["a"][1] != "y" {
		t.Errorf("read as %+v", tk)
	}
	var out bytes.Buffer
	if err := tk.Write(&out); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != in {
		t.Errorf("wrote\n%s, want\n%s", got, in)
	}
}

func TestBuildNumberForms(t *testing.T) {
	for in, want := range map[string]Number{`{"build_number":7}`: 7, `{"build_number":"12"}`: 12, `{"build_number":"0000000000000012"}`: 12} {
		tk, err := Parse([]byte(in))
		if err != nil || tk.BuildNumber != want {
			t.Errorf("%s: %v, %v", in, tk, err)
		}
	}
}

func TestBadInput(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{``, "found nothing"},
		{`hello`, "expected one JSON object"},
		{`null`, "found null"},
		{`[]`, "found array"},
		{`"x"`, "found string"},
		{`{} {}`, "found more after it (at byte"},
		{`{"timeout":"10"}`, `field "timeout": expected a whole number of seconds, found "10"`},
		{`{"timeout":-1}`, `field "timeout"`},
		{`{"env":{"A":1}}`, `field "env": expected an object of strings`},
		{`{"env":{"A=B":"1"}}`, `names without '='`},
		{`{"id":"NOT-A-UUID"}`, `field "id": expected a lower-case UUID`},
		{`{"id":"0196F1CE-0000-7000-8000-000000000000"}`, `field "id"`},
		{`{"status":"done"}`, `field "status"`},
		{`{"result":"ok"}`, `field "result"`},
		{`{"fault":"gremlins"}`, `field "fault"`},
		{`{"secrets":"A"}`, `field "secrets": expected a list of strings, found "A"`},
		{`{"limits":{"ram":1}}`, `field "limits": expected an object of memory, cpus, pids and disk`},
		{`{"limits":{"memory":-1}}`, `each a number that is not negative, found {"memory":-1}`},
		{`{"network":1}`, `field "network": expected a string, found 1`},
		{`{"params":[1]}`, `field "params": expected an object, found [1]`},
		{`{"build_number":"12345678901234567"}`, `field "build_number"`},
		{`{"x":"` + strings.Repeat("y", MaxSize) + `"}`, "larger than"},
	} {
		_, err := Read(strings.NewReader(c.in))
		if fault.Of(err) != fault.BadTicket || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v; want one that says %q", c.in, err, c.want)
		}
	}
}

func TestDecodeParams(t *testing.T) {
	var p struct {
		Script string   `json:"script"`
		Masks  []string `json:"masks"`
	}
	tk := &Ticket{Params: json.RawMessage(`{"script":"make","masks":["a"]}`)}
	if err := tk.DecodeParams(&p); err != nil || p.Script != "make" || p.Masks[0] != "a" {
		t.Errorf("%+v, %v", p, err)
	}
	for in, want := range map[string]string{
		`{"Script":"x"}`:   `unknown key "Script" (known: script, masks)`,
		`{"script":["x"]}`: `"script": expected a string, found ["x"]`,
		`{"masks":"x"}`:    `"masks": expected a list, found "x"`,
	} {
		tk.Params = json.RawMessage(in)
		if err := tk.DecodeParams(&p); fault.Of(err) != fault.BadTicket || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want one that says %q", in, err, want)
		}
	}
}

func TestFinishAndSpent(t *testing.T) {
	tk := New("execute-shell", "execute_shell_v1")
	tk.Finish(fault.Errorf(fault.Unavailable, "no such ref"))
	if tk.Status != Complete || tk.Result != Error || tk.Fault != fault.Unavailable || tk.Error != "no such ref" {
		t.Errorf("%+v", tk)
	}
	tk.Finish(nil)
	if tk.Result != Success || tk.Fault != fault.None || tk.Error != "" {
		t.Errorf("%+v", tk)
	}
	tk.Finish(errors.New("x"))
	if tk.Fault != fault.Internal {
		t.Errorf("%+v", tk)
	}
	tk.Attempt = 4
	if !tk.Spent() {
		t.Error("a fourth attempt is one too many")
	}
	tk.Spared = 1
	if tk.Spent() {
		t.Error("a spared attempt counts")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"id":"0196f1ce-0000-7000-8000-000000000000","type":"x","params":{"a":1},"extra":1.50}`))
	f.Add([]byte(`{"secrets":["A"],"limits":{"cpus":0.5,"pids":3},"network":"none"}`))
	f.Add([]byte(`{"build_number":"3","env":{"A":"b"},"workspace":["sha256:x"],"artifacts":{"i":["p"]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tk, err := Parse(b)
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := tk.Write(&out); err != nil {
			t.Fatal(err)
		}
		again, err := Parse(out.Bytes())
		if err != nil {
			t.Fatalf("%s does not read back: %v", out.Bytes(), err)
		}
		var twice bytes.Buffer
		if err := again.Write(&twice); err != nil || twice.String() != out.String() {
			t.Fatalf("%s, then %s: %v", out.Bytes(), twice.Bytes(), err)
		}
	})
}
