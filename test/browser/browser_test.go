// Package browser tests the pages as people see them: in a browser, against the
// real programs.
package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/distci/distci/test/chromium"
	testlab "github.com/distci/distci/test/lab"
)

// bin is the folder with the programs under test.
var bin string

func TestMain(m *testing.M) { testlab.Main(m, &bin) }

// tab is a tab of a browser of its own. What its console says is a fault of
// the page, and so is what the page's policy has forbidden.
type tab struct {
	*testing.T
	ctx context.Context
	url string // of the frontend

	mu      sync.Mutex
	faults  []string
	allowed []string // parts of what the console may say
}

// newTab opens a browser of somebody who reads in a light or in a dark room.
func newTab(t *testing.T, url string) *tab {
	t.Helper()
	ctx := chromium.Start(t, chromedp.WindowSize(1280, 900), chromedp.Flag("lang", "en-GB"), chromedp.Env("TZ=Europe/Berlin", "LANG=en_GB.UTF-8"))
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute) // for a test that hangs
	t.Cleanup(cancel)
	b := &tab{T: t, ctx: ctx, url: url}
	if err := chromedp.Listen(ctx, b.listen); err != nil {
		t.Fatal(err)
	}
	for _, enable := range []cdp.Command[cdp.Empty, cdp.Empty]{log.Enable, runtime.Enable} {
		if _, err := chromedp.Call(ctx, enable, cdp.Empty{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if b.mu.Lock(); len(b.faults) > 0 {
			t.Errorf("the console says:\n%s", strings.Join(b.faults, "\n"))
		}
		b.mu.Unlock()
		if t.Failed() {
			b.picture("failed-" + strings.ReplaceAll(t.Name(), "/", "-"))
		}
	})
	return b
}

func (b *tab) listen(event any) {
	said := ""
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		said = fmt.Sprint(e.ExceptionDetails.Text)
		if x := e.ExceptionDetails.Exception; x != nil {
			said += " " + x.Description
		}
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning || e.Type == runtime.ConsoleAPICalledTypeAssert {
			for _, a := range e.Args {
				said += string(a.Value) + a.Description + " "
			}
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError || e.Entry.Level == log.EntryLevelWarning || strings.Contains(e.Entry.Text, "Content Security Policy") {
			said = string(e.Entry.Source) + ": " + e.Entry.Text + " " + e.Entry.URL
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if said != "" && !slices.ContainsFunc(b.allowed, func(part string) bool { return strings.Contains(said, part) }) {
		b.faults = append(b.faults, said)
	}
}

// allow lets the console say what has a part in it, which the test provokes.
func (b *tab) allow(part string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.allowed = append(b.allowed, part)
}

func (b *tab) do(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	if err := chromium.Do(b.ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

// open goes to a page, and waits until there is one.
func (b *tab) open(path string) {
	b.Helper()
	if strings.HasPrefix(path, "/") {
		path = b.url + path
	}
	b.do(chromedp.Navigate(path), chromedp.WaitReady(chromedp.CSS("body")))
}

// eval returns what an expression is; a promise is waited for.
func eval[V any](b *tab, expression string) V {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[V](expression, chromedp.EvalAwaitPromise))
	if err != nil {
		b.Fatalf("%.200s: %v", expression, err)
	}
	return v
}

// wait waits until an expression is true.
func (b *tab) wait(what, expression string) {
	b.Helper()
	end := time.Now().Add(time.Minute)
	for {
		// While one page makes place for another there is nothing to ask.
		ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](expression))
		if err == nil && ok {
			return
		}
		if time.Now().After(end) || b.ctx.Err() != nil {
			b.Fatalf("waited in vain for %s (%s), %v\n%s", what, expression, err, eval[string](b, `location.href + "\n" + document.body.innerText.slice(0, 2000)`))
		}
		time.Sleep(25 * time.Millisecond)
	}
}

// text waits until the page shows a text.
func (b *tab) text(s string) {
	b.Helper()
	b.wait(fmt.Sprintf("the text %q", s), `document.body.innerText.includes(`+quote(s)+`)`)
}

// lacks asserts that an element is not there.
func (b *tab) lacks(selector string) {
	b.Helper()
	if eval[bool](b, `document.querySelector(`+quote(selector)+`) !== null`) {
		b.Errorf("%s: there is a %s", eval[string](b, "location.href"), selector)
	}
}

func (b *tab) click(selector string) {
	b.Helper()
	b.do(chromedp.Click(chromedp.CSS(selector), chromedp.NodeVisible))
}

func quote(s string) string {
	q, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(q)
}

// scheme makes the reader's system light or dark.
func (b *tab) scheme(name string) {
	b.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
	if err != nil {
		b.Fatal(err)
	}
}

// width makes the screen as wide as that of a phone, or of a desk.
func (b *tab) width(pixels, height int64) {
	b.Helper()
	var options []chromedp.EmulateViewportOption
	if pixels < 600 {
		options = append(options, chromedp.EmulateMobile)
	}
	b.do(chromedp.EmulateViewport(pixels, height, options...))
}

// picture keeps what the tab shows now in the folder that DISTCI_SCREENSHOTS
// names; without it there are none.
func (b *tab) picture(name string) {
	b.Helper()
	dir := os.Getenv("DISTCI_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	}
	if err != nil {
		b.Logf("picture %s: %v", name, err)
	}
}

// path is where the tab is.
func (b *tab) path() string {
	b.Helper()
	u, err := url.Parse(eval[string](b, "location.href"))
	if err != nil {
		b.Fatal(err)
	}
	return u.Path
}
