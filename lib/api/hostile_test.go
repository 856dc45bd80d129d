package api_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distci/distci/lib/api"
)

// raw is a connection to the frontend, for what no client sends.
func (l *lab) raw() net.Conn {
	l.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(l.url, "http://"))
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute)) // for a test that hangs
	return c
}

// readResponse reads one reply.
func readResponse(c net.Conn, method string) (*reply, error) {
	defer c.Close()
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(resp.Body)
	return &reply{resp, string(b)}, err
}

// TestSmuggling: where a request ends there are no two opinions. Each of these
// has another one behind it, for whoever reads it another way; it is not
// carried out.
func TestSmuggling(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	const hidden = "DELETE /jobs/j HTTP/1.1\r\nHost: x\r\n\r\n"
	const host = "POST /jobs/nosuch/builds HTTP/1.1\r\nHost: x\r\n"
	chunk := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden)
	for name, text := range map[string]string{
		"CL and TE":              host + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 5+len(hidden)) + hidden,
		"TE and CL":              host + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + chunk,
		"two CL":                 host + fmt.Sprintf("Content-Length: %d\r\nContent-Length: 0\r\n\r\n", len(hidden)) + hidden,
		"a list of CL":           host + fmt.Sprintf("Content-Length: 0, %d\r\n\r\n", len(hidden)) + hidden,
		"CL with a sign":         host + "Content-Length: +0\r\n\r\n" + hidden,
		"CL negative":            host + "Content-Length: -1\r\n\r\n" + hidden,
		"CL hexadecimal":         host + "Content-Length: 0x0\r\n\r\n" + hidden,
		"CL with a space":        host + "Content-Length : 0\r\n\r\n" + hidden,
		"CL empty":               host + "Content-Length: \r\n\r\n" + hidden,
		"two TE":                 host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden,
		"TE of another kind":     host + "Transfer-Encoding: xchunked\r\n\r\n" + hidden,
		"TE list":                host + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + hidden,
		"TE with a tab":          host + "Transfer-Encoding:\tchunked, identity\r\n\r\n0\r\n\r\n" + hidden,
		"TE with a vertical tab": host + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + hidden,
		"folded header":          host + "X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\nBad\r\n\r\n" + hidden,
		"header without colon":   host + "Content-Length\r\n\r\n" + hidden,
		"space in a name":        host + "Transfer Encoding: chunked\r\n\r\n" + hidden,
		"NUL in a value":         host + "X: a\x00b\r\n\r\n" + hidden,
		"chunk with a sign":      host + "Transfer-Encoding: chunked\r\n\r\n-1\r\n" + hidden,
		"chunk too large":        host + "Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n" + hidden,
		"chunk without end":      host + "Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n" + hidden,
		"no host":                "POST /jobs/nosuch/builds HTTP/1.1\r\n\r\n" + hidden,
		"two hosts":              host + "Host: y\r\n\r\n" + hidden,
		"bad version":            "POST /jobs/nosuch/builds HTTP/1.2x\r\nHost: x\r\n\r\n" + hidden,
		"two spaces":             "POST  /jobs/nosuch/builds HTTP/1.1\r\nHost: x\r\n\r\n" + hidden,
	} {
		c := l.raw()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
		c.(*net.TCPConn).CloseWrite()
		all, _ := io.ReadAll(c) // it may be broken off with a reset
		if n := strings.Count(string(all), "HTTP/1.1 "); n > 1 || n == 1 && !strings.HasPrefix(string(all), "HTTP/1.1 4") && !strings.HasPrefix(string(all), "HTTP/1.1 5") {
			t.Errorf("%s: %d replies: %s", name, n, all)
		}
		if r := l.do("GET", "/jobs/j", ""); r.StatusCode != 200 {
			t.Fatalf("%s: what was hidden was carried out", name)
		}
	}
	// What is well said twice on one connection is two requests.
	c := l.raw()
	fmt.Fprint(c, "GET /jobs/j HTTP/1.1\r\nHost: x\r\n\r\nGET /jobs/j HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	if all, err := io.ReadAll(c); err != nil || strings.Count(string(all), "HTTP/1.1 200") != 2 {
		t.Errorf("%v: %s", err, all)
	}
}

// TestHeaderInjection: nothing that a client writes becomes a header of the
// reply, or a line of the log.
func TestHeaderInjection(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	id := l.want(201, "POST", "/jobs/j/builds/1/artifacts", "x").body
	_, id, _ = strings.Cut(id, `"artifact_id":"`)
	id, _, _ = strings.Cut(id, `"`)
	for _, evil := range []string{"a%0d%0aSet-Cookie:%20x=y", "a%0aSet-Cookie:x=y", "%E5%98%8A%E5%98%8DSet-Cookie:x=y", `a"; filename="b`, "a%00b", "a%22%0d%0a%0d%0a<script>"} {
		for _, path := range []string{"/jobs/j/builds/1/artifacts/" + id + "/" + evil, "/jobs/" + evil, "/" + evil, "/jobs?after=" + evil, "/jobs/j/builds/1/console?tail=" + evil, "/ui/jobs/" + evil} {
			c := l.raw()
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\nConnection: close\r\n\r\n", strings.ReplaceAll(path, " ", "%20"), evil)
			r, err := readResponse(c, "GET")
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if r.Header.Get("Set-Cookie") != "" || strings.Contains(r.Header.Get("X-Request-Id"), "Cookie") || len(r.Header["Content-Disposition"]) > 1 ||
				strings.Contains(r.body, "<script>") && strings.Contains(r.Header.Get("Content-Type"), "html") || r.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s: %v %s", path, r.Header, r.body)
			}
		}
	}
	for line := range strings.Lines(l.log.String()) {
		if !strings.HasPrefix(line, "time=") {
			t.Errorf("a line of the log that is not one: %q", line)
		}
	}
}

