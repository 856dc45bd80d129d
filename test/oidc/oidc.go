// Package oidctest runs an OpenID Connect provider for a test: oidc-provider,
// which is certified, in a process of its own.
package oidctest

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/distci/distci/test/need"
)

// version is that of oidc-provider, as in package.json and test/prepare.sh.
const version = "9.13.3"

//go:embed provider.mjs
var script []byte

// The people whom the provider knows. Each signs in with this name and any
// password; somebody else may sign in, too, and has no claims but his name.
const (
	Ada   = "ada"   // in the group ci-admins, with a verified e-mail address
	Tess  = "tess"  // in the groups devs and web
	Rita  = "rita"  // in the group readers
	Eve   = "eve"   // in no group; claims ada's e-mail address, which nobody has verified
	Other = "other" // not in the list
)

// People are their claims.
const People = `{
	"ada":  {"email": "ada@example.org", "email_verified": true, "groups": ["staff", "ci-admins"]},
	"tess": {"preferred_username": "tess", "groups": ["devs", "web"]},
	"rita": {"preferred_username": "rita", "groups": ["readers"]},
	"eve":  {"email": "ada@example.org", "email_verified": false, "preferred_username": "eve"}
}`

// Rules are rules of access.ReadRules that give ada the role admin, tess the
// role trigger for the jobs web and web-*, rita the role read, and the others
// none.
const Rules = `{
	"scopes": ["profile", "email", "groups"],
	"roles": [
		{"claim": "groups", "value": "ci-admins", "role": "admin"},
		{"claim": "email", "value": "ada@example.org", "role": "admin"},
		{"claim": "groups", "value": "web", "role": "trigger", "jobs": ["web", "web-*"]},
		{"claim": "groups", "value": "readers", "role": "read"}
	]
}`

// Provider is a provider that runs.
type Provider struct {
	Issuer       string
	ClientID     string
	ClientSecret string
	People       string // at the next Restart: other claims, in the form of [People]

	node, folder, script string
	cmd                  *exec.Cmd
	stdin                io.Closer
}

// Start starts a provider; it ends with the test. It sends people back to
// /ui/sign-in/callback of any port of this machine. Where it cannot be had the
// test is skipped, or fails if DISTCI_REQUIRE names oidc.
func Start(t testing.TB) *Provider {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	p := &Provider{ClientID: "distci", People: People, ClientSecret: "a+secret/with=odd:letters%20", folder: filepath.Join(cache, "distci-test", "oidc-provider-"+version)}
	if p.node, err = exec.LookPath("node"); err != nil {
		need.Missing(t, "oidc", "no node on this machine")
	}
	if _, err := os.Stat(filepath.Join(p.folder, "node_modules", "oidc-provider")); err != nil {
		need.Missing(t, "oidc", "no oidc-provider on this machine; DISTCI_REQUIRE=oidc test/prepare.sh installs it")
	}
	p.script = filepath.Join(t.TempDir(), "provider.mjs")
	if err := os.WriteFile(p.script, script, 0o600); err != nil {
		t.Fatal(err)
	}
	p.start(t, "0")
	t.Cleanup(p.Stop)
	return p
}

func (p *Provider) start(t testing.TB, port string) {
	t.Helper()
	var stderr bytes.Buffer
	p.cmd = exec.Command(p.node, p.script, p.folder, port)
	p.cmd.Stderr = &stderr
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stdin = stdin
	options, err := json.Marshal(map[string]any{"client": p.ClientID, "secret": p.ClientSecret, "people": json.RawMessage(p.People)})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(stdin, "%s\n", options)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		p.Stop()
		t.Fatalf("the provider does not start: %v\n%s", err, &stderr)
	}
	p.Issuer = strings.TrimSpace(line)
}

// Stop ends the provider, and frees its port.
func (p *Provider) Stop() {
	if p.cmd == nil {
		return
	}
	p.stdin.Close()
	p.cmd.Process.Kill()
	p.cmd.Wait() // it was killed
	p.cmd = nil
}

// Restart starts the provider anew where it was, with another signing key and
// without the sessions that people had there.
func (p *Provider) Restart(t testing.TB) {
	t.Helper()
	p.Stop()
	u, err := url.Parse(p.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	p.start(t, u.Port())
}

// Args are the options with which a frontend uses the provider with [Rules], in
// files of the test. The option --url is the caller's.
func (p *Provider) Args(t testing.TB) []string {
	t.Helper()
	dir := t.TempDir()
	secret, rules := filepath.Join(dir, "secret"), filepath.Join(dir, "roles.json")
	if err := os.WriteFile(secret, []byte(p.ClientSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(rules, []byte(Rules), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"--oidc-issuer", p.Issuer, "--oidc-client-id", p.ClientID, "--oidc-client-secret-file", secret, "--oidc-roles", rules}
}

// Browser returns a client that keeps cookies and says that it shows pages, as
// a browser that somebody uses.
func Browser(t testing.TB) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, Transport: pages{}}
}

// pages adds what a browser says of itself.
type pages struct{}

func (pages) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Header.Get("Accept") == "" {
		r.Header.Set("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	}
	return http.DefaultTransport.RoundTrip(r)
}

var action = regexp.MustCompile(`<form[^>]* action="([^"]+)"`)

// SignIn opens a page that leads to the provider, fills in its form as the
// given person, and returns where that leads in the end, with the body.
func (p *Provider) SignIn(t testing.TB, browser *http.Client, page, person string) (*http.Response, string) {
	t.Helper()
	resp, body := get(t, browser, page)
	for range 3 {
		if !strings.HasPrefix(resp.Request.URL.String(), p.Issuer) {
			return resp, body
		}
		form := action.FindStringSubmatch(body)
		if form == nil {
			return resp, body
		}
		to, err := resp.Request.URL.Parse(html.UnescapeString(form[1]))
		if err != nil {
			t.Fatal(err)
		}
		resp, err = browser.PostForm(to.String(), url.Values{"prompt": {"login"}, "login": {person}, "password": {"any"}})
		if err != nil {
			t.Fatal(err)
		}
		body = read(t, resp)
	}
	t.Fatalf("the provider asks again and again: %s", body)
	return nil, ""
}

func get(t testing.TB, browser *http.Client, page string) (*http.Response, string) {
	t.Helper()
	resp, err := browser.Get(page)
	if err != nil {
		t.Fatal(err)
	}
	return resp, read(t, resp)
}

func read(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
