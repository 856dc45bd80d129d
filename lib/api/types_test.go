package api_test

import (
	"strings"
	"testing"

	"github.com/distci/distci/lib/ticket"
)

// TestTypes: the original's clients look at the type and at the length of what
// they get.
func TestTypes(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	build := "/jobs/j/builds/1"
	archive := tarball(t, map[string]string{"a": "1"})
	text, doc, octets := "text/plain; charset=utf-8", "application/json", "application/octet-stream"
	_, id, _ := strings.Cut(l.want(201, "POST", build+"/artifacts", "bytes").body, `"artifact_id":"`)
	id, _, _ = strings.Cut(id, `"`)
	for _, c := range []struct {
		method, path, body string
		code               int
		want               string
	}{
		{"GET", "/", "", 204, ""},
		{"GET", "/jobs", "", 200, doc},
		{"GET", "/jobs/j", "", 200, doc},
		{"GET", "/jobs/j/builds", "", 200, doc},
		{"POST", "/jobs/j/builds", "", 201, doc},
		{"POST", "/jobs/j/builds", "\x00 no JSON at all", 201, doc}, // the original took anything
		{"GET", build, "", 200, doc},
		{"GET", build + "/state", "", 200, doc},
		{"POST", build + "/console", "x\xff\n", 204, ""},
		{"GET", build + "/console", "", 200, text},
		{"PUT", build + "/workspace", archive, 204, ""},
		{"GET", build + "/workspace", "", 200, octets},
		{"DELETE", build + "/workspace", "", 204, ""},
		{"GET", build + "/workspace", "", 404, text},
		{"GET", build + "/artifacts/" + id, "", 200, octets},
		{"GET", build + "/artifacts/" + id + "/x.html", "", 200, octets},
		{"PUT", build + "/artifacts/" + id, "other", 200, doc},
		{"DELETE", build + "/artifacts/" + id, "", 204, ""},
		{"GET", build + "/artifacts/" + id, "", 404, text},
		{"GET", "/tasks", "", 200, doc},
		{"POST", "/tasks", "", 201, doc},
		{"GET", "/tasks/" + nobody, "", 404, text},
		{"DELETE", "/tasks/" + nobody, "", 204, ""},
		{"DELETE", build, "", 204, ""},
		{"DELETE", "/jobs/j", "", 204, ""},
	} {
		r := l.do(c.method, c.path, c.body)
		name := c.method + " " + c.path
		if got := r.Header.Get("Content-Type"); r.StatusCode != c.code || got != c.want {
			t.Errorf("%s: status %d, type %q; want %d, %q: %s", name, r.StatusCode, got, c.code, c.want, r.body)
		}
		if c.want == octets && (r.ContentLength != int64(len(r.body)) || len(r.TransferEncoding) > 0) {
			t.Errorf("%s: length %d of %d, %v", name, r.ContentLength, len(r.body), r.TransferEncoding)
		}
		if c.code == 204 && r.body != "" {
			t.Errorf("%s: 204 with %q", name, r.body)
		}
	}
}

// TestCanceledIsCompleted: what a worker that does not look brings to an end
// does not make a canceled build a success.
func TestCanceledIsCompleted(t *testing.T) {
	l := newLab(t)
	l.job("j", 2)
	l.control()
	held := l.claim(l.pending(), "w")
	l.want(202, "POST", "/jobs/j/builds/1/cancel", "")
	l.complete(200, held, ticket.Success)
	l.control()
	s := l.state("j", 1)
	tasks := s["tasks"].(map[string]any)
	if s["status"] != "complete" || s["result"] != "canceled" || tasks["0"].(map[string]any)["result"] != "success" || tasks["1"].(map[string]any)["result"] != "canceled" {
		t.Errorf("%v", s)
	}
	if got := l.want(200, "GET", "/tasks", "").body; got != `{"tasks":[]}` {
		t.Errorf("tickets are left: %s", got)
	}
}

// TestTwoAtOnce: while a worker has a ticket the answer to a second claim of its
// own is the same, as the first reply may have been lost.
func TestTwoAtOnce(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	l.control()
	found := l.pending()
	first := l.claim(found, "w")
	again := l.claim(found, "w")
	if again.Attempt != first.Attempt || again.Assignee != "w" || again.Started == nil || !again.Started.Equal(*first.Started) {
		t.Errorf("%s\n%s", encode(first), encode(again))
	}
	found.Status, found.Assignee = ticket.Running, "x"
	l.want(409, "PUT", "/tasks/"+found.ID, encode(found))
	l.complete(200, again, ticket.Success)
}
