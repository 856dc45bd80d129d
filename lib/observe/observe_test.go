package observe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/store/storetest"
)

// log keeps events.
type log struct {
	mu     sync.Mutex
	events []Event
}

func (l *log) tell(e Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// calls are the operations so far, with their errors, and forgotten.
func (l *log) calls() (all []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.events {
		switch {
		case e.Call != nil && e.Call.Error != "":
			all = append(all, e.Call.Operation+" "+e.Call.Error)
		case e.Call != nil:
			all = append(all, e.Call.Operation)
		case e.Session != nil:
			all = append(all, "session "+e.Session.Change)
		}
	}
	l.events = nil
	return all
}

// plain hides what a store can do besides.
type plain struct{ store.Store }

type (
	sweeper struct {
		store.Store
		store.Sweeper
	}
	remover struct {
		store.Store
		store.Remover
	}
	watcher struct {
		store.Store
		store.Watcher
	}
	sweeperRemover struct {
		store.Store
		store.Sweeper
		store.Remover
	}
	sweeperWatcher struct {
		store.Store
		store.Sweeper
		store.Watcher
	}
	removerWatcher struct {
		store.Store
		store.Remover
		store.Watcher
	}
)

func can(s store.Store) [3]bool {
	_, sweeps := s.(store.Sweeper)
	_, removes := s.(store.Remover)
	_, watches := s.(store.Watcher)
	return [3]bool{sweeps, removes, watches}
}

// TestStoreCanWhatItCould: what a store can do besides is seen through the
// wrapper, whatever it is, and nothing that it cannot do.
func TestStoreCanWhatItCould(t *testing.T) {
	d, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	sw, rm, wt := d.(store.Sweeper), d.(store.Remover), d.(store.Watcher)
	seen := map[[3]bool]bool{}
	for _, s := range []store.Store{d, plain{d}, sweeper{d, sw}, remover{d, rm}, watcher{d, wt},
		sweeperRemover{d, sw, rm}, sweeperWatcher{d, sw, wt}, removerWatcher{d, rm, wt}} {
		seen[can(s)] = true
		if got := can(WrapStore(s, nil)); got != can(s) {
			t.Errorf("%T: %v through the wrapper, %v without", s, got, can(s))
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d of 8 combinations were tried", len(seen))
	}
}

// TestStoreContract: a store is one through the wrapper, too.
func TestStoreContract(t *testing.T) {
	storetest.Run(t, openObserved, func(t *testing.T) string { return t.TempDir() })
}

func TestMain(m *testing.M) { storetest.Main(m, openObserved) }

func openObserved(path string) (store.Store, error) {
	s, err := dir.Open(path)
	if err != nil {
		return nil, err
	}
	return WrapStore(s, func(Event) {}), nil
}

// TestStoreCalls: every operation is told once, and an answer is no error.
func TestStoreCalls(t *testing.T) {
	d, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l := &log{}
	s := WrapStore(d, l.tell)
	defer s.Close()
	ctx, canceled := context.WithCancel(t.Context())
	body := func() *strings.Reader { return strings.NewReader("12345") }
	s.Put(ctx, "a", body())
	if e := l.events[0]; e.Call.Written != 5 || e.Call.Part != Store || e.Call.Took <= 0 {
		t.Errorf("told %+v", e.Call)
	}
	s.Create(ctx, "a", body())       // it is there
	s.Swap(ctx, "a", "no", body())   // it is another
	s.Get(ctx, "b", 0, -1)           // it is not there
	s.Append(ctx, "b", 0, []byte{1}) //
	s.Sync(ctx, "b")
	s.Stat(ctx, "b")
	s.List(ctx, "", "", 0)
	s.Folders(ctx, "", "", 0)
	info, _ := s.Stat(ctx, "b")
	store.Remove(ctx, s, "b", info.Version)
	s.(store.Sweeper).Sweep(ctx, time.Hour, true)
	s.Delete(ctx, "a")
	canceled()
	s.Put(ctx, "a", body())
	want := []string{"put", "create", "swap", "get", "append", "sync", "stat", "list", "folders", "stat", "remove", "sweep", "delete", "put canceled"}
	if got := l.calls(); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	for err, want := range map[error]string{store.ErrFull: "full", fmt.Errorf("x: %w", store.ErrUnknown): "unknown",
		context.DeadlineExceeded: "timeout", errors.New("x"): "failed"} {
		if got := storeError(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		}
	}
}

// fickle is a connection whose session the test decides about.
type fickle struct {
	coord.Conn
	session coord.Session
}

func (f *fickle) Session() coord.Session { return f.session }

// TestSessions: what becomes of a session is told once.
func TestSessions(t *testing.T) {
	c, err := local.Open(t.Context(), filepath.Join(t.TempDir(), "coord.db"), local.Options{SessionTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	l := &log{}
	live := func(id int64) coord.Session {
		return coord.Session{ID: id, Timeout: time.Minute, Renewed: time.Now()}
	}
	f := &fickle{c, live(7)}
	o := WrapConn(f, l.tell)
	expect := func(what string, want ...string) {
		t.Helper()
		o.Session()
		o.Session()
		if got := l.calls(); !slices.Equal(got, want) {
			t.Errorf("%s: told %q, want %q", what, got, want)
		}
	}
	expect("the first", "session begun")
	f.session.Renewed = time.Now().Add(-time.Hour)
	expect("no answer", "session lost")
	f.session = coord.Session{Timeout: time.Minute}
	expect("none")
	f.session = live(7)
	expect("the same", "session back")
	f.session = coord.Session{Timeout: time.Minute}
	expect("none", "session lost")
	f.session = live(8)
	expect("another", "session expired", "session begun")

	o.Get(t.Context(), "/nowhere")
	o.Txn(t.Context(), coord.Create("/x", nil))
	o.Txn(t.Context(), coord.Create("/x", nil)) // refused
	o.Children(t.Context(), "/")
	if w, err := o.WatchNode(t.Context(), "/x"); err == nil {
		w.Stop()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o.Children(ctx, "/")
	expect("operations", "get", "transaction", "transaction", "children", "watch", "children canceled")
}

// TestIDs: the ids of a build's trace are the same everywhere, whatever the zone
// in which its time was read, and are another build's for another.
func TestIDs(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 123456789, time.UTC)
	if a, b := TraceID("j", 1, at), TraceID("j", 1, at.In(time.FixedZone("x", 3600))); a != b {
		t.Errorf("%x and %x", a, b)
	}
	// They must not change: processes of two versions write one trace.
	if got, want := Traceparent(TraceID("j", 1, at), RootID("j", 1, at)), golden; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	seen := map[[16]byte]bool{}
	for _, id := range [][16]byte{TraceID("j", 1, at), TraceID("j", 2, at), TraceID("k", 1, at), TraceID("j", 1, at.Add(1))} {
		seen[id] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d different ids of 4 builds", len(seen))
	}
}

const golden = "00-c44be5e299992e2623945240f0bfb737-a33578c8dfa9a5dc-01"

// TestTraced: the standard variables decide.
func TestTraced(t *testing.T) {
	for vars, want := range map[string]bool{
		"":                                     false,
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://x": true,
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://x":                                                 true,
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_SDK_DISABLED=true":                                 false,
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_TRACES_EXPORTER=none":                              false,
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_EXPORTER_OTLP_PROTOCOL=grpc":                       false,
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf":              true,
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://x OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=grpc":                false,
		"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf OTEL_TRACES_EXPORTER=otlp OTEL_SDK_DISABLED=false": false,
	} {
		if got := Traced(func(name string) string {
			for v := range strings.FieldsSeq(vars) {
				if value, ok := strings.CutPrefix(v, name+"="); ok {
					return value
				}
			}
			return ""
		}); got != want {
			t.Errorf("%q: %v", vars, got)
		}
	}
}

// TestPipe: all events arrive, in order, and the end of the pipe is waited for.
func TestPipe(t *testing.T) {
	file := filepath.Join(t.TempDir(), "events")
	var said bytes.Buffer
	p := NewPipe(exec.Command("sh", "-c", `cat >"$0.tmp" && mv "$0.tmp" "$0"`, file), slog.New(slog.NewTextHandler(&said, nil)))
	for i := range 1000 {
		p.Tell(Event{Attempt: &Attempt{Attempt: i, Created: time.Unix(int64(i), 0)}})
	}
	p.Close(time.Minute)
	p.Tell(Event{}) // too late, and no harm
	p.Close(0)
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	if err := Read(f, func(e Event) {
		if e.Attempt == nil || e.Attempt.Attempt != n || !e.Attempt.Created.Equal(time.Unix(int64(n), 0)) {
			t.Errorf("event %d is %+v", n, e.Attempt)
		}
		n++
	}); err != nil || n != 1000 || said.Len() > 0 {
		t.Errorf("%d events, %v, %s", n, err, &said)
	}
}

// TestNobodyReads: an observer that hangs, dies or is not there holds nobody up.
func TestNobodyReads(t *testing.T) {
	for name, cmd := range map[string]*exec.Cmd{
		"hangs": exec.Command("sh", "-c", "exec 0<&- ; trap '' TERM; while [ -e \"$0\" ]; do sleep 0.05; done", t.TempDir()),
		"dies":  exec.Command("false"),
		"gone":  exec.Command("/nonexistent"),
	} {
		t.Run(name, func(t *testing.T) {
			p := NewPipe(cmd, slog.New(slog.DiscardHandler))
			for range 3 * queued {
				p.Tell(Event{Layer: &Layer{}})
			}
			p.Close(0)
		})
	}
}

// TestReadHalf: what a killed process has written last is no error.
func TestReadHalf(t *testing.T) {
	n := 0
	if err := Read(strings.NewReader("{\"layer\":{\"hit\":true}}\n{\"layer\":{\"h"), func(Event) { n++ }); err != nil || n != 1 {
		t.Errorf("%d events, %v", n, err)
	}
	if err := Read(strings.NewReader("what?"), func(Event) {}); err == nil {
		t.Error("no error for what is no event")
	}
}

// TestListen: metrics are for this machine.
func TestListen(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "s")
	for address, ok := range map[string]bool{"127.0.0.1:0": true, "[::1]:0": true, "localhost:0": true, "unix:" + sock: true,
		"0.0.0.0:0": false, ":0": false, "192.0.2.1:0": false, "nonsense": false, "unix:": false} {
		l, err := Listen(address)
		if ok && err != nil && !(strings.HasPrefix(address, "[") && strings.Contains(err.Error(), "assign")) || !ok && err == nil {
			t.Errorf("%s: %v", address, err)
		}
		if l != nil {
			l.Close()
		}
	}
}
