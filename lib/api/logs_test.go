package api_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/ticket"
)

// write stores a whole log.
func (l *lab) write(job string, step string, attempt int, text string) {
	l.Helper()
	w := l.repo.NewLog(l.Context(), job, 1, step, attempt)
	_, err := io.WriteString(w, text)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		l.Fatal(err)
	}
}

// TestPartsOfLogs asks for parts of a sealed log, of one that grows and of a
// whole build's.
func TestPartsOfLogs(t *testing.T) {
	l := newLab(t)
	l.job("j", 2)
	l.write("j", "0", 1, "one\ntwo\r\nthree\n")
	l.write("j", "1", 1, "four\nfive")
	l.want(204, "POST", "/jobs/j/builds/1/console", "\nsix\n")
	sealed := l.want(200, "GET", "/jobs/j/builds/1/logs/0000.01", "").Header.Get("Etag")
	grows := l.want(200, "GET", "/jobs/j/builds/1/logs/console", "").Header.Get("Etag")
	for _, c := range []struct {
		path   string
		header []string
		code   int
		body   string
		other  string // a header that it must have
	}{
		{"logs/0000.01", nil, 200, "one\ntwo\r\nthree\n", "Cache-Control: private, max-age=31536000, immutable"},
		{"logs/0000.01", []string{"Range", "bytes=4-6"}, 206, "two", "Content-Range: bytes 4-6/15"},
		{"logs/0000.01", []string{"Range", "bytes=9-"}, 206, "three\n", "Content-Range: bytes 9-14/15"},
		{"logs/0000.01", []string{"Range", "bytes=-2"}, 206, "e\n", "Content-Range: bytes 13-14/15"},
		{"logs/0000.01", []string{"Range", "bytes=15-"}, 416, "invalid range: failed to overlap\n", "Content-Range: bytes */15"},
		{"logs/0000.01", []string{"Range", "lines=1-2"}, 416, "invalid range\n", ""},
		{"logs/0000.01", []string{"Range", "bytes=0-2", "If-Range", sealed}, 206, "one", ""},
		{"logs/0000.01", []string{"Range", "bytes=0-2", "If-Range", `"other"`}, 200, "one\ntwo\r\nthree\n", ""},
		{"logs/0000.01", []string{"If-None-Match", sealed}, 304, "", "Etag: " + sealed},
		{"logs/0000.01?lines=2", nil, 200, "two\r\n", "Log-Offset: 4"},
		{"logs/0000.01?lines=2-3", nil, 200, "two\r\nthree\n", "Content-Length: 11"},
		{"logs/0000.01?lines=2-", nil, 200, "two\r\nthree\n", ""},
		{"logs/0000.01?lines=3-2", nil, 200, "", ""},
		{"logs/0000.01?lines=4-9", nil, 200, "", "Log-Offset: 15"},
		{"logs/0000.01?tail=1", nil, 200, "three\n", "Log-Offset: 9"},
		{"logs/0000.01?tail=0", nil, 200, "", "Log-Offset: 15"},
		{"logs/0000.01?tail=9", nil, 200, "one\ntwo\r\nthree\n", "Log-Offset: 0"},
		{"logs/0000.01?offset=4&follow=1", nil, 200, "two\r\nthree\n", "Log-Offset: 4"},
		{"logs/0000.01?tail=1&follow=1", nil, 200, "three\n", "Log-Offset: 9"},
		{"logs/0000.01?offset=99", nil, 200, "", "Log-Offset: 99"},
		{"logs/console", nil, 200, "\nsix\n", "Cache-Control: no-cache"},
		{"logs/console", []string{"If-None-Match", grows}, 304, "", ""},
		{"steps/1/log?attempt=1&tail=1", nil, 200, "five", "Cache-Control: private, max-age=31536000, immutable"},
		{"console", nil, 200, "one\ntwo\r\nthree\nfour\nfive\nsix\n", "Accept-Ranges: bytes"},
		{"console", []string{"Range", "bytes=13-19"}, 206, "e\nfour\n", ""},
		{"console?lines=3-5", nil, 200, "three\nfour\nfive\n", "Log-Offset: 9"},
		{"console?tail=3", nil, 200, "four\nfive\nsix\n", "Log-Offset: 15"},
		{"logs/0007.01", nil, 404, "*", "Content-Type: application/problem+json"},
		{"logs/0000.99", nil, 404, "*", "Content-Type: application/problem+json"},
		{"logs/0000.01.index", nil, 400, "*", ""},
		{"logs/..%2f..%2fstate", nil, 400, "*", ""},
		{"logs/0000.01?lines=0-1", nil, 400, "*", ""},
		{"logs/0000.01?lines=-5", nil, 400, "*", ""},
		{"logs/0000.01?lines=1-x", nil, 400, "*", ""},
		{"logs/0000.01?tail=-1", nil, 400, "*", ""},
		{"logs/0000.01?tail=1&lines=1", nil, 400, "*", ""},
		{"logs/0000.01?lines=1-2&follow=1", nil, 400, "*", ""},
		{"console?offset=1&follow=1", nil, 400, "*", ""},
	} {
		r := l.do("GET", "/jobs/j/builds/1/"+c.path, "", c.header...)
		if r.StatusCode != c.code || c.body != "*" && r.body != c.body {
			t.Errorf("%s %v: %d %q, want %d %q", c.path, c.header, r.StatusCode, r.body, c.code, c.body)
		}
		if name, value, ok := strings.Cut(c.other, ": "); ok && r.Header.Get(name) != value {
			t.Errorf("%s %v: %s is %q, want %q", c.path, c.header, name, r.Header.Get(name), value)
		}
		if c.code >= 400 && strings.Contains(r.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: an error that is kept for ever", c.path)
		}
	}
	l.want(204, "POST", "/jobs/j/builds/1/console", "seven\n")
	if r := l.want(200, "GET", "/jobs/j/builds/1/logs/console", "", "If-None-Match", grows); r.body != "\nsix\nseven\n" {
		t.Errorf("a log that has grown: %q", r.body)
	}
	if r := l.want(200, "GET", "/jobs/j/builds/1/logs", ""); !strings.Contains(r.body, `{"name":"0001.01","attempt":1,"size":9,"live":false}`) {
		t.Errorf("the list: %s", r.body)
	}
}

