package api_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/ticket"
)

func tarball(t testing.TB, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, text)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func untar(t testing.TB, s string) map[string]string {
	t.Helper()
	z, err := gzip.NewReader(strings.NewReader(s))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			files[h.Name] = string(b)
		}
	}
}

func TestArtifacts(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	var a struct {
		ID string `json:"artifact_id"`
	}
	if err := json.Unmarshal([]byte(l.want(201, "POST", "/jobs/j/builds/1/artifacts", "<script>alert(1)</script>").body), &a); err != nil {
		t.Fatal(err)
	}
	path := "/jobs/j/builds/1/artifacts/" + a.ID
	r := l.want(200, "GET", path+"/any%20file%0aname.html", "")
	if r.body != "<script>alert(1)</script>" || r.ContentLength != 25 || r.Header.Get("Content-Type") != "application/octet-stream" ||
		!strings.HasPrefix(r.Header.Get("Content-Disposition"), "attachment; filename") || strings.Contains(r.Header.Get("Content-Disposition"), "\n") {
		t.Errorf("%q, %v", r.body, r.Header)
	}
	if r := l.want(206, "GET", path, "", "Range", "bytes=1-6"); r.body != "script" || r.Header.Get("Content-Range") != "bytes 1-6/25" || r.ContentLength != 6 {
		t.Errorf("%q, %v", r.body, r.Header)
	}
	if r := l.want(206, "GET", path, "", "Range", "bytes=-7"); r.body != "script>" {
		t.Errorf("%q", r.body)
	}
	l.want(416, "GET", path, "", "Range", "bytes=25-")
	l.want(304, "GET", path, "", "If-None-Match", r.Header.Get("Etag"))
	if r := l.want(200, "HEAD", path, ""); r.ContentLength != 25 || r.body != "" {
		t.Errorf("%d, %q", r.ContentLength, r.body)
	}
	if r := l.want(200, "PUT", path, "new"); !strings.Contains(r.body, `"artifact_id":"`+a.ID+`"`) {
		t.Error(r.body)
	}
	if r := l.want(200, "GET", path, "", "If-None-Match", r.Header.Get("Etag")); r.body != "new" {
		t.Errorf("%q", r.body)
	}
	l.want(204, "DELETE", path, "")
	l.want(404, "GET", path, "")
}

// TestBrokenUpload: what does not come whole is not there.
func TestBrokenUpload(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	objects := func() int {
		infos, err := l.repo.Store().List(t.Context(), "builds/", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(infos)
	}
	before := objects()
	body, w := io.Pipe()
	req, err := http.NewRequest("POST", l.url+"/jobs/j/builds/1/artifacts", body)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		io.WriteString(w, "half")
		w.CloseWithError(io.ErrUnexpectedEOF)
	}()
	if resp, err := http.DefaultClient.Do(req); err == nil {
		resp.Body.Close()
		t.Errorf("status %d", resp.StatusCode)
	}
	for !strings.Contains(l.log.String(), "method=POST path=/jobs/j/builds/1/artifacts") { // until it has ended
		time.Sleep(time.Millisecond)
	}
	if n := objects(); n != before {
		t.Errorf("%d objects, %d before", n, before)
	}
}

// TestFollow: what is appended is seen at once, and the reply ends with the
// build.
func TestFollow(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	l.control()
	held := l.claim(l.pending(), "w")
	resp, err := http.Get(l.url + "/jobs/j/builds/1/console?follow=1") // returns before there is a byte
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.ContentLength != -1 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("%+v", resp)
	}
	lines := bufio.NewReader(resp.Body)
	for _, want := range []string{"one\n", "two\n"} {
		l.want(204, "POST", "/jobs/j/builds/1/console", want)
		if got, err := lines.ReadString('\n'); got != want || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	l.complete(200, held, ticket.Success)
	l.control()
	if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestFollowEndsWithTheServer: a follower does not keep a server from ending.
func TestFollowEndsWithTheServer(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	resp, err := http.Get(l.url + "/jobs/j/builds/1/console?follow=1")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	close(l.done)
	if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestScoped: a step reads what it likes and writes to its own build only.
func TestScoped(t *testing.T) {
	h := api.Scoped(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(200) }), "j", 7)
	for _, c := range []struct {
		request string
		ok      bool
	}{
		{"GET /jobs", true},
		{"GET /jobs/other/builds/1/artifacts/" + nobody, true},
		{"HEAD /jobs/j", true},
		{"POST /jobs/j/builds/7/artifacts", true},
		{"POST /jobs/j/builds/0007/artifacts", true},
		{"PUT /jobs/j/builds/7/artifacts/" + nobody, true},
		{"POST /jobs/j/builds/7/console", true},
		{"GET /tasks", false},
		{"GET /", false},
		{"GET /jobsx", false},
		{"PUT /jobs/j", false},
		{"POST /jobs/j/builds", false},
		{"POST /jobs/j/builds/8/artifacts", false},
		{"POST /jobs/jj/builds/7/artifacts", false},
		{"POST /jobs/j/builds/7/cancel", false},
		{"PUT /jobs/j/builds/7/state", false},
		{"PUT /jobs/j/builds/7/workspace", false},
		{"DELETE /jobs/j/builds/7/artifacts/" + nobody, false},
		{"DELETE /jobs/j/builds/7", false},
		{"POST /jobs/j/builds/7%2fartifacts", false},
		{"POST /jobs/other/../j/builds/7/artifacts", false},
		{"POST /jobs/j/builds/7/artifacts/../../8/artifacts", true}, // no such path, whatever comes of it
		{"POST /tasks", false},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		asked := httptest.NewRecorder()
		h.ServeHTTP(asked, httptest.NewRequest(method, path, nil))
		if (asked.Code == 200) != c.ok {
			t.Errorf("%s: %d", c.request, asked.Code)
		}
	}
	l := newLab(t)
	l.job("j", 1)
	l.want(400, "POST", "/jobs/j/builds/7/artifacts/../../8/artifacts", "x")
}
