package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// transports runs a test over each way to reach a handler.
func transports(t *testing.T, h http.Handler, test func(t *testing.T, c *Client)) {
	t.Run("tcp", func(t *testing.T) {
		srv := httptest.NewServer(h)
		defer srv.Close()
		c, err := New(srv.URL+"/", Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		test(t, c)
	})
	t.Run("unix", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "c")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
		srv.Start()
		defer srv.Close()
		c, err := New("unix:"+path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		test(t, c)
	})
	t.Run("over", func(t *testing.T) {
		c := Over(h)
		defer c.Close()
		test(t, c)
	})
}

func TestAddresses(t *testing.T) {
	dir := t.TempDir()
	token := func(s string) string {
		name := filepath.Join(dir, fmt.Sprintf("%x", s))
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, tt := range []struct{ address, token, want string }{
		{"http://localhost:8000", "", ""},
		{"https://ci.example.org/distci/", token("s3cret\n"), ""},
		{"unix:/run/x", "", ""},
		{"", "", "unknown scheme"},
		{"ftp://host", "", "unknown scheme"},
		{"localhost:8000", "", "unknown scheme"},
		{"http://", "", "no host"},
		{"unix:", "", "expected a path"},
		{"http://me:s3cret@host", "", "user and password"},
		{"http://s3cret:%zz@host", "", "not a URL"},
		{"http://host?token=1", "", "no query"},
		{"http://host/?", "", "no query"},
		{"http://host#", "", "no fragment"},
		{"http://host", filepath.Join(dir, "absent"), "no such file"},
		{"http://host", token(" \n"), "empty"},
		{"http://host", token("s3cret\ns3cret"), "one line"},
	} {
		_, err := New(tt.address, Options{TokenFile: tt.token})
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.address, err)
			}
			continue
		}
		if fault.Of(err) != fault.Config || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v, want %q", tt.address, err, tt.want)
		}
	}
}

