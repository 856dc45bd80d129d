package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/store/sim"
)

// meter counts the bytes that are read from a store.
type meter struct {
	store.Store
	bytes atomic.Int64
	gets  atomic.Int64
}

func (m *meter) Get(ctx context.Context, key string, offset, n int64) (io.ReadCloser, store.Info, error) {
	m.gets.Add(1)
	rd, info, err := m.Store.Get(ctx, key, offset, n)
	if err != nil {
		return nil, info, err
	}
	return &metered{rd, m}, info, nil
}

type metered struct {
	io.ReadCloser
	m *meter
}

func (r *metered) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.m.bytes.Add(int64(n))
	return n, err
}

func newSim() *sim.Client { return sim.New(time.Now).Open() }

// write stores a log as a worker does.
func write(t *testing.T, st store.Store, attempt int, pieces ...[]byte) {
	t.Helper()
	l := (&Repo{store: st}).NewLog(t.Context(), "j", 1, "0", attempt)
	for _, p := range pieces {
		if _, err := l.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// linesOf is the naive answer: the lines of b, each with its newline.
func linesOf(b []byte) [][]byte {
	lines := bytes.SplitAfter(b, []byte{'\n'})
	if len(lines[len(lines)-1]) == 0 {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// check compares ranges of lines with the naive answer.
func check(t *testing.T, text *Text, data []byte, rng *rand.Rand) {
	t.Helper()
	if text.Size != int64(len(data)) {
		t.Fatalf("the text has %d bytes, want %d", text.Size, len(data))
	}
	lines := linesOf(data)
	count := int64(len(lines))
	cut := func(from, to int64) []byte { // from 0 on, to excluded
		from = min(max(from, 0), count)
		to = min(max(to, from), count)
		return bytes.Join(lines[from:to], nil)
	}
	read := func(start, end int64) []byte {
		b, err := io.ReadAll(text.Open(t.Context(), start, end-start))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for i := range 9 {
		from := 1 + rng.Int64N(count+2)
		to := from + rng.Int64N(count+2)
		if i%3 == 0 {
			to = from + rng.Int64N(3)
		}
		start, end, err := text.Lines(t.Context(), from, to)
		if got, want := read(start, end), cut(from-1, to); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("lines %d-%d of %d: %v, %d bytes from %d on, want %d", from, to, count, err, len(got), start, len(want))
		}
		start, end, err = text.Lines(t.Context(), from, -1)
		if got, want := read(start, end), cut(from-1, count); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("lines %d- of %d: %v, %d bytes, want %d", from, count, err, len(got), len(want))
		}
		n := rng.Int64N(count + 2)
		if i%2 == 0 {
			n = rng.Int64N(4)
		}
		start, err = text.Tail(t.Context(), n)
		if got, want := read(start, text.Size), cut(count-n, count); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("the last %d of %d lines: %v, %d bytes, want %d", n, count, err, len(got), len(want))
		}
	}
}

// random makes a log of many kinds of lines.
func random(rng *rand.Rand, size int) []byte {
	var b bytes.Buffer
	for b.Len() < size {
		switch rng.IntN(8) {
		case 0:
			b.WriteString("\n")
		case 1:
			b.WriteString("a line of Windows\r\n")
		case 2: // binary
			for range rng.IntN(2000) {
				b.WriteByte(byte(rng.Uint32()))
			}
		case 3:
			b.Write(bytes.Repeat([]byte{'.'}, rng.IntN(3*logStride)))
		case 4:
			b.Write(bytes.Repeat([]byte{'\n'}, rng.IntN(100)))
		default:
			fmt.Fprintf(&b, "line at byte %d\n", b.Len())
		}
	}
	return b.Bytes()[:size]
}

// TestLines compares every kind of range with the naive answer: of a log that
// is sealed, that grows, whose index is missing, behind, ahead or damaged, and
// of several logs as one.
func TestLines(t *testing.T) {
	for seed := range uint64(36) {
		rng := rand.New(rand.NewPCG(seed, 5))
		size := rng.IntN(3 * indexLag)
		if seed%4 == 0 {
			size = logStride * rng.IntN(20)
		}
		data := random(rng, size)
		st := newSim()
		r := &Repo{store: st}
		write(t, st, 1, data)
		key := logKey("j", 1, "0", 1)
		kind := rng.IntN(6)
		if size == 0 {
			kind = 0
		}
		index, _, err := store.ReadAll(t.Context(), st, indexKey(key))
		if err != nil && size > 0 {
			t.Fatal(err)
		}
		switch kind {
		case 1:
			err = st.Delete(t.Context(), indexKey(key))
		case 2: // behind, and cut at any byte
			_, err = st.Put(t.Context(), indexKey(key), bytes.NewReader(index[:rng.IntN(len(index)-sealSize+1)]))
		case 3: // ahead: the log has lost its end, and the index has not
			size = rng.IntN(size)
			data = data[:size]
			_, err = st.Put(t.Context(), indexKey(key), bytes.NewReader(index[:len(index)-sealSize]))
			if err == nil {
				_, err = st.Put(t.Context(), key, bytes.NewReader(data))
			}
		case 4: // more was written behind the seal
			err = st.Append(t.Context(), key, int64(size), random(rng, rng.IntN(3*logStride)))
		}
		if size > 0 && err != nil {
			t.Fatal(err)
		}
		if size == 0 {
			continue
		}
		t.Run(fmt.Sprintf("%d %d", seed, kind), func(t *testing.T) {
			text, err := r.LogText(t.Context(), "j", 1, "0000.01")
			if err != nil {
				t.Fatal(err)
			}
			if want := kind == 0 || kind >= 4; text.Sealed != want {
				t.Fatalf("sealed: %v, want %v", text.Sealed, want)
			}
			check(t, text, data, rng)
			again, err := r.LogText(t.Context(), "j", 1, "0000.01") // with what was learned
			if err != nil {
				t.Fatal(err)
			}
			check(t, again, data, rng)

			// Several as one.
			second := random(rng, 1+rng.IntN(2*logStride))
			write(t, st, 2, second)
			both := &Text{store: st}
			for i, s := range [][]byte{data, second} {
				both.add(storedLog{key: logKey("j", 1, "0", i+1), size: int64(len(s))})
			}
			check(t, both, append(bytes.Clone(data), second...), rng)
		})
	}
}

// TestWriterKilled kills the writer before and after each of its operations:
// what is there can be read by lines, and whoever ends the step seals it; a
// writer that comes back after that changes nothing.
func TestWriterKilled(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	data := random(rng, 2*indexLag+12345)
	killed := errors.New("killed")
	for at, ended := 0, false; !ended; at++ {
		for _, after := range []bool{false, true} {
			all := sim.New(time.Now)
			dying, st := all.Open(), all.Open()
			ops, dead := 0, false
			dying.Hook = func(op, key string, do func() error) error {
				if op != "append" && op != "sync" {
					return do()
				}
				if dead = dead || ops == at; dead && !(after && ops == at) {
					ops++
					return store.ErrFull // at once, and for good
				}
				ops++
				if err := do(); err != nil || !dead {
					return err
				}
				return fmt.Errorf("%w: %w", killed, store.ErrFull)
			}
			l := (&Repo{store: dying}).NewLog(t.Context(), "j", 1, "0", 1)
			for p := data; len(p) > 0; {
				n := min(len(p), 1+rng.IntN(4*logStride))
				if _, err := l.Write(p[:n]); err != nil {
					break
				}
				p = p[n:]
			}
			_ = l.Close()
			ended = !dead
			r := &Repo{store: st}
			key := logKey("j", 1, "0", 1)
			there, _, err := store.ReadAll(t.Context(), st, key)
			if errors.Is(err, store.ErrNotFound) || len(there) == 0 {
				if err := r.sealLog(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				continue
			}
			if err != nil || !bytes.HasPrefix(data, there) {
				t.Fatalf("killed at %d: %d bytes that were not written so, %v", at, len(there), err)
			}
			text, err := r.LogText(t.Context(), "j", 1, "0000.01")
			if err != nil {
				t.Fatal(err)
			}
			check(t, text, there, rng)
			for range 2 { // the second time there is nothing to do
				if err := r.sealLog(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
			if err := st.Append(t.Context(), key, int64(len(there)), []byte("from a worker that has lost its claim\n")); err != nil {
				t.Fatal(err)
			}
			if err := r.sealLogs(t.Context(), "j", 1); err != nil {
				t.Fatal(err)
			}
			if text, err = r.LogText(t.Context(), "j", 1, "0000.01"); err != nil || !text.Sealed {
				t.Fatalf("killed at %d: not sealed, %v", at, err)
			}
			check(t, text, there, rng)
		}
	}
}

// TestMillionsOfLines: the last lines, and any in the middle, cost little.
func TestMillionsOfLines(t *testing.T) {
	const lines = 5_000_000
	m := &meter{Store: newDir(t)}
	l := (&Repo{store: m}).NewLog(t.Context(), "j", 1, "0", 1)
	var piece bytes.Buffer
	for i := range lines {
		fmt.Fprintf(&piece, "%d\n", i+1)
		if piece.Len() > 1<<20 || i == lines-1 {
			if _, err := l.Write(piece.Bytes()); err != nil {
				t.Fatal(err)
			}
			piece.Reset()
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r := &Repo{store: m}
	for _, c := range []struct{ from, n int64 }{{lines - 9, 10}, {1, 3}, {lines / 2, 2}, {123_456, 10}} {
		m.bytes.Store(0)
		text, err := r.LogText(t.Context(), "j", 1, "0000.01")
		if err != nil {
			t.Fatal(err)
		}
		start, end, err := text.Lines(t.Context(), c.from, c.from+c.n-1)
		if c.from == lines-9 {
			start, err = text.Tail(t.Context(), c.n)
			end = text.Size
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(text.Open(t.Context(), start, end-start))
		var want strings.Builder
		for i := range c.n {
			fmt.Fprintf(&want, "%d\n", c.from+i)
		}
		if string(b) != want.String() || err != nil {
			t.Errorf("%d lines from %d on: %.100q, %v", c.n, c.from, b, err)
		}
		if k := m.bytes.Load(); k >= 1<<20 {
			t.Errorf("%d lines from %d on: %d bytes were read from the store", c.n, c.from, k)
		}
	}
	m.bytes.Store(0)
	text, err := r.LogText(t.Context(), "j", 1, "0000.01")
	if err != nil {
		t.Fatal(err)
	}
	if start, err := text.Tail(t.Context(), lines-4); err != nil || start != int64(len("1\n2\n3\n4\n")) || m.bytes.Load() >= 1<<20 {
		t.Errorf("nearly all lines begin at %d, %v; %d bytes were read", start, err, m.bytes.Load())
	}
}

// newDir is a store for logs that are long.
func newDir(t *testing.T) store.Store {
	st, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}
