package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	s3test "github.com/distci/distci/test/s3"
)

// forever is a grace after which everything is old, also what is of now.
const forever = -time.Hour

// data is n bytes that do not repeat.
func data(seed byte, n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// operation is a change of the object "a/k", which is old before, and new
// after it; nil: there is none.
type operation struct {
	name     string
	old, new []byte
	do       func(ctx context.Context, s store.Store, version string, new []byte) error
}

func operations() []operation {
	put := func(ctx context.Context, s store.Store, _ string, p []byte) error {
		_, err := s.Put(ctx, "a/k", bytes.NewReader(p))
		return err
	}
	create := func(ctx context.Context, s store.Store, _ string, p []byte) error {
		_, err := s.Create(ctx, "a/k", bytes.NewReader(p))
		return err
	}
	swap := func(ctx context.Context, s store.Store, version string, p []byte) error {
		_, err := s.Swap(ctx, "a/k", version, bytes.NewReader(p))
		return err
	}
	remove := func(ctx context.Context, s store.Store, _ string, _ []byte) error { return s.Delete(ctx, "a/k") }
	appendAt := func(offset int) func(ctx context.Context, s store.Store, version string, p []byte) error {
		return func(ctx context.Context, s store.Store, _ string, p []byte) error {
			return s.Append(ctx, "a/k", int64(offset), p[offset:])
		}
	}
	large, log := data(2, 2*partSize+1), data(3, 3*tailMax)
	return []operation{
		{"put", nil, []byte("new"), put},
		{"put over", []byte("old"), []byte("new one"), put},
		{"put large", []byte("old"), large, put},
		{"put over large", large, []byte("new"), put},
		{"create", nil, []byte("new"), create},
		{"create large", nil, large, create},
		{"swap", []byte("old"), []byte("new one"), swap},
		{"swap large", large, append([]byte("x"), large...), swap},
		{"append first", nil, []byte("new"), appendAt(0)},
		{"append", []byte("old"), []byte("old and new"), appendAt(3)},
		{"append a piece", log[:tailMax-1], log, appendAt(tailMax - 1)},
		{"delete", []byte("old"), nil, remove},
		{"delete large", large, nil, remove},
	}
}

// content is what an object holds; nil: there is none.
func content(t *testing.T, s store.Store, key string) []byte {
	t.Helper()
	p, _, err := store.ReadAll(t.Context(), s, key)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{}, p...)
}

// begin makes the object as it is before an operation.
func (o operation) begin(t *testing.T, s store.Store) (version string) {
	t.Helper()
	if o.old == nil {
		return ""
	}
	info, err := s.Put(t.Context(), "a/k", bytes.NewReader(o.old))
	if err != nil {
		t.Fatal(err)
	}
	return info.Version
}

// noGarbage sweeps, and checks that what is left is the object and nothing
// else, as the server sees it.
func noGarbage(t *testing.T, s *bucket, want []byte) {
	t.Helper()
	if _, err := s.Sweep(t.Context(), forever, false); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "a/k"); !bytes.Equal(got, want) {
		t.Fatal("a sweep has changed the object")
	}
	var names []string
	for o, err := range s.each(t.Context(), "", "", 1000) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, o.Key)
	}
	n := 1
	if want != nil {
		h, err := s.readHead(t.Context(), "a/k")
		if err != nil {
			t.Fatal(err)
		}
		n += 1 + len(h.pieces)
	}
	if len(names) != n {
		t.Errorf("after a sweep the bucket holds %q, want %d names", names, n)
	}
	uploads, err := s.api.ListMultipartUploads(t.Context(), s.name, s.prefix, "", "", "", 10)
	if err != nil || len(uploads.Uploads) != 0 {
		t.Errorf("after a sweep there are uploads %v, %v", uploads.Uploads, err)
	}
}

