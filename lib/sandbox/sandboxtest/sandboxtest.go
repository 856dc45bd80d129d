// Package sandboxtest proves that an adapter keeps what package sandbox
// promises. An adapter's test consists of
//
//	func TestMain(m *testing.M) { sandboxtest.Main(m, open) }
//	func TestSandbox(t *testing.T) { sandboxtest.Run(t, open) }
//
// The programs that it runs are scripts for sh, with what POSIX has and setsid.
package sandboxtest

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
)

// Opener opens the sandbox that is to be tested. It is called once in each
// process, and the sandbox is used until the process ends.
type Opener func() (sandbox.Sandbox, error)

// Run tests the sandbox.
func Run(t *testing.T, open Opener) {
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		test func(t *testing.T, b *bench)
	}{
		{"ExitStatus", testExitStatus},
		{"Signals", testSignals},
		{"Environment", testEnvironment},
		{"Dir", testDir},
		{"Missing", testMissing},
		{"Describe", testDescribe},
		{"Stdin", testStdin},
		{"ClosedStreams", testClosedStreams},
		{"Binary", testBinary},
		{"Files", testFiles},
		{"ManyBytes", testManyBytes},
		{"SlowWriter", testSlowWriter},
		{"FailingWriter", testFailingWriter},
		{"Canceled", testCanceled},
		{"CanceledBefore", testCanceledBefore},
		{"ImmortalIsKilled", testImmortal},
		{"NoGrace", testNoGrace},
		{"Stragglers", testStragglers},
		{"StragglersOfCanceled", testStragglersOfCanceled},
		{"SideBySide", testSideBySide},
		{"Usage", testUsage},
		{"KilledWorker", testKilledWorker},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, &bench{t: t, s: s, dir: t.TempDir()}) })
	}
}

// bench is what one test works with.
type bench struct {
	t   *testing.T
	s   sandbox.Sandbox
	dir string
}

const path = "PATH=/usr/local/bin:/usr/bin:/bin"

// script is a Spec that runs a script, with args as $1, $2, …
func (b *bench) script(text string, args ...string) sandbox.Spec {
	m := sandbox.Mount{Source: b.dir, Target: "/workspace"}
	return sandbox.Spec{Args: append([]string{"sh", "-c", text, "sh"}, args...), Env: []string{path},
		Mounts: []sandbox.Mount{m}, Dir: b.s.Inside(m), Grace: time.Minute}
}

func (b *bench) run(ctx context.Context, s sandbox.Spec) sandbox.Result {
	b.t.Helper()
	r, err := b.s.Run(ctx, s)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// output runs a script, which must succeed, and returns what it printed.
func (b *bench) output(text string, args ...string) string {
	b.t.Helper()
	var out, errs bytes.Buffer
	s := b.script(text, args...)
	s.Stdout, s.Stderr = &out, &errs
	if r := b.run(b.t.Context(), s); r.Status != 0 {
		b.t.Fatalf("status %d: %s", r.Status, errs.String())
	}
	return out.String()
}

func testExitStatus(t *testing.T, b *bench) {
	for _, status := range []int{0, 1, 2, 64, 77, 126, 127, 128, 137, 255} {
		r := b.run(t.Context(), b.script("exit "+strconv.Itoa(status)))
		if r.Status != status || r.Signal != 0 || r.OOM {
			t.Errorf("got %+v, want status %d", r, status)
		}
	}
}

func testSignals(t *testing.T, b *bench) {
	for _, signal := range []int{1, 2, 3, 6, 9, 11, 13, 14, 15} {
		r := b.run(t.Context(), b.script("ulimit -c 0; kill -"+strconv.Itoa(signal)+" $$; sleep 60"))
		if r.Status != 128+signal || r.Signal != signal || r.OOM {
			t.Errorf("got %+v, want signal %d", r, signal)
		}
	}
}

func testEnvironment(t *testing.T, b *bench) {
	t.Setenv("SECRET_OF_THE_WORKER", "secret")
	want := []string{path, "A=one", "EMPTY=", "LINES=x\ny", "SPACE= a  b "}
	s := b.script("")
	s.Args, s.Env = []string{"env", "-0"}, want
	var out bytes.Buffer
	s.Stdout = &out
	b.run(t.Context(), s)
	got := strings.Split(strings.TrimSuffix(out.String(), "\x00"), "\x00")
	got = slices.DeleteFunc(got, func(e string) bool { return strings.HasPrefix(e, sandbox.StepVar+"=") })
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("environment is %q, want %q", got, want)
	}
}

func testDir(t *testing.T, b *bench) {
	if err := os.WriteFile(filepath.Join(b.dir, "here"), []byte("found"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := b.output("cat here; echo made >there"); got != "found" {
		t.Errorf("read %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(b.dir, "there")); string(got) != "made\n" {
		t.Errorf("the file that the program made holds %q, %v", got, err)
	}
	s := b.script("true")
	s.Dir = filepath.Join(s.Dir, "nowhere")
	if _, err := b.s.Run(t.Context(), s); err == nil {
		t.Error("ran in a folder that does not exist")
	}
}

func testMissing(t *testing.T, b *bench) {
	if err := os.WriteFile(filepath.Join(b.dir, "plain"), []byte("#!/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"no-such-program", "/no/such/program", "./no-such-program", "./plain", "/", "plain"} {
		s := b.script("")
		s.Args = []string{name}
		var out bytes.Buffer
		s.Stdin, s.Stdout, s.Stderr = strings.NewReader("x"), &out, &out
		if _, err := b.s.Run(t.Context(), s); fault.Of(err) != fault.MissingTool {
			t.Errorf("%s: %v (%s), want a missing tool", name, err, fault.Of(err))
		}
	}
}

func testDescribe(t *testing.T, b *bench) {
	if b.s.Describe() == "" {
		t.Error("the sandbox does not describe itself")
	}
}

func testUsage(t *testing.T, b *bench) {
	r := b.run(t.Context(), b.script("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"))
	if r.Usage.User+r.Usage.System <= 0 || r.Usage.MaxRSS < 64<<10 {
		t.Errorf("usage is %+v", r.Usage)
	}
}

// waitFor is a writer that tells when a program has printed something.
type waitFor struct {
	mu   sync.Mutex
	text string
	want string
	seen chan struct{} // closed when it was printed
}

func newWaitFor(want string) *waitFor { return &waitFor{want: want, seen: make(chan struct{})} }

func (w *waitFor) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := strings.Contains(w.text, w.want)
	w.text += string(p)
	if !before && strings.Contains(w.text, w.want) {
		close(w.seen)
	}
	return len(p), nil
}
