package api_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/distci/distci/lib/api"
)

// TestScopedTricks: no way of writing a path leads a step out of its build. The
// requests go through the whole interface, as those of a step do.
func TestScopedTricks(t *testing.T) {
	l := newLab(t)
	l.job("j", 1) // the step's own
	l.want(201, "POST", "/jobs/j/builds", "")
	l.job("other", 1)
	victim := l.want(201, "POST", "/jobs/j/builds/2/artifacts", "theirs").body
	_, id, _ := strings.Cut(victim, `"artifact_id":"`)
	id, _, _ = strings.Cut(id, `"`)
	h := api.Scoped(api.New(l.repo, api.Options{}), "j", 1)
	ask := func(method, path, body string) *httptest.ResponseRecorder {
		t.Helper()
		r := httptest.NewRequest(method, "/", strings.NewReader(body))
		u, err := url.ParseRequestURI(path) // as the server does
		if err != nil {
			t.Fatal(err)
		}
		r.URL = u
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	objects := func() string {
		infos, err := l.repo.Store().List(t.Context(), "", "", 0)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(infos)
	}
	before := objects()
	for _, path := range []string{
		"/jobs/j/builds/2/artifacts",
		"/jobs/j/builds/2/artifacts/" + id,
		"/jobs/j/builds/1/artifacts/" + id, // an id of another build
		"/jobs/j/builds/1/../2/artifacts",
		"/jobs/j/builds/1/%2e%2e/2/artifacts",
		"/jobs/j/builds/1%2f..%2f2/artifacts",
		"/jobs/j/builds/1/artifacts/../../2/artifacts",
		"/jobs/j/builds/1/artifacts/..%2f..%2f2%2fartifacts%2f" + id,
		"/jobs/j/builds/1/artifacts/%2e%2e/%2e%2e/2/artifacts/" + id,
		"/jobs/j/builds/1/console/../../2/console",
		"/jobs/j/builds/1/console/../workspace",
		"/jobs/j/builds/1/artifacts/../state",
		"/jobs/other/builds/1/console",
		"/jobs/other%2f..%2fj/builds/1/console",
		"//jobs/j/builds/1/console",
		"/jobs//j/builds/1/console",
		"/jobs/j//builds/1/console",
		"/jobs/j/builds/1//console",
		"/jobs/j/builds/1/console//",
		"/./jobs/j/builds/1/console",
		"/x/../jobs/j/builds/1/console",
		"/jobs/j/builds/1%00/console",
		"/jobs/j/builds/1;/console",
		"/jobs/j/builds/1%20/console",
		"/jobs/j/builds/１/console",
		"/jobs/J/builds/1/console",
		"/jobs/j/builds/1/cancel",
		"/jobs/j/builds/1/state",
		"/jobs/j/builds/1/workspace",
		"/jobs/j/builds",
		"/jobs/j/github-webhook",
		"/jobs/j/tags/t",
		"/jobs/j",
		"/tasks",
		"/tasks/" + id,
		"/tasks/" + id + "/lease",
	} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "post"} {
			if w := ask(method, path, `{"build_number":1}`); w.Code < 400 {
				t.Errorf("%s %s: status %d %s", method, path, w.Code, w.Body)
			}
		}
	}
	for _, path := range []string{"/tasks", "/tasks/" + id, "/", "/healthz", "//tasks", "/jobs/../tasks", "/jobs/%2e%2e/tasks"} {
		if w := ask("GET", path, ""); w.Code < 400 {
			t.Errorf("GET %s: status %d %s", path, w.Code, w.Body)
		}
	}
	if after := objects(); after != before {
		t.Errorf("the store was\n%s\nand is\n%s", before, after)
	}
	if w := ask("POST", "/jobs/j/builds/1/artifacts", "mine"); w.Code != http.StatusCreated {
		t.Errorf("its own: status %d %s", w.Code, w.Body)
	}
	if w := ask("POST", "/jobs/j/builds/1/console", "mine"); w.Code != http.StatusNoContent {
		t.Errorf("its own: status %d %s", w.Code, w.Body)
	}
	if w := ask("GET", "/jobs/j/builds/2/artifacts/"+id, ""); w.Code != http.StatusOK || w.Body.String() != "theirs" {
		t.Errorf("another's: status %d %s", w.Code, w.Body)
	}
}