// TestCrashAtEveryRequest ends a client at each of its requests, before it
// reaches the server and after: what a kill leaves behind, the server cannot
// tell from that.
func TestCrashAtEveryRequest(t *testing.T) {
	server := server(t)
	proxy := s3test.NewProxy(t, server)
	for i, o := range operations() {
		t.Run(o.name, func(t *testing.T) {
			for n, done := 1, false; !done; n++ {
				for _, f := range []s3test.Fault{s3test.CutBefore, s3test.CutAfter} {
					prefix := fmt.Sprintf("crash/%d/%d/%d", i, n, f)
					direct := mustOpen(t, server.Store(prefix, server.URL, ""))
					version := o.begin(t, direct)
					client := mustOpen(t, server.Store(prefix, proxy.URL, ""))
					client.patience = 100 * time.Millisecond
					met := false
					proxy.Decide(func(k int, r *http.Request) s3test.Fault {
						switch {
						case k < n:
							return s3test.Pass
						case k == n:
							met = true
							return f
						}
						return s3test.CutBefore
					})
					err := o.do(t.Context(), client, version, o.new)
					proxy.Decide(nil)
					done = !met
					got := content(t, direct, "a/k")
					isOld, isNew := bytes.Equal(got, o.old) && (got == nil) == (o.old == nil), bytes.Equal(got, o.new) && (got == nil) == (o.new == nil)
					switch {
					case !isOld && !isNew:
						t.Fatalf("request %d, fault %d: %d bytes, neither old nor new", n, f, len(got))
					case err == nil && !isNew:
						t.Errorf("request %d, fault %d: it was reported as done, and is not", n, f)
					case err != nil && !errors.Is(err, store.ErrUnknown) && !isOld:
						t.Errorf("request %d, fault %d: %v, and it is done", n, f, err)
					}
					noGarbage(t, direct, got)
				}
			}
		})
	}
}

// TestLostAnswers loses one answer of each operation: the one that decides.
func TestLostAnswers(t *testing.T) {
	server := server(t)
	proxy := s3test.NewProxy(t, server)
	decides := func(r *http.Request) bool {
		return s3test.Head(r) && (r.Method == http.MethodPut || r.Method == http.MethodDelete)
	}
	for i, o := range operations() {
		for _, f := range []s3test.Fault{s3test.CutAfter, s3test.Broken, s3test.Stall} {
			prefix := fmt.Sprintf("lost/%d/%d", i, f)
			client := mustOpen(t, server.Store(prefix, proxy.URL, "&timeout=2s"))
			version := o.begin(t, client)
			proxy.Decide(s3test.Once(f, decides))
			if err := o.do(t.Context(), client, version, o.new); err != nil {
				t.Errorf("%s, fault %d: %v", o.name, f, err)
			}
			proxy.Decide(nil)
			if got := content(t, client, "a/k"); !bytes.Equal(got, o.new) {
				t.Errorf("%s, fault %d: %d bytes, want %d", o.name, f, len(got), len(o.new))
			}
		}
	}
}

// TestOthersAreNotUndone: an answer is lost, and before the writer comes back
// another one has changed the object.
func TestOthersAreNotUndone(t *testing.T) {
	server := server(t)
	proxy := s3test.NewProxy(t, server)
	for i, f := range []s3test.Fault{s3test.CutBefore, s3test.CutAfter} {
		for _, o := range operations() {
			if o.old == nil {
				continue
			}
			prefix := fmt.Sprintf("undone/%d/%s", i, strings.ReplaceAll(o.name, " ", "-"))
			direct := mustOpen(t, server.Store(prefix, server.URL, ""))
			client := mustOpen(t, server.Store(prefix, proxy.URL, "&timeout=1s"))
			version := o.begin(t, direct)
			met := false
			proxy.Decide(func(_ int, r *http.Request) s3test.Fault {
				if !met && s3test.Head(r) && (r.Method == http.MethodPut || r.Method == http.MethodDelete) {
					met = true
					return f
				}
				if met && s3test.Head(r) && r.Method == http.MethodGet && string(content(t, direct, "a/k")) != "another" {
					if _, err := direct.Put(t.Context(), "a/k", strings.NewReader("another")); err != nil {
						t.Error(err)
					}
				}
				return s3test.Pass
			})
			err := o.do(t.Context(), client, version, o.new)
			proxy.Decide(nil)
			if string(content(t, direct, "a/k")) != "another" {
				t.Errorf("%s, fault %d: the other's object is gone", o.name, f)
			}
			if f == s3test.CutBefore && err == nil {
				t.Errorf("%s: reported as done, and never was", o.name)
			}
		}
	}
}

