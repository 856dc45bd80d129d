package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/web"
	testlab "github.com/distci/distci/test/lab"
	oidctest "github.com/distci/distci/test/oidc"
)

// door is two frontends of one cluster at which people sign in, behind a
// balancer that gives each request to the next one.
type door struct {
	testing.TB
	provider *oidctest.Provider
	url      string   // of the balancer
	each     []string // of the frontends
	log      *testlab.Buffer
	audit    *records
	clock    atomic.Int64 // what is added to the time
}

type records struct {
	mu   sync.Mutex
	list []access.Record
}

func (r *records) Add(v access.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, v)
}

// last is the last one of an action.
func (r *records) last(action string) access.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.list) - 1; i >= 0; i-- {
		if r.list[i].Action == action || r.list[i].Route == action {
			return r.list[i]
		}
	}
	return access.Record{}
}

// newDoor starts frontends. The options may be changed before.
func newDoor(t testing.TB, p *oidctest.Provider, change func(*access.OIDCOptions)) *door {
	t.Helper()
	d := &door{TB: t, provider: p, log: &testlab.Buffer{}, audit: &records{}}
	dir := t.TempDir()
	log := slog.New(slog.NewTextHandler(d.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	rules, err := access.ParseRules([]byte(oidctest.Rules))
	if err != nil {
		t.Fatal(err)
	}
	balancer := httptest.NewUnstartedServer(nil)
	d.url = "http://" + balancer.Listener.Addr().String()
	var targets []*url.URL
	for range 2 {
		cl, err := cluster.Open(t.Context(), cluster.Options{Coord: "local:" + filepath.Join(dir, "coord.db"), Store: "dir:" + filepath.Join(dir, "store"), Session: time.Minute, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cl.Close() })
		sessions, err := access.NewSessions(access.SessionOptions{Store: cl.Store, URL: d.url, Now: func() time.Time { return time.Now().Add(time.Duration(d.clock.Load())) }})
		if err != nil {
			t.Fatal(err)
		}
		o := access.OIDCOptions{Issuer: p.Issuer, ClientID: p.ClientID, Secret: p.ClientSecret, Rules: rules, Sessions: sessions}
		if change != nil {
			change(&o)
		}
		people, err := access.NewOIDC(o)
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewServer(api.New(cl.Repo, api.Options{Log: log, SignIn: people, Pages: web.New(cl.Repo, web.Options{SignIn: true}), Audit: d.audit, Name: "frontend",
			Access: access.Chain{access.NewTokens(cl.Store, log), sessions, access.Everybody(access.Anonymous(""))}}))
		t.Cleanup(srv.Close)
		d.each = append(d.each, srv.URL)
		u, err := url.Parse(srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, u)
	}
	var n atomic.Int64
	balancer.Config.Handler = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(targets[n.Add(1)%2]) }}
	balancer.Start()
	t.Cleanup(balancer.Close)
	return d
}

// whoami asks the frontends who the browser is; all must agree.
func (d *door) whoami(browser *http.Client) string {
	d.Helper()
	var who []string
	for _, u := range d.each {
		resp, err := browser.Get(u + "/whoami")
		if err != nil {
			d.Fatal(err)
		}
		var v struct {
			Name, Role, Via string
			Jobs            []string
		}
		err = json.NewDecoder(resp.Body).Decode(&v)
		resp.Body.Close()
		if err != nil || resp.StatusCode != 200 {
			d.Fatalf("status %d, %v", resp.StatusCode, err)
		}
		who = append(who, fmt.Sprint(v.Name, " ", v.Role, " ", v.Via, " ", v.Jobs))
	}
	if who[0] != who[1] {
		d.Errorf("the frontends do not agree: %v", who)
	}
	return who[0]
}

// signIn signs somebody in at the page.
func (d *door) signIn(browser *http.Client, person string) (*http.Response, string) {
	d.Helper()
	return d.provider.SignIn(d, browser, d.url+"/ui/sign-in?return=/ui/queue", person)
}

