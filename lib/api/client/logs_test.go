package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/distci/distci/lib/fault"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

// console is a server of one build's log, which breaks and ends as the script
// says.
type console struct {
	log    string
	script []string // per request of the log: "cut N", "end N", "all", "down"
	ended  int      // the build is complete from this request for its logs on
	deaf   bool     // it does not know how to begin somewhere

	logs, lists atomic.Int64
}

func (s *console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/logs") {
		complete := int(s.lists.Add(1)) >= s.ended
		fmt.Fprintf(w, `{"complete": %v, "tag": "x", "logs": [{"name": "0000.01", "live": %v, "size": %d}]}`, complete, !complete, len(s.log))
		return
	}
	offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
	if !s.deaf {
		w.Header().Set("Log-Offset", strconv.Itoa(offset))
	}
	do, arg, _ := strings.Cut(s.script[min(int(s.logs.Add(1)), len(s.script))-1], " ")
	n, _ := strconv.Atoi(arg)
	switch do {
	case "down":
		http.Error(w, "not now", http.StatusServiceUnavailable)
	case "cut":
		io.WriteString(w, s.log[min(offset, n):n])
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "end":
		io.WriteString(w, s.log[min(offset, n):n])
	default:
		io.WriteString(w, s.log[offset:])
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
		{"nobody is there for a moment", &console{script: []string{"cut 5", "down", "down", "all"}, ended: 3}, text, fault.None},
		{"cut between bytes that were there before", &console{script: []string{"cut 0", "end 4", "cut 4", "end 9", "all"}, ended: 5}, text, fault.None},
		{"the end came after the log was read", &console{script: []string{"end 4", "all"}, ended: 2}, text, fault.None},
		{"nothing new at the end", &console{script: []string{"all"}, ended: 2}, text, fault.None},
		{"cut for ever", &console{script: []string{"cut 5"}, ended: 2}, text[:5], fault.Temporary},
		{"a server that does not say where it begins", &console{script: []string{"all"}, ended: 1, deaf: true}, "", fault.Config},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := tt.server
				s.log = text
				c := Over(s)
				var out bytes.Buffer
				err := c.Follow(t.Context(), "j", 1, 0, &out)
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
	if err := c.Follow(t.Context(), "j", 1, 0, &out); err != nil || out.String() != s.log {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
}

// TestFollowLive: a byte is seen when it is written, not at the end; and the
// end of the follower ends the handler.
func TestFollowLive(t *testing.T) {
	step, gone := make(chan struct{}), make(chan struct{}, 1)
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/logs") {
			io.WriteString(w, `{"logs": [{"name": "0000.01", "live": true}]}`)
			return
		}
		w.Header().Set("Log-Offset", "0")
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
		go func() { done <- c.Follow(ctx, "j", 1, 0, w) }()
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
	if err := c.Follow(t.Context(), "j", 1, 0, failingWriter{full}); !errors.Is(err, full) || s.logs.Load() != 2 {
		t.Error(err, s.logs.Load())
	}
}
