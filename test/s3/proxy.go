package s3test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// Fault is what happens to a request.
type Fault int

// The faults.
const (
	Pass      Fault = iota
	CutBefore       // the connection breaks, and the server has not seen the request
	CutAfter        // the server has done it, and the connection breaks before the answer
	CutBody         // it breaks in the middle of the answer
	Stall           // the server has done it, and no answer comes
	SlowDown        // the answer is 503 SlowDown, and nothing was done
	Quota           // the answer is 403 QuotaExceeded
	Broken          // the answer is 500 InternalError, although it was done
	Ignore          // the server does not see conditions, as if it did not know them
	Stale           // the answer has another ETag, that of what was there a moment ago
)

// Proxy stands between clients and a server and does what a network does, and
// what some servers do.
type Proxy struct {
	URL    string
	server *Server
	target *url.URL
	ended  chan struct{}

	mu     sync.Mutex
	n      int
	decide func(n int, r *http.Request) Fault
}

// NewProxy starts a proxy; it ends with the test.
func NewProxy(t testing.TB, s *Server) *Proxy {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{server: s, target: u, ended: make(chan struct{})}
	h := httptest.NewServer(p)
	p.URL = h.URL
	t.Cleanup(func() {
		close(p.ended)
		h.Close()
	})
	return p
}

// Decide says what happens to the requests from now on, the first of which has
// the number 1; nil: they pass.
func (p *Proxy) Decide(f func(n int, r *http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n, p.decide = 0, f
}

func (p *Proxy) fault(r *http.Request) Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.decide == nil {
		return Pass
	}
	p.n++
	return p.decide(p.n, r)
}

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	f := p.fault(r)
	switch f {
	case CutBefore:
		panic(http.ErrAbortHandler)
	case SlowDown:
		refuse(w, http.StatusServiceUnavailable, "SlowDown")
		return
	case Quota:
		refuse(w, http.StatusForbidden, "QuotaExceeded")
		return
	}
	resp, err := p.forward(r, body, f == Ignore)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	switch f {
	case CutAfter:
		panic(http.ErrAbortHandler)
	case Stall:
		select {
		case <-p.ended:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	case Broken:
		refuse(w, http.StatusInternalServerError, "InternalError")
		return
	}
	for k, v := range resp.Header {
		w.Header()[k] = v
	}
	if f == Stale {
		w.Header().Set("ETag", `"`+strings.Repeat("0", 32)+`"`)
	}
	w.WriteHeader(resp.StatusCode)
	if f == CutBody {
		w.Write(answer[:len(answer)/2])
		panic(http.ErrAbortHandler)
	}
	w.Write(answer)
}

// forward sends the request on as it is: its signature covers the host.
func (p *Proxy) forward(r *http.Request, body []byte, ignore bool) (*http.Response, error) {
	out := r.Clone(r.Context())
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = p.target.Scheme, p.target.Host
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	if ignore && (r.Header.Get("If-Match") != "" || r.Header.Get("If-None-Match") != "") {
		for _, h := range []string{"If-Match", "If-None-Match", "Authorization"} {
			out.Header.Del(h)
		}
		out.Host = ""
		out = signer.SignV4(*out, p.server.AccessKey, p.server.SecretKey, "", "us-east-1")
	}
	return http.DefaultTransport.RoundTrip(out)
}

func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>%s</Code><Message>by the proxy</Message></Error>`, code)
}

// Head tells whether a request concerns the head of an object, where all
// changes are decided.
func Head(r *http.Request) bool { return strings.Contains(r.URL.Path, "/o/") }

// Once meets the first request of which the question is true.
func Once(f Fault, is func(r *http.Request) bool) func(int, *http.Request) Fault {
	var once sync.Once
	return func(_ int, r *http.Request) Fault {
		result := Pass
		if is(r) {
			once.Do(func() { result = f })
		}
		return result
	}
}