// TestRequests checks what is sent and what is understood, for every method.
func TestRequests(t *testing.T) {
	type sent struct{ line, body string }
	var got atomic.Pointer[sent]
	id := "01890000-0000-7000-8000-000000000000"
	replies := map[string]string{
		"GET /jobs?after=a&limit=2":                  `{"jobs": ["b", "c"], "next": "c"}`,
		"GET /jobs/j":                                `{"job_id": "j", "config": {"job_id": "j"}}`,
		"PUT /jobs/j":                                `{"job_id": "j", "config": {}}`,
		"GET /jobs/j/builds":                         `{"builds": [1, 2], "last_build_number": 2}`,
		"GET /jobs/j/builds/2/state":                 `{"job_id": "j", "build_number": "2", "state": {"status": "running"}}`,
		"POST /jobs/j/builds":                        `{"job_id": "j", "build_number": 3, "state": {}}`,
		"GET /jobs/j/builds/2/console":               "hello\n",
		"GET /jobs/j/builds/2/steps/0/log":           "zero\n",
		"GET /jobs/j/builds/2/steps/0/log?attempt=2": "zero again\n",
		"GET /jobs/j/builds/2/artifacts":             `{"artifacts": {"a": {"path": ["x", "y"], "size": 3, "sha256": "00"}}}`,
		"POST /jobs/j/builds/2/artifacts":            `{"job_id": "j", "build_number": 2, "artifact_id": "a", "size": 3, "sha256": "00"}`,
		"GET /jobs/j/builds/2/artifacts/a":           "abc",
		"GET /tasks":                                 `{"tasks": ["` + id + `"]}`,
		"GET /tasks/" + id:                           `{"id": "` + id + `", "data": {"status": "pending", "x": 1}}`,
		"POST /tasks":                                `{"id": "` + id + `", "data": {}}`,
		"PUT /tasks/" + id:                           `{"id": "` + id + `", "data": {"assignee": "me"}}`,
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		line := r.Method + " " + r.RequestURI
		got.Store(&sent{line, string(b)})
		if reply, ok := replies[line]; ok {
			io.WriteString(w, reply)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	ctx := context.Background()
	transports(t, h, func(t *testing.T, c *Client) {
		var out bytes.Buffer
		for _, tt := range []struct {
			line, body string
			do         func() (any, error)
			want       string
		}{
			{"GET /jobs?after=a&limit=2", "", func() (any, error) { return c.Jobs(ctx, "a", 2) }, `["b","c"]`},
			{"GET /jobs/j", "", func() (any, error) { return c.Job(ctx, "j") }, `{"job_id":"j"}`},
			{"PUT /jobs/j", `{}`, func() (any, error) { return nil, c.PutJob(ctx, "j", []byte(`{}`)) }, `null`},
			{"DELETE /jobs/j%2F%3F", "", func() (any, error) { return nil, c.DeleteJob(ctx, "j/?") }, `null`},
			{"GET /jobs/j/builds", "", func() (any, error) { return c.Builds(ctx, "j") }, `["1","2"]`},
			{"GET /jobs/j/builds/2/state", "", func() (any, error) { return c.Build(ctx, "j", 2) }, `{"status":"running"}`},
			{"POST /jobs/j/builds", `{}`, func() (any, error) { return c.Trigger(ctx, "j") }, `"3"`},
			{"POST /jobs/j/builds/2/cancel", "", func() (any, error) { return nil, c.Cancel(ctx, "j", 2) }, `null`},
			{"DELETE /jobs/j/builds/2", "", func() (any, error) { return nil, c.DeleteBuild(ctx, "j", 2) }, `null`},
			{"GET /jobs/j/builds/2/console", "", func() (any, error) { err := c.Console(ctx, "j", 2, &out); return out.String(), err }, `"hello\n"`},
			{"GET /jobs/j/builds/2/steps/0/log", "", func() (any, error) {
				err := c.StepLog(ctx, "j", 2, "0", 0, &out)
				return out.String(), err
			}, `"zero\n"`},
			{"GET /jobs/j/builds/2/steps/0/log?attempt=2", "", func() (any, error) {
				err := c.StepLog(ctx, "j", 2, "0", 2, &out)
				return out.String(), err
			}, `"zero again\n"`},
			{"GET /jobs/j/builds/2/artifacts", "", func() (any, error) { return c.Artifacts(ctx, "j", 2) }, `{"a":{"path":["x","y"],"size":3,"sha256":"00"}}`},
			{"POST /jobs/j/builds/2/artifacts", "abc", func() (any, error) { return c.PutArtifact(ctx, "j", 2, strings.NewReader("abc"), 3) }, `{"artifact_id":"a","size":3,"sha256":"00"}`},
			{"POST /jobs/j/builds/2/artifacts", "abc", func() (any, error) { return c.PutArtifact(ctx, "j", 2, strings.NewReader("abc"), -1) }, `{"artifact_id":"a","size":3,"sha256":"00"}`},
			{"GET /jobs/j/builds/2/artifacts/a", "", func() (any, error) {
				r, err := c.GetArtifact(ctx, "j", 2, "a", 1) // this server knows no ranges
				if err != nil {
					return nil, err
				}
				defer r.Close()
				b, err := io.ReadAll(r)
				return string(b), err
			}, `"bc"`},
			{"GET /tasks", "", func() (any, error) { return c.Tasks(ctx) }, `["` + id + `"]`},
			{"GET /tasks/" + id, "", func() (any, error) { return c.Task(ctx, id) }, `{"id":"` + id + `","status":"pending","x":1}`},
			{"POST /tasks", `{"type":"x"}`, func() (any, error) { return c.PostTask(ctx, &ticket.Ticket{Type: "x"}) }, `{"id":"` + id + `"}`},
			{"PUT /tasks/" + id, `{"id":"` + id + `"}`, func() (any, error) { return c.PutTask(ctx, &ticket.Ticket{ID: id}) }, `{"assignee":"me","id":"` + id + `"}`},
			{"DELETE /tasks/" + id, "", func() (any, error) { return nil, c.DeleteTask(ctx, id) }, `null`},
			{"POST /tasks/" + id + "/lease", "", func() (any, error) { return nil, c.Lease(ctx, id) }, `null`},
		} {
			out.Reset()
			v, err := tt.do()
			if err != nil {
				t.Errorf("%s: %v", tt.line, err)
				continue
			}
			if s := *got.Load(); s != (sent{tt.line, tt.body}) {
				t.Errorf("sent %q, want %q with %q", s, tt.line, tt.body)
			}
			if b, _ := json.Marshal(v); string(b) != tt.want {
				t.Errorf("%s: got %s, want %s", tt.line, b, tt.want)
			}
		}
	})
}

func TestNotAnIdentifier(t *testing.T) {
	c := Over(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("was asked") }))
	for _, id := range []string{"", ".", ".."} {
		if err := c.DeleteJob(context.Background(), id); fault.Of(err) != fault.BadTicket {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		status     int
		typ, body  string
		kind       fault.Kind
		want, deny string
	}{
		{404, "text/plain", "no such job\nmore\n", fault.Unavailable, "client: GET /jobs/j: no such job (404 Not Found)", "more"},
		{404, "application/problem+json", `{"title": "Not Found", "detail": "no such job"}`, fault.Unavailable, "no such job (404", "title"},
		{401, "", "", fault.Denied, "401 Unauthorized", ""},
		{403, "", "reader only", fault.Denied, "reader only", ""},
		{400, "", "not JSON", fault.BadTicket, "not JSON", ""},
		{409, "", "taken", fault.BadTicket, "taken", ""},
		{413, "", "too large", fault.BadTicket, "too large", ""},
		{500, "", "\x1b[31mred", fault.Temporary, "[31mred (500", "\x1b"},
		{507, "", strings.Repeat("é", 1000), fault.Temporary, strings.Repeat("é", 500) + "…", strings.Repeat("é", 501)},
		{200, "", "<html>", fault.Config, "did not answer as a DistCI server does", ""},
	} {
		c := Over(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", tt.typ)
			w.WriteHeader(tt.status)
			io.WriteString(w, tt.body)
		}))
		_, err := c.Job(context.Background(), "j")
		if fault.Of(err) != tt.kind || !strings.Contains(err.Error(), tt.want) || tt.deny != "" && strings.Contains(err.Error(), tt.deny) {
			t.Errorf("%d: %s: %v", tt.status, fault.Of(err), err)
		}
		if tt.status >= 400 && Status(err) != tt.status {
			t.Errorf("%d: status %d", tt.status, Status(err))
		}
		c.Close()
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	transports(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://elsewhere.example.org/", http.StatusMovedPermanently)
	}), func(t *testing.T, c *Client) {
		err := c.PutJob(context.Background(), "j", []byte("{}"))
		if fault.Of(err) != fault.Config || !strings.Contains(err.Error(), "https://elsewhere.example.org/") {
			t.Error(err)
		}
	})
}

