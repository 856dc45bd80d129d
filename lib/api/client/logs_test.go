package client

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distci/distci/lib/fault"
)

var zeroTime time.Time

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// console is a server of one build's log, which breaks and ends as the script
// says.
type console struct {
	log    string
	script []string // per request of the log: "cut N", "end N", "all"
	ended  int      // the build is complete from this request for its state on

	logs, states atomic.Int64
}

func (s *console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/state") {
		status := "running"
		if int(s.states.Add(1)) >= s.ended {
			status = "complete"
		}
		io.WriteString(w, `{"state": {"status": "`+status+`"}}`)
		return
	}
	do, arg, _ := strings.Cut(s.script[min(int(s.logs.Add(1)), len(s.script))-1], " ")
	n, _ := strconv.Atoi(arg)
	switch do {
	case "cut":
		io.WriteString(w, s.log[:n])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "end":
		io.WriteString(w, s.log[:n])
	case "ranges":
		http.ServeContent(w, r, "", zeroTime, strings.NewReader(s.log))
	default:
		io.WriteString(w, s.log)
	}
}

func TestFollow(t *testing.T) {
	text := "one\ntwo\nthree\n"
	for _, tt := range []struct {
		name   string
		server *console
		want   string
		kind   fault.Kind
	}{
		{"whole", &console{script: []string{"all"}, ended: 1}, text, fault.None},
		{"cut", &console{script: []string{"cut 3", "cut 6", "cut 6", "all"}, ended: 2}, text, fault.None},
		{"a server goes down, another one goes on", &console{script: []string{"end 5", "all"}, ended: 3}, text, fault.None},
		{"a server that cannot follow", &console{script: []string{"end 0", "end 4", "end 4", "end 9", "all"}, ended: 5}, text, fault.None},
		{"the end came after the log was read", &console{script: []string{"end 4", "ranges"}, ended: 2}, text, fault.None},
		{"nothing new at the end", &console{script: []string{"all", "ranges"}, ended: 2}, text, fault.None},
		{"cut for ever", &console{script: []string{"cut 5"}, ended: 2}, text[:5], fault.Temporary},
		{"a log that lost its beginning", &console{script: []string{"cut 5", "end 2"}, ended: 2}, text[:5], fault.Temporary},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := tt.server
				s.log = text
				c := Over(s)
				var out bytes.Buffer
				err := c.Follow(t.Context(), "j", 1, &out)
				c.Close()
				if out.String() != tt.want || fault.Of(err) != tt.kind {
					t.Errorf("%q, %v", out.String(), err)
				}
			})
		})
	}
}

func TestFollowOverTCP(t *testing.T) {
	s := &console{log: strings.Repeat("line\n", 100_000), script: []string{"cut 77777", "cut 300001", "all"}, ended: 2}
	srv := httptest.NewUnstartedServer(s)
	srv.Config.ErrorLog = quiet()
	srv.Start()
	defer srv.Close()
	c, err := New(srv.URL, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var out bytes.Buffer
	if err := c.Follow(t.Context(), "j", 1, &out); err != nil || out.String() != s.log {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
}

// TestFollowLive: a byte is seen when it is written, not at the end; and the
// end of the follower ends the handler.
func TestFollowLive(t *testing.T) {
	step, gone := make(chan struct{}), make(chan struct{}, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/state") {
			io.WriteString(w, `{"state": {"status": "running"}}`)
			return
		}
		io.WriteString(w, "now\n")
		w.(http.Flusher).Flush()
		close(step)
		<-r.Context().Done()
		gone <- struct{}{}
	})
	transports(t, h, func(t *testing.T, c *Client) {
		step = make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		r, w := io.Pipe()
		done := make(chan error)
		go func() { done <- c.Follow(ctx, "j", 1, w) }()
		b := make([]byte, 4)
		if _, err := io.ReadFull(r, b); err != nil || string(b) != "now\n" {
			t.Fatal(string(b), err)
		}
		<-step
		cancel()
		if err := <-done; fault.Of(err) != fault.Interrupted {
			t.Error(err)
		}
		<-gone
	})
}

type failingWriter struct{ error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.error }

func TestWriterFails(t *testing.T) {
	full := errors.New("disk full")
	s := &console{log: "x", script: []string{"all"}, ended: 1}
	c := Over(s)
	defer c.Close()
	if err := c.Console(t.Context(), "j", 1, failingWriter{full}); !errors.Is(err, full) || s.logs.Load() != 1 {
		t.Error(err, s.logs.Load())
	}
}