// TestSealedLogNeedsNoCoordination: what is sealed is served while the
// coordination is away, and only that.
func TestSealedLogNeedsNoCoordination(t *testing.T) {
	tmp := t.TempDir()
	conn, err := local.Open(t.Context(), filepath.Join(tmp, "coord.db"), local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	st, err := dir.Open(filepath.Join(tmp, "store"))
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	defer conn.Close()
	lost := &away{Conn: conn}
	r, err := repo.Open(t.Context(), lost, st, queue.Options{})
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{TB: t, repo: r}
	l.write("j", "0", 1, "whole\n")
	if err := st.Append(t.Context(), repo.BuildPrefix("j", 1)+"log/0001.01", 0, []byte("half")); err != nil {
		t.Fatal(err)
	}
	lost.is = true
	h := api.New(r, api.Options{})
	c := client.Over(h)
	defer c.Close()
	var out bytes.Buffer
	if err := c.StepLog(t.Context(), "j", 1, "0", 1, &out); err != nil || out.String() != "whole\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	for _, path := range []string{"logs/0001.01", "logs/0002.01", "steps/1/log?attempt=1", "steps/0/log", "logs"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/jobs/j/builds/1/"+path, nil))
		if w.Code != 503 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// away is a coordination that does not answer.
type away struct {
	coord.Conn
	is bool
}

func (a *away) Session() coord.Session {
	if a.is {
		return coord.Session{}
	}
	return a.Conn.Session()
}

