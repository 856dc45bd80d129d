package browser

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	testlab "github.com/distci/distci/test/lab"
)

// evil is a text that acts where somebody has forgotten that it is one.
func evil(name string) string {
	return `"'><img src=x onerror="window.pwned='` + name + `'"><script>window.pwned='` + name + `'</script>` + name
}

// TestHostileText: whatever comes from jobs, workers, forges and logs is shown
// as it is, and does nothing.
func TestHostileText(t *testing.T) {
	l := newLab(t, 1)
	worker := evil("worker")
	l.start("distci-claim", "--loop", "--name", worker, "--state", filepath.Join(l.dir, "evil"))
	file := strings.ReplaceAll(evil("file"), "/", "")
	l.job("evil", map[string]any{"description": evil("description"), "parameters": map[string]string{"P": evil("default"), "LONG": "a\n</textarea>" + evil("long")}},
		shell(evil("step"), "cat <<'EOF'\n"+evil("log")+"\n\x1b[31m"+evil("colour")+"\x1b]8;;javascript:window.pwned=1\x07link\x1b]8;;\x07\n\x1b[31\"><script>window.pwned=1</script>m\nEOF\n: >'"+strings.ReplaceAll(file, "'", `'\''`)+"'"),
		task{"name": "publish", "type": "publish-artifacts", "params": map[string]any{"artifacts": []string{"*file"}}})
	l.finish("evil", l.trigger("evil", `{"parameters": {"P": `+quote(evil("value"))+`}}`))

	// What webhooks and workers write, in a record that has all of it.
	l.trigger("evil", "")
	l.finish("evil", 2)
	record, err := json.Marshal(map[string]any{
		"status": "complete", "result": evil("result"), "error": evil("error"), "canceled": evil("canceler"), "ref": evil("ref"),
		"created": "2026-01-02T03:04:05Z", "ended": "2026-01-02T03:05:05Z",
		"cause":      map[string]any{"kind": evil("kind"), "by": evil("person"), "job_id": evil("upstream"), "build_number": 1},
		"parameters": map[string]string{"CI_COMMIT": evil("commit"), "CI_MESSAGE": evil("message"), "CI_AUTHOR": evil("author"), "CI_BRANCH": evil("branch")},
		"tasks": map[string]any{"0": map[string]any{
			"type": evil("type"), "name": evil("name"), "status": "complete", "result": "error", "error": evil("sentence"), "fault": "verdict",
			"worker": evil("doer"), "attempt": 2, "started": "2026-01-02T03:04:05Z", "ended": "2026-01-02T03:05:05Z",
			"previous": map[string]any{"worker": evil("predecessor"), "error": evil("before")},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.ask("PUT", "/jobs/evil/builds/2/state", string(record))

	b := newTab(t, l.url)
	b.allow("status of 40") // pages that are not there
	testlab.Until(t, "the worker is there", func() bool { return strings.Contains(string(l.ask("GET", "/members", "")), `window.pwned`) })
	const first, second = "/ui/jobs/evil/builds/1", "/ui/jobs/evil/builds/2"
	for _, c := range []struct{ name, path, value string }{
		{"job description", "/ui/jobs/evil", evil("description")},
		{"parameter default", "/ui/jobs/evil", ""},
		{"step name", first, evil("step")},
		{"parameter", first, evil("value")},
		{"artefact name", first, file},
		{"log", first, evil("log")},
		{"colours in a log", first, evil("colour") + "link"},
		{"log without script", first + "/logs/0000.01", evil("log")},
		{"text to find", first + "/logs/0000.01?find=" + url.QueryEscape(evil("needle")), "0 lines with “" + evil("needle")},
		{"job to find", "/ui/?q=" + url.QueryEscape(evil("query")), "No job matches"},
		{"worker", "/ui/workers", worker},
		{"build error", second, evil("error")},
		{"who canceled", second, ""},
		{"cause of a build", second, evil("person")},
		{"ref", second, evil("ref")},
		{"commit of a webhook", second, ""},
		{"message of a webhook", second, evil("message")},
		{"author of a webhook", second, evil("author")},
		{"type of a step", second, evil("type")},
		{"step of a record", second, evil("name")},
		{"error of a step", second, evil("sentence")},
		{"worker of a record", second, evil("doer")},
		{"attempt before", second, evil("before")},
		{"path", "/ui/jobs/" + url.PathEscape(evil("path")), ""},
		{"asset", "/ui/assets/" + url.PathEscape(evil("asset")), ""},
		{"log name", first + "/logs/" + url.PathEscape(evil("logname")), ""},
	} {
		b.open(c.path)
		eval[int](b, `(document.querySelectorAll("details").forEach((d) => { d.open = true; }), 0)`)
		if c.value != "" {
			b.wait(c.name+" as text", fmt.Sprintf(`document.querySelector("main").textContent.includes(%s)`, quote(c.value)))
		}
		if got := eval[string](b, `String(window.pwned)`); got != "undefined" {
			t.Errorf("%s: it has run: %s", c.name, got)
		}
		if n := eval[int](b, `[...document.querySelectorAll("script:not([src]), img[onerror], [style]:not(.lines), base, iframe, object, a[href^='javascript:' i]")].length`); n > 0 {
			t.Errorf("%s: %d elements that are none of ours", c.name, n)
		}
	}
	b.open(second)
	b.picture("hostile")
}
