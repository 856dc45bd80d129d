package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/test/lab"
)

// childVar holds a duration in a process that Main is to make a worker.
const childVar = "SANDBOXTEST_WORKER"

// Main is an adapter's TestMain. In a process that Run has started it is a
// worker that waits to be killed.
func Main(m *testing.M, open Opener) {
	naps, ok := os.LookupEnv(childVar)
	if !ok {
		os.Exit(m.Run())
	}
	s, err := open()
	if err == nil {
		_, err = s.Run(context.Background(), sandbox.Spec{Args: []string{"sh", "-c", stragglers, "sh", naps, "wait"},
			Env: []string{path}, Dir: "/", Stdout: os.Stdout, Stderr: os.Stderr})
	}
	fmt.Fprintln(os.Stderr, "the program ended:", err)
	os.Exit(1)
}

// stragglers is a script that leaves processes of all kinds behind, each of
// which can be told by its argument. All of them hold the output open, and
// some are deaf.
const stragglers = `
sleep $1 &
nohup sleep $1 >/dev/null 2>&1 &
setsid sleep $1 &
(setsid sh -c "trap '' TERM HUP INT; sleep $1; true" &)
(cd /; setsid sh -c "(sleep $1 &)" </dev/null >/dev/null 2>&1 &)
env -i "$(command -v sleep)" $1 &
sh -c "trap '' TERM; while :; do sleep $1; done" &
until [ "$(pgrep -f -c "^([^ ]*/)?sleep $1")" -ge 7 ]; do :; done
if [ "$2" = wait ]; then trap '' TERM; fi
echo ready
while [ "$2" = wait ]; do sleep $1; done
exit 4
`

// naps returns the argument of a sleep that nobody else sleeps.
func naps() string { return fmt.Sprintf("%d.%09d", 100_000+rand.IntN(100_000), rand.IntN(1e9)) }

// left lists the processes in whose command the word occurs; zombies have none.
func left(t *testing.T, word string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if strings.Contains(string(b), word) && !strings.Contains(string(b), childVar) {
			found = append(found, f+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

// sleeps counts the processes that sleep for just so long.
func sleeps(t *testing.T, word string) int {
	t.Helper()
	n := 0
	for _, p := range left(t, word) {
		if strings.HasSuffix(p, "sleep "+word+" ") {
			n++
		}
	}
	return n
}

// cancelWhenReady runs the script and cancels it when it has printed "ready".
func (b *bench) cancelWhenReady(s sandbox.Spec) (sandbox.Result, string) {
	b.t.Helper()
	out := newWaitFor("ready\n")
	s.Stdout = out
	ctx, cancel := context.WithCancel(b.t.Context())
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		select {
		case <-out.seen:
			cancel()
		case <-ctx.Done():
		}
	})
	r := b.run(ctx, s)
	cancel()
	return r, out.text
}

func testCanceled(t *testing.T, b *bench) {
	r, out := b.cancelWhenReady(b.script("trap 'echo cleaned up; exit 9' TERM; echo ready; while :; do sleep 0.01; done"))
	if r.Status != 9 || !strings.HasSuffix(out, "cleaned up\n") {
		t.Errorf("with a handler: %+v, %q", r, out)
	}
	r, _ = b.cancelWhenReady(b.script("echo ready; exec sleep 600"))
	if r.Status != 128+15 || r.Signal != 15 {
		t.Errorf("without a handler: %+v", r)
	}
	// The whole group gets the signal: here the child ends, which the parent
	// only waits for.
	r, _ = b.cancelWhenReady(b.script(`
trap : TERM
sh -c "trap 'exit 8' TERM; echo ready; while :; do sleep 0.01; done" &
while :; do wait $!; s=$?; [ $s -gt 128 ] || exit $s; done`))
	if r.Status != 8 {
		t.Errorf("with a child: %+v", r)
	}
}

func testCanceledBefore(t *testing.T, b *bench) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := b.s.Run(ctx, b.script("echo >ran"))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "ran")); err == nil {
		t.Error("the program ran")
	}
}

