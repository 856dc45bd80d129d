package browser

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/distci/distci/lib/ticket"
	oidctest "github.com/distci/distci/test/oidc"
)

// post is what a page of ours would do if it had the button, without its
// reader's role; the answer's status.
func (b *tab) post(path string) int {
	b.Helper()
	return eval[int](b, `fetch(`+quote(path)+`, {method: "POST", redirect: "manual"}).then((r) => r.status)`)
}

// TestRefused: who may only read has no buttons, and what they would do is
// refused.
func TestRefused(t *testing.T) {
	l := newLab(t, 1)
	wait, open := l.gate("gate")
	defer open()
	l.job("secret", nil, shell("wait", "echo waiting; "+wait))
	l.trigger("secret", "")
	l.frontend("--anonymous", "read")
	b := newTab(t, l.url)
	b.allow("status of 40") // what is refused
	b.open("/ui/jobs/secret")
	b.text("Configuration")
	b.lacks("form[method=post]")
	b.open("/ui/jobs/secret/builds/1")
	b.text("waiting")
	b.lacks("form[method=post]")
	b.picture("reader")
	for _, path := range []string{"/ui/jobs/secret/builds", "/ui/jobs/secret/builds/1/cancel", "/ui/jobs/secret/builds/1/retry"} {
		if code := b.post(path); code != 401 && code != 403 {
			t.Errorf("POST %s: status %d", path, code)
		}
	}
	// With a form, as a person would see it.
	eval[int](b, `(() => { const f = document.createElement("form"); f.method = "post"; f.action = "/ui/jobs/secret/builds/1/cancel"; document.body.append(f); f.submit(); return 0; })()`)
	b.text("this needs the role trigger")
	b.picture("refused")
	if code, _ := l.try("GET", "/jobs/secret/builds/2", ""); code != 404 {
		t.Errorf("a second build: status %d", code)
	}
	if s := l.state("secret", 1); s.Canceled != "" {
		t.Errorf("canceled by %s", s.Canceled)
	}
}

// TestSignIn: somebody comes, signs in at the provider, does what his role lets
// him do to the jobs that are his, and goes.
func TestSignIn(t *testing.T) {
	p := oidctest.Start(t)
	l := newLab(t, 1)
	for _, id := range []string{"web", "web-shop", "kernel"} {
		l.job(id, nil, shell("all", "echo done"))
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	l.frontend(append(p.Args(t), "--listen", address, "--url", "http://"+address)...)
	b := newTab(t, l.url)
	b.allow("status of 40") // what is refused, and the provider's icon
	b.allow("fonts.googleapis.com")
	b.allow(p.Issuer) // the provider's pages are not ours
	b.allow("Content Security Policy directive: \"style-src")
	b.open("/ui/jobs/web")
	b.wait("the provider", `location.origin === `+quote(strings.TrimSuffix(p.Issuer, "/"))+` && document.querySelector("[name=login]") !== null`)
	b.do(chromedp.SendKeys(chromedp.CSS("[name=login]"), oidctest.Tess), chromedp.SendKeys(chromedp.CSS("[name=password]"), "any"))
	b.click("[type=submit]")
	b.wait("what comes then", `location.pathname === "/ui/jobs/web" || [...document.querySelectorAll("button")].some((e) => e.textContent.includes("Continue"))`)
	if b.path() != "/ui/jobs/web" {
		b.click("[type=submit]")
		b.wait("the page that was asked for", `location.pathname === "/ui/jobs/web"`)
	}
	b.text("tess")
	b.text("Sign out")
	b.picture("signed-in")
	b.click(".title button")
	b.wait("the page of the build", `location.pathname === "/ui/jobs/web/builds/1"`)
	b.text("Succeeded")
	b.text("by tess")
	b.open("/ui/")
	b.text("web-shop")
	if eval[bool](b, `document.body.innerText.includes("kernel")`) {
		t.Error("a job is shown that is none of his")
	}
	b.open("/ui/jobs/kernel")
	b.text("no such job")
	b.open("/ui/")
	if code := b.post("/ui/jobs/kernel/builds"); code != 403 && code != 404 {
		t.Errorf("a build of a job that is none of his: status %d", code)
	}
	b.open("/ui/")
	b.text("web-shop")
	b.click(`form[action="/ui/sign-out"] button`)
	b.text("Signed out")
	if code, _ := l.try("POST", "/ui/jobs/web/builds", ""); code != 401 {
		t.Errorf("a build by nobody: status %d", code)
	}
}

// TestOtherSite: a page of somebody else makes its reader's browser send our
// forms. They come, and nothing happens.
func TestOtherSite(t *testing.T) {
	l := newLab(t, 1)
	l.job("target", nil, shell("all", "true"))
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><title>kittens</title><form method="post" action="%s/ui/jobs/target/builds"><button>kittens</button></form><iframe src="%s/ui/"></iframe>`, l.url, l.url)
	}))
	defer evil.Close()
	b := newTab(t, l.url)
	b.allow("status of 403")
	b.allow("frame-ancestors") // they may not show our pages in theirs
	b.allow("favicon")
	b.open(strings.Replace(evil.URL, "127.0.0.1", "localhost", 1))
	b.click("button")
	b.text("a page of another site may not do this")
	if code, _ := l.try("GET", "/jobs/target/builds/1", ""); code != 404 {
		t.Errorf("a build was begun: status %d", code)
	}
}

// TestArtifactIsNotRun: a page that a build has published is saved by whoever
// opens it, and does nothing in our name.
func TestArtifactIsNotRun(t *testing.T) {
	l := newLab(t, 1)
	l.job("pages", nil, shell("make", `echo '<!doctype html><title>run</title><script>fetch("/jobs/pages/builds", {method: "POST"})</script>' >index.html`),
		task{"name": "publish", "type": "publish-artifacts", "params": map[string]any{"artifacts": []string{"*.html"}}})
	l.finish("pages", l.trigger("pages", ""))
	b := newTab(t, l.url)
	b.allow("Download is disallowed") // which is what we want to hear
	b.allow("Not allowed to download")
	b.open("/ui/jobs/pages/builds/1")
	b.text("index.html")
	address := eval[string](b, `document.querySelector(".files a").href`)
	// A download is no navigation: the browser stays where it is.
	if err := chromedp.Do(b.ctx, chromedp.Navigate(address)); err == nil {
		t.Error("the browser has gone to the artefact")
	}
	if got := eval[string](b, "document.title"); got == "run" {
		t.Error("the artefact is shown")
	}
	// Nor in a frame.
	b.open("/ui/jobs/pages/builds/1")
	code, _ := l.try("GET", "/jobs/pages/builds/2", "")
	if code != 404 {
		t.Errorf("the artefact has begun a build: status %d", code)
	}
	if s := l.finish("pages", 1); s.Result != ticket.Success {
		t.Error(s.Result)
	}
}