// TestRepeats checks which requests are sent again, and how long is waited.
func TestRepeats(t *testing.T) {
	ctx := context.Background()
	job := func(c *Client) error { _, err := c.Job(ctx, "j"); return err }
	plain := func(c *Client) error { _, err := c.Trigger(ctx, "j"); return err }
	for _, tt := range []struct {
		name     string
		status   []int // 0: the connection breaks; then 200
		after    string
		do       func(*Client) error
		requests int
		kind     fault.Kind
		min, max time.Duration
	}{
		{"get", []int{503, 0, 502}, "", job, 4, fault.None, 1400 * time.Millisecond, 2100 * time.Millisecond},
		{"get, no end", []int{503, 503, 503, 503, 503}, "", job, 4, fault.Temporary, 1400 * time.Millisecond, 2100 * time.Millisecond},
		{"get, our defect", []int{500}, "", job, 1, fault.Temporary, 0, 0},
		{"get, wrong", []int{400}, "", job, 1, fault.BadTicket, 0, 0},
		{"retry after", []int{429}, "7", job, 2, fault.None, 7 * time.Second, 7 * time.Second},
		{"retry much after", []int{503}, "3600", job, 1, fault.Temporary, 0, 0},
		{"post", []int{503}, "", plain, 1, fault.Temporary, 0, 0},
		{"post, broken", []int{0}, "", plain, 1, fault.Temporary, 0, 0},
		{"cancel", []int{0}, "", func(c *Client) error { return c.Cancel(ctx, "j", 1) }, 2, fault.None, 200 * time.Millisecond, 300 * time.Millisecond},
		{"delete, done before", []int{0, 404}, "", func(c *Client) error { return c.DeleteJob(ctx, "j") }, 2, fault.None, 200 * time.Millisecond, 300 * time.Millisecond},
		{"delete, not there", []int{404}, "", func(c *Client) error { return c.DeleteJob(ctx, "j") }, 1, fault.Unavailable, 0, 0},
		{"upload", []int{503}, "", func(c *Client) error {
			_, err := c.PutArtifact(ctx, "j", 1, strings.NewReader("x"), 1)
			return err
		}, 1, fault.Temporary, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := 0
				c := Over(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					n++
					if n > len(tt.status) {
						io.WriteString(w, `{"config": {}, "build_number": 1}`)
						return
					}
					if tt.status[n-1] == 0 {
						panic(http.ErrAbortHandler)
					}
					w.Header().Set("Retry-After", tt.after)
					w.WriteHeader(tt.status[n-1])
				}))
				begin := time.Now()
				err := tt.do(c)
				c.Close()
				if d := time.Since(begin); d < tt.min || d > tt.max {
					t.Errorf("took %v", d)
				}
				if n != tt.requests || fault.Of(err) != tt.kind {
					t.Errorf("%d requests, %v", n, err)
				}
			})
		})
	}
}

