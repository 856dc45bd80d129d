package sandboxtest

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/distci/distci/test/lab"
)

func testStdin(t *testing.T, b *bench) {
	if got := b.output("cat"); got != "" {
		t.Errorf("without an input the program reads %q", got)
	}
	s := b.script("cat")
	var out bytes.Buffer
	long := strings.Repeat("input\n", 100_000)
	s.Stdin, s.Stdout = io.MultiReader(strings.NewReader(long)), &out
	b.run(t.Context(), s)
	if out.String() != long {
		t.Errorf("%d of %d bytes went through the program", out.Len(), len(long))
	}
	// Input that nobody reads neither holds the program up nor fails it.
	s = b.script("exec <&-; exit 3")
	s.Stdin = strings.NewReader(long)
	if r := b.run(t.Context(), s); r.Status != 3 {
		t.Errorf("got %+v, want status 3", r)
	}
}

func testClosedStreams(t *testing.T, b *bench) {
	var out, errs bytes.Buffer
	s := b.script("echo out; echo err >&2; exec <&- >&- 2>&-; i=0; while [ $i -lt 1000 ]; do i=$((i+1)); done; exit 5")
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader("x"), &out, &errs
	if r := b.run(t.Context(), s); r.Status != 5 || out.String() != "out\n" || errs.String() != "err\n" {
		t.Errorf("got %+v, %q, %q", r, out.String(), errs.String())
	}
	s = b.script("echo dropped; echo dropped >&2; cat; exit 6")
	if r := b.run(t.Context(), s); r.Status != 6 {
		t.Errorf("without any stream: %+v", r)
	}
	var both bytes.Buffer // not safe for two goroutines, so one pipe must do
	s = b.script("for i in 1 2 3 4 5; do echo out$i; echo err$i >&2; done")
	s.Stdout, s.Stderr = &both, &both
	b.run(t.Context(), s)
	if want := "out1\nerr1\nout2\nerr2\nout3\nerr3\nout4\nerr4\nout5\nerr5\n"; both.String() != want {
		t.Errorf("one writer for both got %q", both.String())
	}
}

func testBinary(t *testing.T, b *bench) {
	p := make([]byte, 256)
	for i := range p {
		p[i] = byte(i)
	}
	p = bytes.Repeat(p, 100)
	s := b.script("cat; cat bytes >&2")
	if err := os.WriteFile(filepath.Join(b.dir, "bytes"), p, 0o644); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = bytes.NewReader(p), &out, &errs
	b.run(t.Context(), s)
	if !bytes.Equal(out.Bytes(), p) || !bytes.Equal(errs.Bytes(), p) {
		t.Errorf("of %d bytes of every value %d and %d came out, or others", len(p), out.Len(), errs.Len())
	}
}

func testFiles(t *testing.T, b *bench) {
	f, err := os.CreateTemp(b.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	s := b.script("cat; echo out; echo err >&2")
	s.Stdin, s.Stdout, s.Stderr = in, f, f
	b.run(t.Context(), s)
	if got, err := os.ReadFile(f.Name()); string(got) != "out\nerr\n" {
		t.Errorf("the file holds %q, %v", got, err)
	}
	if _, err := f.WriteString("still open"); err != nil {
		t.Error(err)
	}
}

// testManyBytes has a program print 200 MB; memory stays bounded.
func testManyBytes(t *testing.T, b *bench) {
	const size = 200 << 20
	s := b.script("head -c 209715200 /dev/zero; echo end >&2")
	counted := &counter{}
	var errs bytes.Buffer
	s.Stdout, s.Stderr = counted, &errs
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	b.run(t.Context(), s)
	runtime.ReadMemStats(&after)
	if counted.n != size || errs.String() != "end\n" {
		t.Errorf("got %d bytes and %q, want %d", counted.n, errs.String(), size)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("took %d bytes of memory", grown)
	}
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

// testSlowWriter lets the program end long before its output is taken.
func testSlowWriter(t *testing.T, b *bench) {
	w := &gated{gate: make(chan struct{})}
	s := b.script("head -c 60000 /dev/zero; echo >ended")
	s.Stdout = w
	done := make(chan struct{})
	go func() {
		defer close(done)
		if r, err := b.s.Run(t.Context(), s); err != nil || r.Status != 0 {
			t.Errorf("got %+v, %v", r, err)
		}
	}()
	lab.Until(t, "the program has ended", func() bool {
		_, err := os.Stat(filepath.Join(b.dir, "ended"))
		return err == nil
	})
	select {
	case <-done:
		t.Error("Run ended before the output was taken")
	default:
	}
	close(w.gate)
	<-done
	if w.n != 60000 {
		t.Errorf("got %d bytes, want 60000", w.n)
	}
}

type gated struct {
	gate chan struct{}
	n    int
}

func (g *gated) Write(p []byte) (int, error) {
	<-g.gate
	g.n += len(p)
	return len(p), nil
}

func testFailingWriter(t *testing.T, b *bench) {
	s := b.script("head -c 1000000 /dev/zero && exit 7")
	s.Stdout = failing{}
	if r := b.run(t.Context(), s); r.Status != 7 {
		t.Errorf("got %+v, want status 7", r)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }
