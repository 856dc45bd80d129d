package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){name: main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("XDG_CONFIG_HOME", e.WorkDir)
			tmp, err := os.MkdirTemp("", "") // outside of the workspace
			e.Setenv("TMPDIR", tmp)
			e.Defer(func() { os.RemoveAll(tmp) })
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"status": status, "gone": gone, "end": end},
	})
}

// status N command... runs a command with the file "in", or else an empty
// ticket, on stdin, puts its output into the files "out" and "err", and asserts
// its exit status. As the output goes to files, nobody who keeps them open can
// make it wait. Afterwards no script file may be left.
func status(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec("sh", append([]string{"-c", `test -e in || echo {} >in; "$@" <in >out 2>err; echo $?`, "sh"}, args[1:]...)...))
	if got := strings.TrimSpace(ts.ReadFile("stdout")); got != args[0] {
		ts.Fatalf("exit status %s, want %s:\n%s", got, args[0], ts.ReadFile("err"))
	}
	if left, err := os.ReadDir(ts.MkAbs(ts.Getenv("TMPDIR"))); err == nil && len(left) > 0 {
		ts.Fatalf("left in the temporary folder: %v", left)
	}
}

// gone FILE waits until the process whose pid is in the file is no more.
func gone(ts *testscript.TestScript, neg bool, args []string) {
	pid := strings.TrimSpace(ts.ReadFile(args[0]))
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if _, state, _ := strings.Cut(string(b), ") "); err != nil || strings.HasPrefix(state, "Z") {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("process %s is still there: %s", pid, b)
		}
	}
}

// end FILE ends the process whose pid is in the file, which must be there.
func end(ts *testscript.TestScript, neg bool, args []string) {
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		ts.Fatalf("process %d: %v", pid, err)
	}
}

// TestPage asserts that the man page has an entry for each flag, and no other.
func TestPage(t *testing.T) {
	var help bytes.Buffer
	if status := run(t.Context(), []string{"--help"}, nil, &help, os.Stderr); status != 0 {
		t.Fatal(status)
	}
	page, err := os.ReadFile("../../man/distci-exec.1")
	if err != nil {
		t.Fatal(err)
	}
	names := func(text []byte, pattern string) []string {
		var list []string
		for _, m := range regexp.MustCompile(pattern).FindAllSubmatch(text, -1) {
			list = append(list, string(m[1]))
		}
		slices.Sort(list)
		return list
	}
	flags := names(help.Bytes(), `(?m)^  .{4}--([a-z-]+)`)
	entries := names(page, `(?m)^\.It (?:Fl [a-z] , )?Fl -([a-z-]+)`)
	if len(flags) < 9 || !slices.Equal(flags, entries) {
		t.Errorf("flags %v, entries %v", flags, entries)
	}
}

// BenchmarkExec compares the whole program around a script that does nothing
// with the shell alone.
func BenchmarkExec(b *testing.B) {
	exe := b.TempDir() + "/" + name
	build(b, exe)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		b.Fatal(err)
	}
	in := b.TempDir() + "/in"
	if err := os.WriteFile(in, []byte("{}"), 0o600); err != nil {
		b.Fatal(err)
	}
	for _, argv := range [][]string{{"/bin/sh", "-c", ":"}, {exe, "--script", ":"}} {
		b.Run(strings.TrimPrefix(argv[0][strings.LastIndex(argv[0], "/"):], "/"), func(b *testing.B) {
			for b.Loop() {
				stdin, err := os.Open(in)
				if err != nil {
					b.Fatal(err)
				}
				p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Files: []*os.File{stdin, null, null}, Env: os.Environ()})
				if err != nil {
					b.Fatal(err)
				}
				if st, err := p.Wait(); err != nil || !st.Success() {
					b.Fatal(fmt.Sprint(st, err))
				}
				stdin.Close()
			}
		})
	}
}

func build(b *testing.B, exe string) {
	p, err := os.StartProcess("/usr/bin/env", []string{"env", "CGO_ENABLED=0", "go", "build", "-o", exe, "."}, &os.ProcAttr{Files: []*os.File{nil, os.Stderr, os.Stderr}, Env: os.Environ()})
	if err != nil {
		b.Fatal(err)
	}
	if st, err := p.Wait(); err != nil || !st.Success() {
		b.Fatal(fmt.Sprint(st, err))
	}
}
