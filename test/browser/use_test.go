package browser

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
)

// TestTriggerAndWatch: a build is begun with parameters, and what its step
// prints is seen while it runs, then what follows, then the end, all on one page
// that is never loaded again.
func TestTriggerAndWatch(t *testing.T) {
	l := newLab(t, 1)
	wait, open := l.gate("gate")
	l.job("greet", map[string]any{"parameters": map[string]string{"WHO": "world", "TEXT": "a\nb"}},
		shell("greet", `echo "hello, $WHO"; echo "$TEXT" | wc -l; `+wait+`; echo "good bye, $WHO"`), shell("after", "echo the second step"))
	b := newTab(t, l.url)
	b.open("/ui/")
	b.text("greet")
	b.click(`a[href="/ui/jobs/greet"]`)
	b.wait("the form", `document.querySelector("#p1") !== null && document.title.startsWith("greet")`)
	b.do(chromedp.SetValue(chromedp.CSS("#p1"), "Ada & <b>Grace</b>"))
	b.click(".run button")
	b.wait("the page of the build", `location.pathname === "/ui/jobs/greet/builds/1"`)
	b.wait("the first line, live", `document.querySelector(".lines")?.innerText.includes("hello, Ada & <b>Grace</b>") ?? false`)
	eval[int](b, "window.same = 1")
	if s := l.state("greet", 1); s.Status != build.Running || s.Tasks["0"].Status != ticket.Running {
		t.Fatalf("the line was seen when the step was %s", s.Tasks["0"].Status)
	}
	b.lacks("#retry")
	if strings.Contains(eval[string](b, `document.querySelector(".lines").innerText`), "good bye") {
		t.Fatal("the end was there before it was printed")
	}
	b.picture("watching")
	open()
	b.wait("the next line, live", `document.querySelector(".lines").innerText.includes("good bye, Ada")`)
	b.wait("the end, announced", `document.querySelector("#status").textContent.includes("greet #1: Succeeded")`)
	b.wait("the button", `document.querySelector("#retry") !== null`)
	b.lacks("#cancel")
	if eval[int](b, "window.same ?? 0") != 1 {
		t.Error("the page was loaded anew")
	}
	if s := l.state("greet", 1); s.Parameters["WHO"] != "Ada & <b>Grace</b>" || s.Parameters["TEXT"] != "a\nb" {
		t.Errorf("the parameters have become %q", s.Parameters)
	}
	if s := l.state("greet", 1); s.Tasks["0"].Extra["worker"] == nil {
		t.Error("the step does not tell its worker")
	}
	// Going back does not begin another one.
	eval[int](b, "location.reload(), 0")
	b.text("Succeeded")
	if code, _ := l.try("GET", "/jobs/greet/builds/2", ""); code != 404 {
		t.Errorf("a reload has begun a build: status %d", code)
	}
}

// TestCancelAndRetry: both with the mouse, and what comes of it.
func TestCancelAndRetry(t *testing.T) {
	l := newLab(t, 1)
	wait, open := l.gate("gate")
	l.job("slow", nil, shell("first", "echo one"), shell("wait", "echo waiting; "+wait))
	l.trigger("slow", "")
	b := newTab(t, l.url)
	b.open("/ui/jobs/slow/builds/1")
	b.wait("the log", `document.querySelector(".lines")?.innerText.includes("waiting") ?? false`)
	b.click("#cancel")
	b.wait("the end", `document.querySelector("#facts")?.dataset.state === "Canceled"`)
	s := l.finish("slow", 1)
	if s.Result != ticket.Canceled || s.Canceled == "" {
		t.Errorf("result %q, canceled by %q", s.Result, s.Canceled)
	}
	open()
	b.click("#retry")
	b.wait("the page of the retry", `location.pathname === "/ui/jobs/slow/builds/2"`)
	b.wait("the end", `document.querySelector("#facts")?.dataset.state === "Succeeded"`)
	if s := l.finish("slow", 2); s.Result != ticket.Success || s.Cause.Kind != "retry" {
		t.Errorf("result %q, cause %+v", s.Result, s.Cause)
	}
	b.text("Retry of slow #1")
}