// TestOversized: every route that takes a body takes only so much of it, and
// says so before it comes where the client asks.
func TestOversized(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	l.control()
	id := l.pending().ID
	for _, rt := range api.Routes() {
		if rt.Method != "POST" && rt.Method != "PUT" {
			continue
		}
		path := "/" + strings.NewReplacer("{job}", "j", "{build}", "1", "{artifact}", id, "{task}", id, "{tag}", "t", "{forge}", "github").Replace(rt.Pattern)
		size := int64(64 << 20)
		body := newCounted(size)
		req, err := http.NewRequest(rt.Method, l.url+path, io.NopCloser(body))
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = -1 // chunked: what comes is not told
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := http.DefaultTransport.RoundTrip(req)
		code := 0
		if err == nil {
			code = resp.StatusCode
			resp.Body.Close()
		}
		// The reply may be lost when the connection is broken off under what is
		// still being sent. The largest is a log's piece and a webhook's delivery,
		// 16 and 25 MiB; the rest is what the connection holds.
		if sent := size - body.n.Load(); sent > 40<<20 || code >= 500 {
			t.Errorf("%s %s: status %d after %d bytes", rt.Method, rt.Pattern, code, sent)
		}
	}
	big := strings.Repeat("x", 1<<20)
	c := l.raw()
	go func() { // the server may not read all of it
		fmt.Fprintf(c, "GET /jobs HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", big+big)
	}()
	if all, _ := io.ReadAll(c); len(all) > 0 && !strings.Contains(string(all), "431") {
		t.Errorf("a header of 2 MiB: %.200s", all)
	}
}

// counted is so many bytes more; the transport may go on reading for a while
// after the reply has come.
type counted struct{ n atomic.Int64 }

func newCounted(n int64) *counted {
	c := &counted{}
	c.n.Store(n)
	return c
}

func (c *counted) Read(p []byte) (int, error) {
	n := min(len(p), 32<<10, int(c.n.Load()))
	if n <= 0 {
		return 0, io.EOF
	}
	for i := range p[:n] {
		p[i] = 'x'
	}
	c.n.Add(-int64(n))
	return n, nil
}

// impatient is a frontend that does not wait long for its clients.
func impatient(l *lab) {
	l.Helper()
	srv := httptest.NewServer(api.New(l.repo, api.Options{Temp: l.dir, Patience: 50 * time.Millisecond, MaxUpload: 1 << 30}))
	l.Cleanup(srv.Close) // waits for all connections: none may be held
	l.url = srv.URL
}

// TestSlowSender: a client that is silent in the middle of a body, or sends a
// byte now and then, is sent away.
func TestSlowSender(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	impatient(l)
	for _, path := range []string{"/jobs/j", "/jobs/j/builds/1/state", "/jobs/j/builds/1/artifacts/00000000-0000-7000-8000-000000000000"} {
		for _, drip := range []bool{false, true} {
			c := l.raw()
			fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{", path)
			gone := make(chan int, 1)
			go func() {
				n := 0
				for drip {
					if _, err := c.Write([]byte(" ")); err != nil {
						break
					}
					n++
					time.Sleep(5 * time.Millisecond) // the pace of the client
				}
				gone <- n
			}()
			all, _ := io.ReadAll(c)
			c.Close()
			if n := <-gone; n > 50_000 {
				t.Errorf("PUT %s: %d bytes were waited for", path, n)
			}
			if len(all) > 0 && !strings.HasPrefix(string(all), "HTTP/1.1 400") {
				t.Errorf("PUT %s: %s", path, all)
			}
		}
	}
}

// TestSlowReader: a client that does not take what it has asked for is sent
// away.
func TestSlowReader(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	impatient(l)
	size := int64(64 << 20) // more than both ends of a connection hold
	id, _, err := l.repo.PutArtifact(t.Context(), "j", 1, "", newCounted(size))
	if err != nil {
		t.Fatal(err)
	}
	c := l.raw()
	fmt.Fprintf(c, "GET /jobs/j/builds/1/artifacts/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", id)
	// The one that follows a log that nobody writes is no slow reader.
	follower := l.raw()
	fmt.Fprint(follower, "GET /jobs/j/builds/1/console?follow=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	time.Sleep(500 * time.Millisecond) // the client's, in which it reads nothing
	if n, err := io.Copy(io.Discard, c); n >= size {
		t.Errorf("all %d bytes have come, %v", n, err)
	}
	if err := l.repo.Cancel(t.Context(), "j", 1, "test"); err != nil {
		t.Fatal(err)
	}
	l.control()
	if r, err := readResponse(follower, "GET"); err != nil || r.StatusCode != 200 {
		t.Errorf("the follower: %v, %v", r, err)
	}
}
