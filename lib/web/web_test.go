package web_test

import (
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/web"
)

// lab is a cluster in a folder with a frontend that believes what a request
// says of its sender.
type lab struct {
	*testing.T
	repo *repo.Repo
	url  string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	cl, err := cluster.Open(t.Context(), cluster.Options{Coord: "local:" + filepath.Join(dir, "coord.db"), Store: "dir:" + filepath.Join(dir, "store"), Session: time.Minute, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	who := access.Func(func(r *http.Request) (access.Principal, bool, error) {
		role, jobs, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		p := access.Principal{Name: role, Role: access.Role(role), Via: access.ViaToken}
		if role == "" {
			p = access.Local()
		}
		if jobs != "" {
			p.Jobs = strings.Fields(jobs)
		}
		return p, true, nil
	})
	srv := httptest.NewServer(api.New(cl.Repo, api.Options{Access: who, Pages: web.New(cl.Repo, web.Options{})}))
	t.Cleanup(srv.Close)
	return &lab{t, cl.Repo, srv.URL}
}

// ask sends a request; header is a list of names and values.
func (l *lab) ask(method, path string, header ...string) (*http.Response, string) {
	l.Helper()
	req, err := http.NewRequest(method, l.url+path, nil)
	if err != nil {
		l.Fatal(err)
	}
	req.Header.Set("Accept-Encoding", "identity")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		l.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		l.Fatal(err)
	}
	return resp, string(b)
}

func (l *lab) page(path string, header ...string) string {
	l.Helper()
	resp, body := l.ask("GET", path, header...)
	if resp.StatusCode != 200 {
		l.Fatalf("GET %s: status %d: %.300s", path, resp.StatusCode, body)
	}
	return body
}

// job makes a job with finished builds.
func (l *lab) job(id string, builds int) {
	l.Helper()
	if err := l.repo.PutJob(l.Context(), id, fmt.Appendf(nil, `{"job_id":%q,"tasks":[{"type":"execute-shell","params":{"script":":"}}]}`, id)); err != nil {
		l.Fatal(err)
	}
	for range builds {
		b, err := l.repo.Trigger(l.Context(), id, &build.Cause{Kind: "request"})
		if err != nil {
			l.Fatal(err)
		}
		ended := time.Now().UTC()
		b.State.Status, b.State.Result, b.State.Ended = build.Complete, ticket.Success, &ended
		if err := l.repo.PutState(l.Context(), id, b.Number, &b.State); err != nil {
			l.Fatal(err)
		}
	}
}

var (
	inline = regexp.MustCompile(`(?i)<style|<script(?:[^>]* src=)?[^>]*>[^<]|\son[a-z]+=|\sstyle=|javascript:`)
	asset  = regexp.MustCompile(`/ui/assets/[a-z]+\.[0-9a-f]{12}\.(css|js|svg)`)
)

// TestPolicy: every page forbids what is not ours and has nothing else in it;
// what it refers to is there, and may be kept.
func TestPolicy(t *testing.T) {
	l := newLab(t)
	l.job("one", 3)
	assets := map[string]bool{}
	for _, path := range []string{"/ui", "/ui/", "/ui/?q=one", "/ui/?state=running", "/ui/?state=failing", "/ui/jobs/one", "/ui/jobs/one/builds/2", "/ui/queue", "/ui/workers", "/ui/jobs/none", "/ui/nothing", "/ui/jobs/one/builds/x"} {
		resp, body := l.ask("GET", path)
		h := resp.Header
		if got := h.Get("Content-Security-Policy"); !strings.HasPrefix(got, "default-src 'none'; script-src 'self'; style-src 'self';") ||
			strings.Contains(got, "unsafe") || !strings.Contains(got, "frame-ancestors 'none'; base-uri 'none'") {
			t.Errorf("%s: policy %s", path, got)
		}
		if h.Get("X-Content-Type-Options") != "nosniff" || !strings.HasPrefix(h.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %v", path, h)
		}
		if found := inline.FindString(body); found != "" {
			t.Errorf("%s: there is %q in the page", path, found)
		}
		for _, a := range asset.FindAllString(body, -1) {
			assets[a] = true
		}
		tag := h.Get("Etag")
		if again, _ := l.ask("GET", path, "If-None-Match", tag); resp.StatusCode == 200 && again.StatusCode != 304 {
			t.Errorf("%s: the same page again: status %d", path, again.StatusCode)
		}
	}
	if len(assets) < 4 {
		t.Errorf("the pages have %d assets", len(assets))
	}
	for a := range assets {
		resp, _ := l.ask("GET", a)
		if resp.StatusCode != 200 || !strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: status %d, %v", a, resp.StatusCode, resp.Header)
		}
	}
	if resp, _ := l.ask("GET", "/ui/assets/page.000000000000.js"); resp.StatusCode != 404 {
		t.Errorf("another asset: status %d", resp.StatusCode)
	}
}

