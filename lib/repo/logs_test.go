package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/ticket"
)

// faulty is a store whose appends fail as a test says. (A real one cannot be
// made to fail at just that moment.)
type faulty struct {
	store.Store
	mu      sync.Mutex
	fail    []error // of the next appends; nil: it works
	block   chan struct{}
	largest int
}

func (f *faulty) Append(ctx context.Context, key string, offset int64, p []byte) error {
	f.mu.Lock()
	f.largest = max(f.largest, len(p))
	var err error
	if len(f.fail) > 0 && !strings.HasSuffix(key, indexKey("")) { // of a log's text, not of its index
		err, f.fail = f.fail[0], f.fail[1:]
	}
	block := f.block
	f.mu.Unlock()
	if block != nil {
		<-block
	}
	if errors.Is(err, store.ErrUnknown) { // it was applied all the same
		if e := f.Store.Append(ctx, key, offset, p); e != nil {
			return e
		}
	}
	if err != nil {
		return err
	}
	return f.Store.Append(ctx, key, offset, p)
}

func open(t *testing.T) (*Repo, *faulty) {
	t.Helper()
	tmp := t.TempDir()
	conn, err := local.Open(t.Context(), filepath.Join(tmp, "coord.db"), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	st, err := dir.Open(filepath.Join(tmp, "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	f := &faulty{Store: st}
	r, err := Open(t.Context(), conn, f, queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r, f
}

func (f *faulty) text(t *testing.T, key string) string {
	t.Helper()
	b, _, err := store.ReadAll(t.Context(), f, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestLogSurvivesFaults: appends that fail, also those that were applied
// nevertheless, leave every byte in the log once.
func TestLogSurvivesFaults(t *testing.T) {
	r, f := open(t)
	f.fail = []error{errors.New("cut"), store.ErrUnknown, nil, store.ErrUnknown, store.ErrUnknown}
	l := r.NewLog(t.Context(), "j", 1, "0", 1)
	var want strings.Builder
	for i := range 5000 {
		line := fmt.Sprintf("line %d of a log\n", i)
		want.WriteString(line)
		if _, err := io.WriteString(l, line); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := f.text(t, logKey("j", 1, "0", 1)); got != want.String() {
		t.Errorf("the log has %d bytes, want %d", len(got), want.Len())
	}
}

func TestLogOnAFullStore(t *testing.T) {
	r, f := open(t)
	f.fail = []error{nil, store.ErrFull}
	l := r.NewLog(t.Context(), "j", 1, "0", 1)
	first := strings.Repeat("x", logBatch)
	if _, err := io.WriteString(l, first); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ { // the writer gets to know as soon as the store has said so
		if i == 1000 {
			t.Fatal("the store has said that it is full, and the writer does not get to know")
		}
		if _, err := io.WriteString(l, first); err != nil {
			if fault.Of(err) != fault.Temporary || !errors.Is(err, store.ErrFull) {
				t.Errorf("%v", err)
			}
			break
		}
	}
	if err := l.Close(); !errors.Is(err, store.ErrFull) {
		t.Errorf("close: %v", err)
	}
	if got := f.text(t, logKey("j", 1, "0", 1)); !strings.HasPrefix(got, first) {
		t.Error("what was stored before is gone")
	}
}

// TestLogIsBounded: a writer that is faster than the store waits.
func TestLogIsBounded(t *testing.T) {
	r, f := open(t)
	f.block = make(chan struct{})
	l := r.NewLog(t.Context(), "j", 1, "0", 1)
	const chunk, chunks = 64 << 10, 200
	written := make(chan int, chunks)
	done := make(chan error, 1)
	go func() {
		for i := range chunks {
			if _, err := l.Write(make([]byte, chunk)); err != nil {
				done <- err
				return
			}
			written <- i
		}
		done <- nil
	}()
	// The store takes nothing; only so much can be written.
	for quiet := false; !quiet; {
		select {
		case <-written:
		case <-time.After(300 * time.Millisecond):
			quiet = true
		}
	}
	l.mu.Lock()
	held := len(l.buf)
	l.mu.Unlock()
	if held > logLimit+chunk {
		t.Errorf("%d bytes are held", held)
	}
	close(f.block)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if f.largest > logLimit+chunk {
		t.Errorf("one append had %d bytes", f.largest)
	}
	if got := f.text(t, logKey("j", 1, "0", 1)); len(got) != chunk*chunks {
		t.Errorf("the log has %d bytes", len(got))
	}
}

// TestLogIsLimited: of what is more than the limit the beginning is kept, and
// notes are.
func TestLogIsLimited(t *testing.T) {
	r, f := open(t)
	l := r.NewLog(t.Context(), "j", 1, "0", 1)
	l.Note("begins")
	l.Limit(10)
	for _, w := range []struct {
		text string
		n    int
		full bool
	}{{"123456", 6, false}, {"", 0, false}, {"7890", 4, false}, {"", 0, false}, {"x", 0, true}, {"y", 0, true}} {
		n, err := io.WriteString(l, w.text)
		if n != w.n || errors.Is(err, ErrLogFull) != w.full || l.Full() != w.full || !w.full && err != nil {
			t.Errorf("%q: %d, %v, full %v", w.text, n, err, l.Full())
		}
	}
	l.Note("ends")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got, want := f.text(t, logKey("j", 1, "0", 1)), "distci: begins\n1234567890\ndistci: ends\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	l = r.NewLog(t.Context(), "j", 1, "0", 2)
	l.Limit(3)
	if n, err := io.WriteString(l, "12345"); n != 3 || !errors.Is(err, ErrLogFull) || fault.Of(err) != fault.Verdict {
		t.Errorf("%d, %v", n, err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFollowKeepsStepsApart: what two steps print at the same time comes one
// after the other.
func TestFollowKeepsStepsApart(t *testing.T) {
	r, _ := open(t)
	ctx := t.Context()
	if err := r.PutJob(ctx, "j", []byte(`{"job_id":"j","tasks":[{"type":"execute-shell","params":{"script":":"}}]}`)); err != nil {
		t.Fatal(err)
	}
	b, err := r.Trigger(ctx, "j", nil)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- r.Follow(ctx, "j", b.Number, &out) }()
	for attempt := range 2 {
		l := r.NewLog(ctx, "j", b.Number, "0", attempt+1)
		l.Note("attempt %d", attempt+1)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.AppendConsole(ctx, "j", b.Number, []byte("from afar\n")); err != nil {
		t.Fatal(err)
	}
	// A controller that speaks REST ends the build.
	s := b.State
	s.Status, s.Result = "complete", ticket.Success
	if err := r.PutState(ctx, "j", b.Number, &s); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if want := "distci: attempt 1\ndistci: attempt 2\nfrom afar\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