// frontends passes each request to the next of some, and breaks the reply off
// after as many bytes as it is told.
type frontends struct {
	handlers []http.Handler
	next     atomic.Int64
	cut      func() int // negative: not
}

func (f *frontends) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := f.handlers[int(f.next.Add(1))%len(f.handlers)]
	if strings.Contains(r.URL.Path, "/logs/") {
		w = &cutWriter{ResponseWriter: w, left: f.cut()}
	}
	h.ServeHTTP(w, r)
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *cutWriter) Write(p []byte) (int, error) {
	if w.left >= 0 && len(p) > w.left {
		w.ResponseWriter.Write(p[:w.left])
		panic(http.ErrAbortHandler)
	}
	w.left -= len(p)
	return w.ResponseWriter.Write(p)
}

// received is what a follower has got.
type received struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{}
}

func (r *received) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case r.more <- struct{}{}:
	default:
	}
	return r.b.Write(p)
}

func (r *received) size() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Len()
}

// TestFollowAcrossFrontends: the frontends are lost in turn, in the middle of
// their replies, and the follower has every byte once, of two steps and of an
// attempt that was killed.
func TestFollowAcrossFrontends(t *testing.T) {
	l := newLab(t)
	other, err := cluster.Open(t.Context(), cluster.Options{Coord: "local:" + filepath.Join(l.dir, "coord.db"), Store: "dir:" + filepath.Join(l.dir, "store"), Session: time.Minute, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	l.job("j", 2)
	l.control()
	rng := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	f := &frontends{handlers: []http.Handler{api.New(l.repo, api.Options{}), api.New(other.Repo, api.Options{})}, cut: func() int {
		mu.Lock()
		defer mu.Unlock()
		return 1 + rng.IntN(200_000) // always some, so that the attempts do not run out
	}}
	c := client.Over(f)
	defer c.Close()
	got := &received{more: make(chan struct{}, 1)}
	done := make(chan error, 1)
	go func() { done <- c.Follow(t.Context(), "j", 1, 0, got) }()

	var want strings.Builder
	text := func(w io.Writer, lines int) {
		for i := range lines {
			s := fmt.Sprintf("line %d\r\n%s", i, strings.Repeat("x", i%50*100))
			want.WriteString(s)
			if _, err := io.WriteString(w, s); err != nil {
				t.Fatal(err)
			}
			if i%100 == 0 { // the follower is there while it grows
				for got.size() == 0 {
					<-got.more
				}
			}
		}
	}
	first := l.native()
	killed := l.repo.NewLog(t.Context(), "j", 1, "0", first.Ticket.Attempt)
	text(killed, 1000)
	for got.size() < want.Len() { // it is never closed: its worker was killed
		<-got.more
	}
	if err := first.Release(t.Context(), context.Canceled, false); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		step := l.native()
		w := l.repo.NewLog(t.Context(), "j", 1, step.Ticket.Step, step.Ticket.Attempt)
		text(w, 500)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		end := step.Ticket.Clone()
		end.Status, end.Result = ticket.Complete, ticket.Success
		if _, err := l.repo.Commit(t.Context(), step, end, nil); err != nil {
			t.Fatal(err)
		}
		l.control()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got.b.String() != want.String() {
		t.Errorf("%d bytes, want %d; equal up to %d", got.b.Len(), want.Len(), common(got.b.String(), want.String()))
	}
	text2, err := other.Repo.LogText(t.Context(), "j", 1, "0000.01")
	if err != nil || !text2.Sealed {
		t.Errorf("the log of the killed attempt is not sealed: %v", err)
	}
	_ = killed.Close()

	var tail bytes.Buffer
	f.cut = func() int { return -1 }
	if err := c.Follow(t.Context(), "j", 1, 3, &tail); err != nil || !strings.HasSuffix(want.String(), tail.String()) || strings.Count(tail.String(), "\n") != 2 {
		t.Errorf("the last lines: %q, %v", tail.String(), err)
	}
}

func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}
