// Package chromium starts a browser for tests and measurements.
package chromium

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/distci/distci/test/need"
)

// programs are the names that it goes by.
var programs = []string{"chromium", "chromium-browser", "google-chrome", "chrome"}

// ErrNone says that there is no browser on this machine.
var ErrNone = errors.New("there is no chromium")

// Open starts a browser of its own with one tab, which is the context's. What
// it has written goes when it is closed.
func Open(options ...chromedp.ExecAllocatorOption) (ctx context.Context, closes func(), err error) {
	path := ""
	for _, name := range programs {
		if path, err = exec.LookPath(name); err == nil {
			break
		}
	}
	if err != nil {
		return nil, nil, ErrNone
	}
	dir, err := os.MkdirTemp("", "distci-browser-") // a short name: it makes a socket in it
	if err != nil {
		return nil, nil, err
	}
	all := slices.Concat(chromedp.DefaultExecAllocatorOptions[:], []chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.Env("TMPDIR=" + dir), chromedp.Flag("disable-dev-shm-usage", true),
	}, options)
	ctx, endBrowser := chromedp.NewExecAllocator(context.Background(), all...)
	ctx, endTab := chromedp.NewContext(ctx)
	closes = func() {
		endTab()
		endBrowser()
		os.RemoveAll(dir)
	}
	if err := chromedp.Do(ctx); err != nil { // starts it, without a limit on its life
		closes()
		return nil, nil, err
	}
	return ctx, closes, nil
}

// Start opens a browser for the time of the test, which needs the part browser.
func Start(t testing.TB, options ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	ctx, closes, err := Open(options...)
	if err == ErrNone {
		need.Missing(t, "browser", err.Error())
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closes)
	return ctx
}

// Do does one thing after the other as a person does, who looks for an element
// again if the page makes place for another in that moment.
func Do(ctx context.Context, actions ...chromedp.Action[chromedp.Void]) error {
	end := time.Now().Add(time.Minute) // for a test that hangs
	for _, a := range actions {
		for {
			err := chromedp.Do(ctx, a)
			if err == nil {
				break
			}
			if !gone.MatchString(err.Error()) || time.Now().After(end) {
				return err
			}
			time.Sleep(25 * time.Millisecond)
		}
	}
	return nil
}

// gone is what the browser says of an element of the page before.
var gone = regexp.MustCompile(`(?i)\bno(t find)? node\b`)