// TestAges: that something waits longer is no news of the server's, as the page
// counts the time itself.
func TestAges(t *testing.T) {
	l := newLab(t)
	l.job("one", 1) // and nobody who works on it
	resp, body := l.ask("GET", "/ui/queue")
	if !strings.Contains(body, `data-since="20`) {
		t.Errorf("not since when the ticket waits:\n%s", body)
	}
	time.Sleep(1100 * time.Millisecond)
	if again, _ := l.ask("GET", "/ui/queue", "If-None-Match", resp.Header.Get("Etag")); again.StatusCode != 304 {
		t.Errorf("the same page, a second later: status %d", again.StatusCode)
	}
}

func TestCompressed(t *testing.T) {
	l := newLab(t)
	l.job("one", 1)
	plain := l.page("/ui/")
	resp, body := l.ask("GET", "/ui/", "Accept-Encoding", "br;q=1, gzip")
	z, err := gzip.NewReader(strings.NewReader(body))
	if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
		t.Fatal(err, resp.Header)
	}
	if b, err := io.ReadAll(z); err != nil || string(b) != plain || len(body)*2 > len(plain) {
		t.Errorf("%d bytes for %d, %v", len(body), len(plain), err)
	}
	if resp, _ := l.ask("GET", "/ui/", "Accept-Encoding", "gzip;q=0"); resp.Header.Get("Content-Encoding") != "" {
		t.Error("compressed for somebody who does not want it")
	}
}

// TestPatterns: pages are filtered as the interface is, and buttons are there
// for those alone who may use them.
func TestPatterns(t *testing.T) {
	l := newLab(t)
	l.job("web", 1)
	l.job("web-shop", 1)
	l.job("kernel", 1)
	const mine = "trigger web web-*"
	list := l.page("/ui/", "Authorization", mine)
	if !strings.Contains(list, "web-shop") || strings.Contains(list, "kernel") || !strings.Contains(list, "2 jobs") {
		t.Error("the list has other jobs than it should")
	}
	for _, path := range []string{"/ui/jobs/kernel", "/ui/jobs/kernel/builds/1", "/ui/jobs/kernel/builds/1/logs/console"} {
		resp, body := l.ask("GET", path, "Authorization", mine)
		if other, same := l.ask("GET", strings.Replace(path, "kernel", "no-such", 1), "Authorization", mine); resp.StatusCode != 404 || other.StatusCode != 404 ||
			strings.ReplaceAll(body, "kernel", "no-such") != same {
			t.Errorf("%s: status %d; what is not there: %d", path, resp.StatusCode, other.StatusCode)
		}
	}
	post := func(role, path string) int {
		resp, _ := l.ask("POST", path, "Authorization", role)
		return resp.StatusCode
	}
	for _, c := range []struct {
		role, path string
		want       int
	}{
		{mine, "/ui/jobs/web/builds", 303}, {mine, "/ui/jobs/kernel/builds", 403}, {mine, "/ui/jobs/kernel/builds/1/cancel", 403},
		{"read", "/ui/jobs/web/builds", 403}, {"read", "/ui/jobs/web/builds/1/cancel", 403}, {"read", "/ui/jobs/web/builds/1/retry", 403},
		{"worker", "/ui/jobs/web/builds", 403}, {"admin", "/ui/jobs/web/builds/2/cancel", 303},
	} {
		if got := post(c.role, c.path); got != c.want {
			t.Errorf("POST %s as %s: status %d, want %d", c.path, c.role, got, c.want)
		}
	}
	const button = `method="post"`
	for _, path := range []string{"/ui/jobs/web", "/ui/jobs/web/builds/1"} {
		if strings.Contains(l.page(path, "Authorization", "read"), button) || !strings.Contains(l.page(path, "Authorization", mine), button) {
			t.Errorf("%s: the buttons are not for the right ones", path)
		}
	}
}