// TestFindALine: in 200,000 lines one is found, linked to, and shown again by
// its link, and the page holds few of them at any time.
func TestFindALine(t *testing.T) {
	l := newLab(t, 1)
	l.job("long", nil, shell("count", "seq -f 'line %.0f of many' 1 200000"))
	l.finish("long", l.trigger("long", ""))
	b := newTab(t, l.url)
	few := func(when string) {
		t.Helper()
		if n := eval[int](b, `document.querySelectorAll(".lines li").length`); n == 0 || n > 3000 {
			t.Errorf("%s: %d lines in the page", when, n)
		}
	}
	b.open("/ui/jobs/long/builds/1")
	b.text("line 5 of many")
	few("at the beginning")
	b.do(chromedp.SendKeys(chromedp.CSS("#find"), "LINE 123456 of\r"))
	b.wait("the place", `document.querySelector("#found").textContent === "1 of 1"`)
	const inSight = `(() => { const e = document.querySelector(".lines .chosen"); if (!e) return false; const r = e.getBoundingClientRect(); return r.top > 100 && r.bottom < innerHeight && e.innerText.includes("line 123456 of many"); })()`
	b.wait("the line, in sight", inSight)
	few("in the middle")
	b.picture("found-line")
	hash := eval[string](b, "location.hash")
	if hash != "#0:123457" { // the first line is the worker's
		t.Errorf("the link is %s", hash)
	}
	if n := eval[int](b, `CSS.highlights.get("found")?.size ?? 0`); n != 1 {
		t.Errorf("%d places are marked", n)
	}
	b.open("about:blank")
	b.open("/ui/jobs/long/builds/1" + hash)
	b.wait("the line, by its link", inSight)
	// A range, as somebody makes it who clicks twice.
	eval[int](b, `document.getElementById("0:123460").querySelector("a").dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true, shiftKey: true})), 0`)
	if got := eval[string](b, "location.hash"); got != "#0:123457-123460" {
		t.Errorf("the range is %s", got)
	}
	if n := eval[int](b, `document.querySelectorAll(".lines .chosen").length`); n != 4 {
		t.Errorf("%d lines are chosen", n)
	}
	// From the beginning to the end, in great steps: what is passed goes again.
	for i := range 20 {
		eval[int](b, fmt.Sprintf("scrollTo(0, document.documentElement.scrollHeight * %d / 20), 0", i))
		b.wait("lines here", `[...document.querySelectorAll(".lines li")].some((e) => { const r = e.getBoundingClientRect(); return r.bottom > 0 && r.top < innerHeight; })`)
		few(fmt.Sprintf("at %d %%", i*5))
	}
	b.click(`[data-do="follow"]`)
	b.wait("the end", `(() => { const e = document.getElementById("0:200001"); return e !== null && e.getBoundingClientRect().top < innerHeight; })()`)
}

// TestWithoutScript: everything can be read, found and begun.
func TestWithoutScript(t *testing.T) {
	l := newLab(t, 1)
	l.job("plain", nil, shell("count", "seq -f 'line %.0f of many' 1 2500"))
	b := newTab(t, l.url)
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	b.open("/ui/jobs/plain")
	b.click(".title button")
	b.wait("the page of the build", `location.pathname === "/ui/jobs/plain/builds/1"`)
	l.finish("plain", 1)
	b.open("/ui/jobs/plain/builds/1")
	b.text("line 2500 of many")
	b.text("Succeeded")
	if eval[bool](b, `document.querySelector("#logfind").checkVisibility()`) {
		t.Error("there is a search that does nothing")
	}
	b.open("/ui/jobs/plain/builds/1/logs/0000.01")
	b.text("line 1 of many")
	b.click(`a[rel="next"]`)
	b.text("line 1500 of many")
	b.do(chromedp.SetValue(chromedp.CSS("#find"), "line 2222"))
	b.click(".find button")
	b.text("1 line with")
	b.click(".hits a")
	b.text("line 2222 of many")
	if b.path() != "/ui/jobs/plain/builds/1/logs/0000.01" {
		t.Errorf("the search has led to %s", b.path())
	}
}

// TestKeys: the keys that the page tells of, and that they can be turned off.
func TestKeys(t *testing.T) {
	l := newLab(t, 0)
	b := newTab(t, l.url)
	b.open("/ui/")
	press := func(keys string) {
		b.wait("the page's script", `document.readyState === "complete"`)
		b.do(chromedp.KeyEvent(keys))
	}
	press("gq")
	b.wait("the queue", `location.pathname === "/ui/queue"`)
	b.text("Nothing waits")
	press("gw")
	b.wait("the workers", `location.pathname === "/ui/workers"`)
	b.text("There are no workers")
	press("?")
	b.wait("the list of keys", `document.querySelector("#help").open`)
	b.click("#keys")
	b.click("#help form button")
	press("gj")
	b.open("/ui/workers")
	press("gj")
	if b.path() != "/ui/workers" {
		t.Errorf("keys that are off have led to %s", b.path())
	}
	// The first stop of the tab key is the way past the navigation.
	b.open("/ui/workers")
	press("\t")
	if got := eval[string](b, "document.activeElement.className"); got != "skip" {
		t.Errorf("the first stop is %q", got)
	}
}

// TestQueue: for how long the oldest ticket waits is counted in the page.
func TestQueue(t *testing.T) {
	l := newLab(t, 0)
	l.job("plain", nil, shell("nothing", ":"))
	l.trigger("plain", "{}")
	b := newTab(t, l.url)
	b.open("/ui/queue")
	const age = `document.querySelector("[data-since]").textContent`
	b.wait("for how long it waits", `/^\d+ s$/.test(`+age+`)`)
	before := eval[string](b, age)
	b.wait("the next second", age+" !== "+quote(before))
	b.text("none") // of the workers does it
	b.picture("waiting")
}

// TestFrontPage: a browser is shown the way, the original's clients are not.
func TestFrontPage(t *testing.T) {
	l := newLab(t, 0)
	if code, _ := l.try("GET", "/", ""); code != 204 {
		t.Errorf("GET /: status %d", code)
	}
	b := newTab(t, l.url)
	b.open("/")
	b.text("There are no jobs yet")
	if b.path() != "/ui/" {
		t.Errorf("a browser is at %s", b.path())
	}
}