// send sends a request with the browser's cookies; header is a list of names
// and values.
func (d *door) send(browser *http.Client, method, u, body string, header ...string) (int, string) {
	d.Helper()
	req, err := http.NewRequest(method, u, strings.NewReader(body))
	if err != nil {
		d.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := browser.Do(req)
	if err != nil {
		d.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		d.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// TestSignIn: people sign in at a real provider, by one frontend and back at
// another, and may do at each what their groups say.
func TestSignIn(t *testing.T) {
	d := newDoor(t, oidctest.Start(t), nil)
	for _, k := range []struct{ person, want string }{
		{oidctest.Ada, "ada@example.org admin session []"},
		{oidctest.Tess, "tess trigger session [web web-*]"},
		{oidctest.Rita, "rita read session []"},
	} {
		b := oidctest.Browser(t)
		if got := d.whoami(b); got != "anonymous  anonymous []" {
			t.Errorf("before it is %s", got)
		}
		resp, _ := d.signIn(b, k.person)
		if got := resp.Request.URL.String(); got != d.url+"/ui/queue" {
			t.Errorf("%s comes back to %s", k.person, got)
		}
		if got := d.whoami(b); got != k.want {
			t.Errorf("%s is %s", k.person, got)
		}
		if r := d.audit.last("sign in"); r.Who+" "+string(r.Role)+" session []" != k.want && k.person != oidctest.Tess || r.Outcome != access.Done || r.Object != k.person || r.From == "" || r.ID == "" || r.Via != access.ViaSession {
			t.Errorf("the audit log has %+v", r)
		}
	}
	ada, tess, rita := oidctest.Browser(t), oidctest.Browser(t), oidctest.Browser(t)
	for b, person := range map[*http.Client]string{ada: oidctest.Ada, tess: oidctest.Tess, rita: oidctest.Rita} {
		d.signIn(b, person)
	}
	job := func(id string) string {
		return fmt.Sprintf(`{"job_id":%q,"tasks":[{"type":"execute-shell","params":{"script":":"}}]}`, id)
	}
	for _, k := range []struct {
		who               *http.Client
		code              int
		method, path, doc string
	}{
		{rita, 403, "PUT", "/jobs/web", job("web")},
		{tess, 403, "PUT", "/jobs/web", job("web")},
		{ada, 200, "PUT", "/jobs/web", job("web")},
		{ada, 200, "PUT", "/jobs/db", job("db")},
		{rita, 200, "GET", "/jobs/db", ""},
		{rita, 403, "POST", "/jobs/web/builds", ""},
		{tess, 201, "POST", "/jobs/web/builds", ""},
		{tess, 404, "GET", "/jobs/db", ""},
		{tess, 403, "POST", "/jobs/db/builds", ""},
		{http.DefaultClient, 401, "GET", "/jobs/web", ""},
	} {
		for _, u := range d.each {
			if code, body := d.send(k.who, k.method, u+k.path, k.doc, "Origin", d.url); code != k.code {
				t.Errorf("%s %s: status %d, want %d: %s", k.method, k.path, code, k.code, body)
			}
		}
	}
	if strings.Contains(d.log.String(), "code=") || strings.Contains(d.log.String(), d.provider.ClientSecret) {
		t.Error("the log has a secret")
	}
}

// TestNoRole: who is known to the provider and has no role is told so.
func TestNoRole(t *testing.T) {
	d := newDoor(t, oidctest.Start(t), nil)
	for person, name := range map[string]string{oidctest.Eve: "eve", oidctest.Other: "other"} {
		b := oidctest.Browser(t)
		resp, body := d.signIn(b, person)
		if resp.StatusCode != 403 || !strings.Contains(body, "knows you as "+name) || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: status %d: %s", person, resp.StatusCode, body)
		}
		if got := d.whoami(b); got != "anonymous  anonymous []" {
			t.Errorf("%s is %s", person, got)
		}
		if r := d.audit.last("sign in"); r.Outcome != access.Refused || r.Error != "no-role" || r.Object != person {
			t.Errorf("the audit log has %+v", r)
		}
		if !strings.Contains(d.log.String(), "reason=no-role") {
			t.Error("the log does not say why")
		}
	}
}

// TestSignedOut: a session that was ended at one frontend is over at all, also
// in a copy of the browser.
func TestSignedOut(t *testing.T) {
	d := newDoor(t, oidctest.Start(t), nil)
	b := oidctest.Browser(t)
	d.signIn(b, oidctest.Ada)
	jar, _ := cookiejar.New(nil)
	u, _ := url.Parse(d.url)
	jar.SetCookies(u, b.Jar.Cookies(u))
	thief := &http.Client{Jar: jar}
	if got := d.whoami(thief); !strings.HasPrefix(got, "ada@") {
		t.Fatalf("the copy is %s", got)
	}
	for _, header := range [][]string{nil, {"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "null"}} {
		if code, _ := d.send(b, "POST", d.each[0]+"/ui/sign-out", "", header...); code != 403 {
			t.Errorf("with %v: status %d", header, code)
		}
	}
	if code, _ := d.send(b, "GET", d.each[0]+"/ui/sign-out", ""); code != 405 {
		t.Errorf("by a link: status %d", code)
	}
	if code, body := d.send(b, "POST", d.each[0]+"/ui/sign-out", "", "Origin", d.url); code != 200 || !strings.Contains(body, "is over") {
		t.Errorf("status %d: %s", code, body)
	}
	for name, b := range map[string]*http.Client{"the browser": b, "the copy": thief} {
		if got := d.whoami(b); got != "anonymous  anonymous []" {
			t.Errorf("%s is %s", name, got)
		}
	}
	if r := d.audit.last("/ui/sign-out"); r.Who != "ada@example.org" || r.Outcome != access.Done {
		t.Errorf("the audit log has %+v", r)
	}
	if code, _ := d.send(b, "POST", d.each[1]+"/ui/sign-out", "", "Origin", d.url); code != 200 {
		t.Errorf("without a session: status %d", code)
	}
	// The provider still knows her, and asks nothing.
	if resp, err := b.Get(d.url + "/ui/sign-in"); err != nil || !strings.HasPrefix(resp.Request.URL.String(), d.url) {
		t.Errorf("%v", err)
	} else {
		resp.Body.Close()
	}
	if got := d.whoami(b); !strings.HasPrefix(got, "ada@") {
		t.Errorf("after another sign-in it is %s", got)
	}
}

// TestCSRF: what changes something with a session comes from our own pages.
func TestCSRF(t *testing.T) {
	d := newDoor(t, oidctest.Start(t), nil)
	b := oidctest.Browser(t)
	d.signIn(b, oidctest.Ada)
	const doc = `{"job_id":"j","tasks":[]}`
	for _, k := range []struct {
		code   int
		header []string
	}{
		{200, []string{"Origin", d.url}}, {200, []string{"Sec-Fetch-Site", "same-origin"}}, {200, []string{"Sec-Fetch-Site", "same-origin", "Origin", "null"}},
		{403, nil}, {403, []string{"Referer", d.url + "/ui/"}}, {403, []string{"Origin", "null"}}, {403, []string{"Origin", d.each[1]}},
		{403, []string{"Sec-Fetch-Site", "none"}}, {403, []string{"Sec-Fetch-Site", "cross-site", "Origin", d.url}}, {403, []string{"Origin", "https://evil.example"}},
	} {
		code, body := d.send(b, "PUT", d.each[0]+"/jobs/j", doc, k.header...)
		if code != k.code {
			t.Errorf("%v: status %d, want %d: %s", k.header, code, k.code, body)
		}
		if code == 403 {
			if r := d.audit.last("/jobs/{job}"); r.Outcome != access.Refused && d.audit.last("/").Outcome != access.Refused {
				t.Errorf("%v: the audit log has %+v", k.header, r)
			}
		}
	}
}

// TestProviderSaysNo: somebody who changes his mind at the provider, and a link
// that somebody else has made up.
func TestProviderSaysNo(t *testing.T) {
	d := newDoor(t, oidctest.Start(t), nil)
	b := oidctest.Browser(t)
	resp, err := b.Get(d.url + "/ui/sign-in")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	resp, err = b.Get(resp.Request.URL.String() + "/abort")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 403 || !strings.Contains(string(body), "The provider says no: access_denied") {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
	for _, q := range []string{"", "?code=x&state=y", "?error=x&error_description=call+this+number", "?code=x&state=" + strings.Repeat("A", 26)} {
		code, body := d.send(b, "GET", d.url+"/ui/sign-in/callback"+q, "")
		if code != 403 || !strings.Contains(strings.ToLower(body), "this browser has not begun this sign-in") || strings.Contains(body, "number") {
			t.Errorf("%s: status %d: %s", q, code, body)
		}
	}
	// A program is told the same in its way.
	code, body2 := d.send(http.DefaultClient, "GET", d.url+"/ui/sign-in/callback", "")
	var problem struct{ Status int }
	if err := json.Unmarshal([]byte(body2), &problem); err != nil || code != 403 || problem.Status != 403 {
		t.Errorf("status %d: %s", code, body2)
	}
}

// TestCodeReused: whoever has seen the address with which the provider sends
// somebody back, and has the cookies, too, gets nothing by it.
func TestCodeReused(t *testing.T) {
	d := newDoor(t, oidctest.Start(t), nil)
	b := oidctest.Browser(t)
	resp, err := b.Get(d.url + "/ui/sign-in")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	u, _ := url.Parse(d.url)
	cookies := b.Jar.Cookies(u)
	var callback string
	b.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if strings.HasPrefix(r.URL.Path, "/ui/sign-in/callback") {
			callback = r.URL.String()
		}
		return nil
	}
	d.signIn(b, oidctest.Ada) // with the second sign-in's state
	if callback == "" {
		t.Fatal("nobody was sent back")
	}
	jar, _ := cookiejar.New(nil)
	jar.SetCookies(u, cookies)
	if code, body := d.send(&http.Client{Jar: jar}, "GET", callback, "", "Accept", "text/html"); code != 403 || !strings.Contains(body, "not begun") {
		t.Errorf("with another sign-in's cookie: status %d: %s", code, body)
	}
	// Now with the right cookie, kept from before.
	b = oidctest.Browser(t)
	b.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if r.URL.Path == "/ui/sign-in/callback" {
			callback, cookies = r.URL.String(), b.Jar.Cookies(u)
		}
		return nil
	}
	d.signIn(b, oidctest.Ada)
	jar, _ = cookiejar.New(nil)
	jar.SetCookies(u, cookies)
	if code, body := d.send(&http.Client{Jar: jar}, "GET", callback, "", "Accept", "text/html"); code != 403 || !strings.Contains(body, "used already") {
		t.Errorf("a second time: status %d: %s", code, body)
	}
}

// TestProviderRestarts: the provider is away when the frontends start, comes,
// changes its key, and goes; who has signed in stays so.
func TestProviderRestarts(t *testing.T) {
	p := oidctest.Start(t)
	p.Stop()
	d := newDoor(t, p, nil)
	b := oidctest.Browser(t)
	code, body := d.send(b, "GET", d.url+"/ui/sign-in", "")
	if code != 503 || !strings.Contains(body, "cannot be reached") {
		t.Errorf("status %d: %s", code, body)
	}
	for round := range 3 {
		p.Restart(t) // with another key
		d.clock.Add(int64(time.Minute))
		b := oidctest.Browser(t)
		d.signIn(b, oidctest.Rita)
		if got := d.whoami(b); got != "rita read session []" {
			t.Errorf("round %d: it is %s", round, got)
		}
	}
	d.signIn(b, oidctest.Ada)
	p.Stop()
	if got := d.whoami(b); !strings.HasPrefix(got, "ada@") {
		t.Errorf("without the provider it is %s", got)
	}
}

// TestClientRefused: the provider does not know our secret.
func TestClientRefused(t *testing.T) {
	d := newDoor(t, oidctest.Start(t), func(o *access.OIDCOptions) { o.Secret = "another" })
	if resp, body := d.signIn(oidctest.Browser(t), oidctest.Ada); resp.StatusCode != 403 || !strings.Contains(body, "client id or secret") {
		t.Errorf("status %d: %s", resp.StatusCode, body)
	}
}

// TestClocks: a frontend whose clock is wrong says so.
func TestClocks(t *testing.T) {
	d := newDoor(t, oidctest.Start(t), nil)
	d.clock.Store(int64(-time.Hour))
	if resp, body := d.signIn(oidctest.Browser(t), oidctest.Ada); resp.StatusCode != 403 || !strings.Contains(body, "one of the clocks is wrong") {
		t.Errorf("an hour behind: status %d: %s", resp.StatusCode, body)
	}
	d.clock.Store(int64(3 * time.Hour))
	if resp, body := d.signIn(oidctest.Browser(t), oidctest.Ada); resp.StatusCode != 403 || !strings.Contains(body, "one of the clocks is wrong") {
		t.Errorf("three hours ahead: status %d: %s", resp.StatusCode, body)
	}
}

// TestReturn: nobody is sent elsewhere.
func TestReturn(t *testing.T) {
	d := newDoor(t, oidctest.Start(t), nil)
	for _, back := range []string{"//evil.example", "https://evil.example/ui/", "/\\evil.example", "/jobs", "", "/ui/../jobs"} {
		b := oidctest.Browser(t)
		code, body := d.send(b, "GET", d.url+"/ui/sign-in?return="+url.QueryEscape(back), "")
		if code != 400 || strings.Contains(body, "<a href=\"//") {
			t.Errorf("%q: status %d: %s", back, code, body)
		}
	}
}

// TestRoleIsReadAgain: when a role is old the next page goes by way of the
// provider, without anybody noticing; who has lost his role there has lost it
// here, and so have copies of his session.
func TestRoleIsReadAgain(t *testing.T) {
	p := oidctest.Start(t)
	d := newDoor(t, p, nil)
	b := oidctest.Browser(t)
	if resp, _ := p.SignIn(t, b, d.url+"/ui?x=1", oidctest.Tess); resp.StatusCode != 200 || resp.Request.URL.String() != d.url+"/ui?x=1" {
		t.Fatalf("who opens a page signs in and sees it: status %d at %s", resp.StatusCode, resp.Request.URL)
	}
	atProvider := 0
	b.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.String(), p.Issuer) {
			atProvider++
		}
		return nil
	}
	page := func(want int) {
		t.Helper()
		resp, err := b.Get(d.url + "/ui?x=1")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 200 || resp.Request.URL.String() != d.url+"/ui?x=1" || atProvider != want {
			t.Errorf("status %d at %s, %d times at the provider, want %d", resp.StatusCode, resp.Request.URL, atProvider, want)
		}
	}
	page(0)
	d.clock.Add(int64(access.DefaultRefresh))
	for _, header := range [][]string{{"Accept", "application/json"}, {"Accept", "text/html", "Sec-Fetch-Mode", "cors"}} {
		if code, _ := d.send(b, "GET", d.url+"/ui?x=1", "", header...); code != 200 || atProvider != 0 {
			t.Errorf("%v: a script is sent to the provider, status %d", header, code)
		}
	}
	if code, body := d.send(b, "POST", d.url+"/ui/jobs/web/builds", "", "Origin", d.url, "Accept", "text/html"); code != 404 || atProvider != 0 {
		t.Errorf("a form is sent to the provider, status %d: %s", code, body)
	}
	page(1)
	page(1)
	if got := d.whoami(b); got != "tess trigger session [web web-*]" {
		t.Errorf("it is %s", got)
	}
	u, err := url.Parse(d.url)
	if err != nil {
		t.Fatal(err)
	}
	jar, _ := cookiejar.New(nil)
	jar.SetCookies(u, b.Jar.Cookies(u))
	thief := &http.Client{Jar: jar}
	// From here on she has another role.
	p.People = `{"tess": {"preferred_username": "tess", "groups": ["readers"]}}`
	p.Restart(t)
	d.clock.Add(int64(access.DefaultRefresh))
	if got := d.whoami(thief); got != "tess trigger session [web web-*]" {
		t.Fatalf("the copy is %s", got)
	}
	p.SignIn(t, b, d.url+"/ui", oidctest.Tess)
	if got := d.whoami(b); got != "tess read session []" {
		t.Errorf("it is %s", got)
	}
	if got := d.whoami(thief); got != "anonymous  anonymous []" {
		t.Errorf("a copy keeps the old role: %s", got)
	}
	// And now none.
	p.People = `{}`
	p.Restart(t)
	d.clock.Store(int64(access.DefaultRefresh)) // or its tokens would be too old
	b2 := oidctest.Browser(t)
	b2.Jar = b.Jar
	if resp, _ := p.SignIn(t, b2, d.url+"/ui/sign-in", oidctest.Tess); resp.StatusCode != 403 {
		t.Errorf("status %d", resp.StatusCode)
	}
	if got := d.whoami(b); got != "anonymous  anonymous []" {
		t.Errorf("without a role it is %s", got)
	}
}

