package tool

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

func TestFilter(t *testing.T) {
	for _, c := range []struct {
		name, in string
		act      error
		panics   bool
		always   bool
		status   int
		out, log string // what they contain; an empty out: nothing is written
	}{
		{name: "success", in: `{"x":1.50}`, out: `"result":"success","status":"complete","x":1.50`},
		{name: "verdict", in: `{}`, act: fault.Errorf(fault.Verdict, "red"), status: 1, out: `"error":"red","fault":"verdict","result":"failure"`, log: "p: red"},
		{name: "unkind", in: `{}`, act: errors.New("odd"), status: 70, out: `"fault":"internal","result":"error"`},
		{name: "panic", in: `{}`, panics: true, status: 70, out: `"error":"panic: boo"`, log: "tool_test.go"},
		{name: "not a ticket", in: `no`, status: 65, log: "expected one JSON object"},
		{name: "two", in: `{}{}`, status: 65, log: "found more after it"},
		{name: "failed before", in: `{"result":"failure","n":1}`, act: errors.New("must not run"), status: 1, out: `{"n":1,"result":"failure"}`},
		{name: "error before", in: `{"result":"error","fault":"unavailable"}`, act: errors.New("must not run"), status: 69, out: `"fault":"unavailable"`},
		{name: "canceled before", in: `{"result":"canceled"}`, act: errors.New("must not run"), status: 1, out: `"result":"canceled"`},
		{name: "always", in: `{"result":"failure","error":"first"}`, always: true, status: 1, out: `"error":"first"`, log: "acted"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, errs bytes.Buffer
			log := NewLog("p", &errs)
			var options []Option
			if c.always {
				options = append(options, Always)
			}
			status := Filter(t.Context(), "p", log, strings.NewReader(c.in), &out, func(context.Context, *ticket.Ticket) error {
				log.Info("acted")
				if c.panics {
					panic("boo")
				}
				return c.act
			}, options...)
			if status != c.status {
				t.Errorf("status %d, want %d", status, c.status)
			}
			if c.out == "" && out.Len() > 0 || !strings.Contains(out.String(), c.out) || strings.Count(out.String(), "\n") > 1 {
				t.Errorf("wrote %q, want %q", out.String(), c.out)
			}
			if !strings.Contains(errs.String(), c.log) {
				t.Errorf("logged %q, want %q", errs.String(), c.log)
			}
			if strings.Contains(errs.String(), "acted") && strings.Contains(c.name, "before") {
				t.Error("acted on a ticket that has failed")
			}
		})
	}
}

// TestInterrupted: an error that came of a signal is told as that.
func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	status := Filter(ctx, "p", NewLog("p", &errs), strings.NewReader("{}"), &out, func(context.Context, *ticket.Ticket) error {
		return errors.New("cut short")
	})
	if status != 75 || !strings.Contains(out.String(), `"fault":"interrupted"`) {
		t.Errorf("status %d, %s", status, out.String())
	}
}

// parse runs Parse on a program with one setting.
func parse(t *testing.T, args ...string) (value string, status int, stdout, stderr string) {
	t.Helper()
	fs := pflag.NewFlagSet("prog", pflag.ContinueOnError)
	Describe(fs, "[options]", "Do nothing.")
	coord := Setting(fs, "coord", "coord", "default", "where")
	var out, errs bytes.Buffer
	log, status := Parse(fs, args, &out, &errs)
	if log == nil {
		return "", status, out.String(), errs.String()
	}
	return *coord, 0, out.String(), errs.String()
}

// TestSettings: a flag, else the environment, else the file, else the default.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	expect := func(want string, args ...string) {
		t.Helper()
		if got, status, _, stderr := parse(t, args...); got != want || status != 0 {
			t.Errorf("%q, status %d, %s; want %q", got, status, stderr, want)
		}
	}
	expect("default")
	file := filepath.Join(dir, "distci", "distci.json")
	if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"coord":"of the file"}`)
	expect("of the file")
	t.Setenv("DISTCI_COORD", "of the environment")
	expect("of the environment")
	expect("of the flag", "--coord", "of the flag")
	t.Setenv("DISTCI_COORD", "")
	for text, want := range map[string]string{
		`{"colour":"red"}`: `unknown key "colour" (known: coord, `,
		`{"coord":5}`:      "expected one JSON object of strings",
		`[]`:               "expected one JSON object of strings",
		`{"coord":"x"`:     "expected one JSON object of strings",
	} {
		write(text)
		if _, status, _, stderr := parse(t); status != 78 || !strings.Contains(stderr, want) || !strings.Contains(stderr, file) {
			t.Errorf("%s: status %d, %s", text, status, stderr)
		}
	}
}

func TestCommonFlags(t *testing.T) {
	t.Setenv("XDG_CONFIG_HOME", t.TempDir())
	for _, c := range []struct {
		args           []string
		status         int
		stdout, stderr string
	}{
		{[]string{"--help"}, 0, "Usage: prog [options]", ""},
		{[]string{"--version"}, 0, "prog " + Version, ""},
		{[]string{"--nope"}, 64, "", "unknown flag: --nope (see prog --help)"},
		{[]string{"extra"}, 64, "", `unexpected argument "extra" (see prog --help)`},
	} {
		_, status, stdout, stderr := parse(t, c.args...)
		if status != c.status || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) || c.stdout == "" && stdout != "" {
			t.Errorf("%v: status %d, stdout %q, stderr %q", c.args, status, stdout, stderr)
		}
	}
}

func TestLog(t *testing.T) {
	var b bytes.Buffer
	log := NewLog("p", &b).With("a", 1).WithGroup("g")
	log.Warn("hello there", "k", "two words", "e", "")
	if want := "p: warning: hello there a=1 g.k=\"two words\" g.e=\"\"\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}
