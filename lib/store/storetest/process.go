package storetest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/distci/distci/lib/store"
)

// childVar names the work of a process that Main is to be: "WORK NAME ADDRESS".
const childVar = "STORETEST_CHILD"

// Main is an adapter's TestMain. In a process that Run has started it does
// that process's work instead of running the tests.
func Main(m *testing.M, open Opener) {
	work, ok := os.LookupEnv(childVar)
	if !ok {
		os.Exit(m.Run())
	}
	if err := child(work, open); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func child(work string, open Opener) error {
	f := strings.SplitN(work, " ", 3)
	s, err := open(f[2])
	if err != nil {
		return err
	}
	defer s.Close()
	ctx := context.Background()
	switch f[0] {
	case "enter":
		return enter(ctx, s, f[1], entriesEach)
	case "create":
		return createAll(ctx, s, f[1])
	case "put", "swap":
		return replaceForEver(ctx, s, f[0] == "swap")
	case "append":
		return appendForEver(ctx, s)
	}
	return fmt.Errorf("no such work: %s", work)
}

// start runs this program again to do some work.
func (b *bench) start(t *testing.T, work, name string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", childVar, work, name, b.address))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

const entriesEach = 25

func testSwapProcesses(t *testing.T, b *bench) {
	const writers = 3
	var cmds []*exec.Cmd
	for i := range writers {
		cmd, _ := b.start(t, "enter", fmt.Sprint("w", i))
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	checkEntries(t, b.store(t), writers, entriesEach)
}

const createdEach = 50

func createAll(ctx context.Context, s store.Store, name string) error {
	for i := range createdEach {
		_, err := s.Create(ctx, fmt.Sprintf("race/%d/k", i), strings.NewReader(name))
		switch {
		case err == nil:
			fmt.Println(i)
		case !errors.Is(err, store.ErrExists):
			return err
		}
	}
	return nil
}

func testCreateProcesses(t *testing.T, b *bench) {
	names := []string{"x", "y", "z"}
	var cmds []*exec.Cmd
	var outs []*bufio.Scanner
	for _, name := range names {
		cmd, out := b.start(t, "create", name)
		cmds, outs = append(cmds, cmd), append(outs, out)
	}
	winner := map[string]string{}
	for i, name := range names {
		for outs[i].Scan() {
			n := outs[i].Text()
			if winner[n] != "" {
				t.Errorf("both %s and %s created object %s", winner[n], name, n)
			}
			winner[n] = name
		}
		if err := cmds[i].Wait(); err != nil {
			t.Error(err)
		}
	}
	s := b.store(t)
	for i := range createdEach {
		s.wants(fmt.Sprintf("race/%d/k", i), winner[strconv.Itoa(i)])
	}
}

// kills is how often each of the tests below kills a writer.
const kills = 15

// replaceForEver writes the next generation of an object and tells its number,
// until it is killed.
func replaceForEver(ctx context.Context, s store.Store, swap bool) error {
	p, info, err := store.ReadAll(ctx, s, "deep/er/k")
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	for n := generation(p) + 1; ; n++ {
		if swap {
			info, err = s.Swap(ctx, "deep/er/k", info.Version, generate(n))
		} else {
			info, err = s.Put(ctx, "deep/er/k", generate(n))
		}
		if err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// generate makes generation n of the object: some 500 kB of lines that say n.
func generate(n int64) io.Reader {
	line := strconv.FormatInt(n, 10) + "\n"
	return strings.NewReader(strings.Repeat(line, 500_000/len(line)+int(n%100)))
}

// generation tells the number of a whole object: 0 if it is empty, -1 if it is
// not whole.
func generation(p []byte) int64 {
	first, _, _ := bytes.Cut(p, []byte("\n"))
	n, _ := strconv.ParseInt(string(first), 10, 64)
	if whole, _ := io.ReadAll(generate(n)); len(p) > 0 && !bytes.Equal(whole, p) {
		return -1
	}
	return n
}

func testKillPut(t *testing.T, b *bench)  { testKill(t, b, "put") }
func testKillSwap(t *testing.T, b *bench) { testKill(t, b, "swap") }

// testKill kills a writer at points of chance: the object is then the last one
// of which the writer has told, or the one after it.
func testKill(t *testing.T, b *bench, work string) {
	s := b.store(t)
	for range kills {
		told := b.killed(t, work)
		p, _, err := store.ReadAll(t.Context(), s.Store, "deep/er/k")
		if err != nil {
			t.Fatal(err)
		}
		if n := generation(p); n != told && n != told+1 {
			t.Fatalf("generation %d was stored, then the writer was killed; found %d (%d bytes; -1: not whole)", told, n, len(p))
		}
		if keys := s.keys("", 10); len(keys) != 1 {
			t.Fatalf("the store holds %q, want one object", keys)
		}
	}
	s.put("deep/er/k", "writable")
	s.wants("deep/er/k", "writable")
}

const chunk = 50_000

func appendForEver(ctx context.Context, s store.Store) error {
	info, err := s.Stat(ctx, "deep/er/log")
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	for off := info.Size; ; off += chunk {
		if err := s.Append(ctx, "deep/er/log", off, pattern(off, chunk)); err != nil {
			return err
		}
		fmt.Println(off + chunk)
	}
}

// testKillAppend kills a writer of a log: what it has told is there, perhaps
// more, all of it right, and the writer's successor may repeat the last chunk.
func testKillAppend(t *testing.T, b *bench) {
	s := b.store(t)
	for range kills {
		told := b.killed(t, "append")
		p, _, err := store.ReadAll(t.Context(), s.Store, "deep/er/log")
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(p)) < told || len(p) > int(told)+chunk || !bytes.Equal(p, pattern(0, len(p))) {
			t.Fatalf("%d bytes were appended, then the writer was killed; found %d, right: %t", told, len(p), bytes.Equal(p, pattern(0, len(p))))
		}
		s.append("deep/er/log", told, string(pattern(told, chunk)))
		s.wants("deep/er/log", string(pattern(0, int(told)+chunk)))
		if told > 20<<20 {
			if err := s.Delete(t.Context(), "deep/er/log"); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// killed starts a writer, kills it with SIGKILL after its first success and a
// random time, and returns the last number that it told.
func (b *bench) killed(t *testing.T, work string) (told int64) {
	t.Helper()
	cmd, out := b.start(t, work, "w")
	for out.Scan() {
		n, err := strconv.ParseInt(out.Text(), 10, 64)
		if err != nil {
			t.Fatalf("the writer told %q", out.Text())
		}
		if told == 0 {
			time.AfterFunc(time.Duration(rand.Int64N(int64(15*time.Millisecond))), func() { cmd.Process.Kill() })
		}
		told = n
	}
	cmd.Wait()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !ws.Signaled() || told == 0 {
		t.Fatalf("the writer ended by itself: %v", cmd.ProcessState)
	}
	return told
}
