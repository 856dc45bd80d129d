package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){name: main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			for _, dir := range []string{"STATE", "CONFIG", "CACHE"} {
				e.Setenv("XDG_"+dir+"_HOME", e.WorkDir+"/."+dir)
			}
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("GIT_CONFIG_GLOBAL", "/dev/null")
			e.Setenv("GIT_CONFIG_SYSTEM", "/dev/null")
			for _, who := range []string{"AUTHOR", "COMMITTER"} {
				e.Setenv("GIT_"+who+"_NAME", "a")
				e.Setenv("GIT_"+who+"_EMAIL", "a@example.org")
			}
			e.Setenv("TMPDIR", os.TempDir())
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status},
	})
}

// status N command... runs a command and asserts its exit status, reading the
// file "in" if there is one.
func status(ts *testscript.TestScript, neg bool, args []string) {
	want, command := args[0], args[1:]
	err := ts.Exec("sh", append([]string{"-c", `touch in; "$@" <in; s=$?; echo "exit status $s" >&2; exit $s`, "sh"}, command...)...)
	_ = err // it is in the text
	if got := ts.ReadFile("stderr"); !contains(got, "exit status "+want+"\n") {
		ts.Fatalf("want exit status %s:\n%s", want, got)
	}
}

func contains(s, end string) bool { return len(s) >= len(end) && s[len(s)-len(end):] == end }