func testImmortal(t *testing.T, b *bench) {
	word := naps()
	s := b.script("trap 'echo no' TERM INT HUP; sleep $1 & echo ready; while :; do sleep 0.01; done", word)
	s.Grace = time.Second
	r, out := b.cancelWhenReady(s)
	if r.Status != 128+9 || r.Signal != 9 || !strings.HasSuffix(out, "no\n") {
		t.Errorf("got %+v, %q", r, out)
	}
	if p := left(t, word); p != nil {
		t.Errorf("left: %q", p)
	}
}

func testNoGrace(t *testing.T, b *bench) {
	s := b.script("trap '' TERM; echo ready; while :; do sleep 0.01; done")
	s.Grace = 0
	if r, _ := b.cancelWhenReady(s); r.Signal != 9 {
		t.Errorf("got %+v", r)
	}
}

func testStragglers(t *testing.T, b *bench) {
	for range 3 {
		word := naps()
		out := newWaitFor("ready\n")
		s := b.script(stragglers, word)
		s.Stdout = out
		if r := b.run(t.Context(), s); r.Status != 4 {
			t.Errorf("got %+v, want status 4", r)
		}
		if p := left(t, word); p != nil {
			t.Errorf("left: %q", p)
		}
		select {
		case <-out.seen:
		default:
			t.Error("the script did not get so far")
		}
	}
}

func testStragglersOfCanceled(t *testing.T, b *bench) {
	word := naps()
	s := b.script(stragglers, word, "wait")
	s.Grace = 100 * time.Millisecond
	if r, _ := b.cancelWhenReady(s); r.Signal != 9 {
		t.Errorf("got %+v", r)
	}
	if p := left(t, word); p != nil {
		t.Errorf("left: %q", p)
	}
}

// testSideBySide runs programs whose daemons must not be taken for one
// another's.
func testSideBySide(t *testing.T, b *bench) {
	long := naps()
	out := newWaitFor("ready\n")
	s := b.script(stragglers, long, "wait")
	s.Stdout, s.Grace = out, 0
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if r, err := b.s.Run(ctx, s); err != nil || r.Signal != 9 {
			t.Errorf("got %+v, %v", r, err)
		}
	})
	<-out.seen
	before := sleeps(t, long)
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for i := range 5 {
				word := naps()
				var out bytes.Buffer
				s := b.script("setsid sleep $1 & (setsid sleep $1 &) ; echo $2", word, fmt.Sprint(i))
				s.Stdout = &out
				if r, err := b.s.Run(t.Context(), s); err != nil || r.Status != 0 || out.String() != fmt.Sprint(i, "\n") {
					t.Errorf("got %+v, %v, %q", r, err, out.String())
				}
				if p := left(t, word); p != nil {
					t.Errorf("left: %q", p)
				}
			}
		})
	}
	others.Wait()
	if after := sleeps(t, long); after < before {
		t.Errorf("of %d processes of a program that still runs %d are left", before, after)
	}
	cancel()
	wg.Wait()
	if p := left(t, long); p != nil {
		t.Errorf("left: %q", p)
	}
}

// testKilledWorker kills a worker with SIGKILL while its program and its
// daemons run: they die too.
func testKilledWorker(t *testing.T, b *bench) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		word := naps()
		out := newWaitFor("ready\n")
		cmd := exec.Command(exe, "-test.run=^$")
		cmd.Env = append(os.Environ(), childVar+"="+word)
		cmd.Stderr = os.Stderr
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		for ready := false; !ready; {
			n, err := pipe.Read(buf)
			if err != nil {
				t.Fatalf("the worker ended: %v", err)
			}
			out.Write(buf[:n])
			select {
			case <-out.seen:
				ready = true
			default:
			}
		}
		if sleeps(t, word) < 7 {
			t.Errorf("before: %q", left(t, word))
		}
		cmd.Process.Kill()
		killed := time.Now()
		cmd.Wait()
		lab.Until(t, "no process of the killed worker's program is left", func() bool { return left(t, word) == nil })
		t.Logf("gone after %v", time.Since(killed).Round(time.Millisecond))
	}
}