// TestHangsUp: what a server answers is read also if it hangs up before it has
// taken all that it is sent.
func TestHangsUp(t *testing.T) {
	const answer = "HTTP/1.1 507 Insufficient Storage\r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfull\n"
	serve := func(l net.Listener) {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 2000))
			io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n")
			c.Read(make([]byte, 2000))
			io.WriteString(c, answer)
			c.Close()
		}
	}
	for _, network := range []string{"tcp", "unix"} {
		address := "127.0.0.1:0"
		if network == "unix" {
			address = filepath.Join(t.TempDir(), "s")
		}
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go serve(l)
		url := "http://" + l.Addr().String()
		if network == "unix" {
			url = "unix:" + address
		}
		c, err := New(url, Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for range 50 {
			_, err := c.PutArtifact(t.Context(), "j", 1, bytes.NewReader(make([]byte, 8<<20)), 8<<20)
			if Status(err) != http.StatusInsufficientStorage {
				t.Errorf("%s: %v, want the server's answer", network, err)
			}
		}
	}
}

// TestNoServer: a POST that found nobody is repeated.
func TestNoServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		c := Over(nil)
		c.http.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
			n++
			return nil, &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		})
		_, err := c.PostTask(context.Background(), &ticket.Ticket{})
		if n != tries || fault.Of(err) != fault.Temporary {
			t.Error(n, err)
		}
	})
	c, err := New("unix:"+filepath.Join(t.TempDir(), "absent"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Lease(context.Background(), "x"); fault.Of(err) != fault.Temporary || strings.Count(err.Error(), "lease") != 1 {
		t.Error(err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("abc\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer abc" || r.UserAgent() != "me" || r.URL.Path != "/ci/tasks" {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		io.WriteString(w, `{"tasks": []}`)
	}))
	defer srv.Close()
	c, err := New(srv.URL+"/ci", Options{TokenFile: file, Name: "me"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if ids, err := c.Tasks(context.Background()); err != nil || !slices.Equal(ids, []string{}) {
		t.Error(ids, err)
	}
}

func TestCertificateIsNoMatterOfTime(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.Config.ErrorLog = quiet()
	srv.StartTLS()
	defer srv.Close()
	c, err := New(srv.URL, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Tasks(context.Background()); fault.Of(err) != fault.Config {
		t.Error(err)
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	transports(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	}), func(t *testing.T, c *Client) {
		ctx, cancel = context.WithCancel(context.Background())
		if _, err := c.Job(ctx, "j"); fault.Of(err) != fault.Interrupted {
			t.Error(err)
		}
	})
}