func TestServerErrors(t *testing.T) {
	server := server(t)
	proxy := s3test.NewProxy(t, server)
	s := mustOpen(t, server.Store("x", proxy.URL, "&timeout=1s"))
	if _, err := s.Put(t.Context(), "a/k", strings.NewReader("old")); err != nil {
		t.Fatal(err)
	}
	all := func(f s3test.Fault) { proxy.Decide(func(int, *http.Request) s3test.Fault { return f }) }
	put := func(n int) error {
		_, err := s.Put(t.Context(), "a/k", bytes.NewReader(data(1, n)))
		return err
	}
	proxy.Decide(func(n int, _ *http.Request) s3test.Fault {
		if n <= 2 {
			return s3test.SlowDown
		}
		return s3test.Pass
	})
	if err := put(10); err != nil {
		t.Errorf("a server that is busy for a while: %v", err)
	}
	want := content(t, s, "a/k")
	for _, size := range []int{10, tailMax + 1, partSize + 1} {
		all(s3test.SlowDown)
		err := put(size)
		wantKind(t, "busy for ever", err, fault.Temporary)
		if errors.Is(err, store.ErrUnknown) {
			t.Errorf("%v: nothing was done", err)
		}
		all(s3test.Quota)
		if err := put(size); !errors.Is(err, store.ErrFull) {
			t.Errorf("quota: %v", err)
		}
		all(s3test.CutBefore)
		if err := put(size); size <= tailMax != errors.Is(err, store.ErrUnknown) {
			t.Errorf("put of %d bytes, cut: %v; unknown is the outcome of what decides, and of nothing else", size, err)
		}
		all(s3test.Stall)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, err = s.Put(ctx, "a/other", bytes.NewReader(data(1, size)))
		cancel()
		if err == nil || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a context that is done: %v", err)
		}
	}
	for what, read := range map[string]func() error{
		"get":     func() error { _, _, err := s.Get(t.Context(), "a/k", 0, -1); return err },
		"stat":    func() error { _, err := s.Stat(t.Context(), "a/k"); return err },
		"list":    func() error { _, err := s.List(t.Context(), "", "", 0); return err },
		"folders": func() error { _, err := s.Folders(t.Context(), "", "", 0); return err },
		"append":  func() error { return s.Append(t.Context(), "a/k", 10, []byte("x")) },
		"delete":  func() error { return s.Delete(t.Context(), "a/k") },
		"sweep":   func() error { _, err := s.Sweep(t.Context(), forever, false); return err },
	} {
		all(s3test.Stall)
		wantKind(t, what, read(), fault.Temporary)
	}
	proxy.Decide(nil)
	if got := content(t, s, "a/k"); !bytes.Equal(got, want) && !bytes.Equal(got, append(want, 'x')) && got != nil {
		t.Errorf("the object holds %q", got)
	}
}

// TestBrokenReads cuts each answer once, in the middle.
func TestBrokenReads(t *testing.T) {
	server := server(t)
	proxy := s3test.NewProxy(t, server)
	s := mustOpen(t, server.Store("x", proxy.URL, ""))
	want := data(5, partSize+tailMax)
	if _, err := s.Put(t.Context(), "a/k", bytes.NewReader(want)); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), "a/k", int64(len(want)), want[:1000]); err != nil {
		t.Fatal(err)
	}
	want = append(want, want[:1000]...)
	cuts := 0
	proxy.Decide(func(n int, _ *http.Request) s3test.Fault {
		if n%2 == 1 && cuts < 3 {
			cuts++
			return s3test.CutBody
		}
		return s3test.Pass
	})
	if got := content(t, s, "a/k"); !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, want %d, or others", len(got), len(want))
	}
	if infos, err := s.List(t.Context(), "a/", "", 0); err != nil || len(infos) != 1 || infos[0].Size != int64(len(want)) {
		t.Errorf("list: %+v, %v", infos, err)
	}
	if cuts != 3 {
		t.Errorf("%d answers were cut", cuts)
	}
}