// TestPagesSendToSignIn: who opens a page is sent to sign in if that may help,
// and nobody else is.
func TestPagesSendToSignIn(t *testing.T) {
	d := newDoor(t, oidctest.Start(t), nil)
	b := oidctest.Browser(t)
	b.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	for _, k := range []struct {
		code         int
		path, header string
	}{
		{303, "/ui", "text/html"}, {303, "/ui/jobs/web", "application/xhtml+xml, text/html;q=0.9"},
		{401, "/ui", "application/json"}, {401, "/ui", "text/htmlx"}, {401, "/jobs", "text/html"}, {200, "/whoami", "text/html"},
	} {
		code, body := d.send(b, "GET", d.url+k.path, "", "Accept", k.header)
		if code != k.code {
			t.Errorf("%s, %s: status %d, want %d: %s", k.path, k.header, code, k.code, body)
		}
	}
	if code, _ := d.send(b, "GET", d.url+"/ui", "", "Accept", "text/html", "Authorization", "Bearer nonsense"); code != 401 {
		t.Errorf("with a wrong token: status %d", code)
	}
	if code, _ := d.send(b, "POST", d.url+"/ui/jobs/web/builds", "", "Accept", "text/html", "Origin", d.url); code != 401 {
		t.Errorf("a form: status %d", code)
	}
	// Who has signed in and may not see a page is not sent round and round.
	b.CheckRedirect = nil
	d.signIn(b, oidctest.Tess)
	if code, _ := d.send(b, "GET", d.url+"/ui/jobs/db", "", "Accept", "text/html"); code != 404 {
		t.Errorf("status %d", code)
	}
}

// TestWithoutProvider: a frontend at which nobody signs in.
func TestWithoutProvider(t *testing.T) {
	l := newLab(t)
	l.want(404, "GET", "/ui/sign-in", "")
	l.want(404, "GET", "/ui/sign-in/callback", "")
	l.want(404, "POST", "/ui/sign-out", "")
	if r := l.want(200, "GET", "/whoami", ""); !strings.Contains(r.body, `"role":"admin"`) || strings.Contains(r.body, "sign_in") {
		t.Errorf("it is %s", r.body)
	}
	if r := l.want(404, "GET", "/ui/sign-in", "", "Accept", "text/html"); !strings.Contains(r.body, "<h1>") || !strings.Contains(r.Header.Get("Content-Security-Policy"), "form-action 'none'") {
		t.Errorf("%v %s", r.Header, r.body)
	}
}
