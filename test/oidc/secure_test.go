package oidctest_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/web"
	"github.com/distci/distci/test/chromium"
	oidctest "github.com/distci/distci/test/oidc"
)

// TestSecureCookies: a browser takes the cookies that are bound to https and to
// the host, brings them back from the provider, which is another site, and
// sends what proves that a form is ours. Only a browser shows that.
func TestSecureCookies(t *testing.T) {
	p, dir := oidctest.Start(t), t.TempDir()
	log := slog.New(slog.DiscardHandler)
	cl, err := cluster.Open(t.Context(), cluster.Options{Coord: "local:" + filepath.Join(dir, "coord.db"), Store: "dir:" + filepath.Join(dir, "store"), Session: time.Minute, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cl.Close() })
	rules, err := access.ParseRules([]byte(oidctest.Rules))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(nil)
	// The provider is at 127.0.0.1: for the browser that is another site.
	public := "https://" + strings.Replace(srv.Listener.Addr().String(), "127.0.0.1", "localhost", 1)
	sessions, err := access.NewSessions(access.SessionOptions{Store: cl.Store, URL: public})
	if err != nil {
		t.Fatal(err)
	}
	people, err := access.NewOIDC(access.OIDCOptions{Issuer: p.Issuer, ClientID: p.ClientID, Secret: p.ClientSecret, Rules: rules, Sessions: sessions})
	if err != nil {
		t.Fatal(err)
	}
	signOut := make(chan *http.Request, 1)
	handler := api.New(cl.Repo, api.Options{Log: log, SignIn: people, Pages: web.New(cl.Repo, web.Options{SignIn: true}), Access: access.Chain{sessions, access.Everybody(access.Anonymous(""))}})
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ui/sign-out" {
			signOut <- r
		}
		handler.ServeHTTP(w, r)
	})
	srv.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	srv.StartTLS()
	t.Cleanup(srv.Close)

	ctx := chromium.Start(t, chromedp.Flag("ignore-certificate-errors", true))
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute) // for a test that hangs
	defer cancel()
	if err := chromium.Do(ctx,
		chromedp.Navigate(public+"/ui"),
		chromedp.SendKeys(chromedp.CSS("[name=login]"), oidctest.Ada),
		chromedp.SendKeys(chromedp.CSS("[name=password]"), "any"),
		chromedp.Click(chromedp.CSS("[type=submit]")),
		chromedp.Click(chromedp.CSS(`form[action="/ui/sign-out"] button`), chromedp.NodeVisible),
		chromedp.WaitVisible(chromedp.CSS(`a[href="/ui/sign-in"]`)),
	); err != nil {
		t.Fatal(err)
	}
	r := <-signOut
	if _, err := r.Cookie("__Host-distci-session"); err != nil || len(r.Cookies()) != 1 {
		t.Errorf("the browser has %v", r.Cookies())
	}
	if got := r.Header.Get("Origin"); got != public {
		t.Errorf("the form's origin is %q", got)
	}
	if got := r.Header.Get("Sec-Fetch-Site"); got != "same-origin" {
		t.Errorf("the form's site is %q", got)
	}
	// The policy of the page allows its own style.
	width, err := chromedp.Run(ctx, chromedp.Evaluate[string](`getComputedStyle(document.body).maxWidth`))
	if err != nil || width != "576px" {
		t.Errorf("the page is %q wide, %v", width, err)
	}
}