// TestStaleETag: a version is never that of two contents, but for a server
// that does nothing else; then no change is made on it.
func TestStaleETag(t *testing.T) {
	s := server(t)
	proxy := s3test.NewProxy(t, s)
	b := mustOpen(t, s.Store("stale", proxy.URL, ""))
	want, err := b.Put(t.Context(), "k", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	proxy.Decide(func(n int, r *http.Request) s3test.Fault {
		if n <= rereads {
			return s3test.Stale
		}
		return s3test.Pass
	})
	if p, info, err := store.ReadAll(t.Context(), b, "k"); err != nil || string(p) != "x" || info.Version != want.Version {
		t.Errorf("%q of version %s, %v; want that of version %s", p, info.Version, err, want.Version)
	}
	proxy.Decide(func(int, *http.Request) s3test.Fault { return s3test.Stale })
	p, info, err := store.ReadAll(t.Context(), b, "k")
	if err != nil || string(p) != "x" || info.Version == want.Version {
		t.Errorf("%q of version %s, %v", p, info.Version, err)
	}
	proxy.Decide(nil)
	if _, err := b.Swap(t.Context(), "k", info.Version, strings.NewReader("y")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("swap: %v, want %v", err, store.ErrConflict)
	}
}

// TestFrozenServer: nothing moves, and then everything goes on.
func TestFrozenServer(t *testing.T) {
	server := server(t)
	s := mustOpen(t, server.Fresh("&timeout=1s"))
	if err := s.Append(t.Context(), "log", 0, []byte("first ")); err != nil {
		t.Fatal(err)
	}
	server.Freeze(t)
	err := s.Append(t.Context(), "log", 6, []byte("second"))
	_, putErr := s.Put(t.Context(), "large", bytes.NewReader(data(1, 3*partSize)))
	server.Thaw(t)
	if !errors.Is(err, store.ErrUnknown) {
		t.Errorf("append to a frozen server: %v", err)
	}
	wantKind(t, "append", err, fault.Temporary)
	wantKind(t, "put", putErr, fault.Temporary)
	if err := s.Append(t.Context(), "log", 6, []byte("second")); err != nil {
		t.Fatal(err)
	}
	if got := content(t, s, "log"); string(got) != "first second" {
		t.Errorf("the log holds %q", got)
	}
}

func TestSweep(t *testing.T) {
	s := mustOpen(t, server(t).Fresh(""))
	live := data(1, tailMax+1)
	for _, key := range []string{"a/k", "a/l"} {
		for range 2 { // the first of them is replaced
			if _, err := s.Put(t.Context(), key, bytes.NewReader(live)); err != nil {
				t.Fatal(err)
			}
		}
	}
	name := s.prefix + dataName("b/k", randomName())
	id, err := s.api.NewMultipartUpload(t.Context(), s.name, name, minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.uploadPart(t.Context(), name, id, 1, data(1, partSize)); err != nil {
		t.Fatal(err)
	}
	want := store.Swept{Objects: 3, Bytes: 2*int64(len(live)) + partSize}
	for _, tt := range []struct {
		grace  time.Duration
		dryRun bool
		want   store.Swept
	}{{time.Hour, false, store.Swept{}}, {forever, true, want}, {forever, false, want}, {forever, false, store.Swept{}}} {
		if got, err := s.Sweep(t.Context(), tt.grace, tt.dryRun); err != nil || got != tt.want {
			t.Errorf("sweep %v, %v: %+v, %v; want %+v", tt.grace, tt.dryRun, got, err, tt.want)
		}
	}
	for _, key := range []string{"a/k", "a/l"} {
		if got := content(t, s, key); !bytes.Equal(got, live) {
			t.Errorf("%s was swept", key)
		}
	}
}

// TestLog writes a log long enough for pieces to be put together, and reads it
// with a reader that began before.
func TestLog(t *testing.T) {
	s := mustOpen(t, server(t).Fresh(""))
	want := data(7, 12<<20)
	at := 0
	write := func(end int) {
		for n := 40_000; at < end; at += n {
			n = min(n, end-at)
			if err := s.Append(t.Context(), "log", int64(at), want[at:at+n]); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(3 << 20)
	early, _, err := s.Get(t.Context(), "log", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	write(len(want))
	h, err := s.readHead(t.Context(), "log")
	if err != nil {
		t.Fatal(err)
	}
	if len(h.pieces) >= mergeCount+3 || h.pieces[0].size < small {
		t.Errorf("%d pieces, the first of %d bytes", len(h.pieces), h.pieces[0].size)
	}
	if got, err := io.ReadAll(early); err != nil || !bytes.Equal(got, want[:3<<20]) {
		t.Errorf("the early reader got %d bytes, %v", len(got), err)
	}
	for _, off := range []int{0, tailMax - 1, small, 5<<20 + 3, len(want) - 65536} {
		r, _, err := s.Get(t.Context(), "log", int64(off), 65536)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want[off:off+65536]) {
			t.Errorf("at %d: %d bytes, %v", off, len(got), err)
		}
		r.Close()
	}
	noGarbageLog, err := s.Sweep(t.Context(), forever, true)
	if err != nil || noGarbageLog.Objects != 0 {
		t.Errorf("merging left %+v behind, %v", noGarbageLog, err)
	}
}