// TestParameters: only what the job declares can be filled in.
func TestParameters(t *testing.T) {
	l := newLab(t)
	l.job("one", 0)
	resp, err := http.Post(l.url+"/ui/jobs/one/builds", "application/x-www-form-urlencoded", strings.NewReader("p.CI_COMMIT=1"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 400 || !strings.Contains(string(b), "unknown parameter") {
		t.Errorf("status %d: %s", resp.StatusCode, b)
	}
}

// TestSparse: where few builds are left the pages have those, and no more
// look-ups than that takes.
func TestSparse(t *testing.T) {
	l := newLab(t)
	l.job("one", 4)
	if err := l.repo.RaiseNumber(t.Context(), "one", 5000); err != nil {
		t.Fatal(err)
	}
	l.job("one", 2)
	body := l.page("/ui/jobs/one")
	for _, n := range []string{"5002", "5001", "4", "1"} {
		if !strings.Contains(body, `builds/`+n+`">#`+n+`<`) {
			t.Errorf("build %s is not in the list", n)
		}
	}
	if body := l.page("/ui/jobs/one?before=3"); strings.Contains(body, ">#4<") || !strings.Contains(body, ">#2<") {
		t.Error("the page before build 3 is another one")
	}
}

// TestFollow: lines come as they are written, an unfinished one more than once,
// and whoever comes again goes on where he was.
func TestFollow(t *testing.T) {
	l := newLab(t)
	if err := l.repo.PutJob(t.Context(), "one", []byte(`{"job_id":"one","tasks":[]}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.repo.Trigger(t.Context(), "one", nil); err != nil {
		t.Fatal(err)
	}
	write := func(s string) {
		t.Helper()
		if err := l.repo.AppendConsole(t.Context(), "one", 1, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	write("one <1>\ntwo\n\x1b[31mthr")
	const path = "/ui/jobs/one/builds/1/logs/console?follow=1"
	ctx, cancel := context.WithCancel(t.Context())
	events, body := l.events(ctx, path, "")
	want := func(id string, parts ...string) {
		t.Helper()
		e := next(t, events)
		for _, p := range append(parts, "event: lines\n", "id: "+id+"\n") {
			if !strings.Contains(e, p) {
				t.Errorf("there is no %q in %q", p, e)
			}
		}
	}
	want("3", `id="console:1"`, "one &lt;1&gt;", `id="console:3"`, `<span class="f1">thr</span>`)
	write("ee\nfour\n")
	want("5", `id="console:3"`, `<span class="f1">three</span>`, `id="console:4"`, `<span class="f1">four</span>`)
	cancel()
	body.Close()
	events, body = l.events(t.Context(), path, "4")
	defer body.Close()
	want("5", `id="console:4"`, "four")
	if err := l.repo.PutState(t.Context(), "one", 1, &build.State{Status: build.Complete, Result: ticket.Success}); err != nil {
		t.Fatal(err)
	}
	if e := next(t, events); !strings.Contains(e, "event: end\n") {
		t.Errorf("the last event is %q", e)
	}
}

func (l *lab) events(ctx context.Context, path, last string) (*bufio.Reader, io.Closer) {
	l.Helper()
	req, err := http.NewRequestWithContext(ctx, "GET", l.url+path, nil)
	if err != nil {
		l.Fatal(err)
	}
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		l.Fatalf("status %d, %v", resp.StatusCode, resp.Header)
	}
	return bufio.NewReader(resp.Body), resp.Body
}

// next returns the next event that says something.
func next(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	for {
		event := ""
		for {
			line, err := r.ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) || err != nil && event == "" {
				t.Fatalf("the events have ended: %v", err)
			}
			if line == "\n" || err != nil {
				break
			}
			event += line
		}
		if strings.Contains(event, "event:") {
			return event
		}
	}
}
