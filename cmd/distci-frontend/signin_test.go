package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	oidctest "github.com/distci/distci/test/oidc"
)

// TestSignIn: two frontends of a cluster, one of which was started while the
// provider was away, know whoever has signed in at the other.
func TestSignIn(t *testing.T) {
	provider, dir, browser := oidctest.Start(t), t.TempDir(), oidctest.Browser(t)
	provider.Stop()
	proxy := httptest.NewUnstartedServer(nil) // what browsers see
	public := "http://" + proxy.Listener.Addr().String()
	args := append(provider.Args(t), "--url", public)
	p, first := serve(t, dir, args...)
	p.until(t, "a word about the provider", func() bool { return strings.Contains(p.stderr.String(), "nobody can sign in yet") })
	provider.Restart(t)
	_, second := serve(t, dir, args...)
	var n atomic.Int64
	proxy.Config.Handler = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		u, _ := url.Parse([]string{first, second}[n.Add(1)%2])
		r.SetURL(u)
	}}
	proxy.Start()
	t.Cleanup(proxy.Close)
	p.until(t, "the provider is found", func() bool {
		resp, body := provider.SignIn(t, browser, public+"/ui/sign-in?return=/ui/queue", oidctest.Ada)
		return resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, "cannot be reached")
	})
	for _, u := range []string{first, second} {
		resp, err := browser.Get(u + "/whoami")
		if err != nil {
			t.Fatal(err)
		}
		var who struct{ Name, Role, Via string }
		err = json.NewDecoder(resp.Body).Decode(&who)
		resp.Body.Close()
		if err != nil || who.Name != "ada@example.org" || who.Role != "admin" || who.Via != "session" {
			t.Errorf("at %s it is %+v, %v", u, who, err)
		}
		// Others are nobody, although they are on this machine.
		if resp, err := http.Get(u + "/jobs"); err != nil || resp.StatusCode != 401 {
			t.Errorf("without a session: %v, %v", resp, err)
		} else {
			resp.Body.Close()
		}
	}
}

// TestSignInRefusals: flags that do not go together, and files that are wrong.
func TestSignInRefusals(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	roles, secret, empty := write("roles", oidctest.Rules), write("secret", "s"), write("empty", "\n")
	bad := write("bad", `{"roles": [{"claim": "g", "value": "v", "role": "boss"}]}`)
	good := []string{"--oidc-issuer", "https://id.example.org", "--oidc-client-id", "distci", "--oidc-client-secret-file", secret, "--oidc-roles", roles, "--url", "https://ci.example.org"}
	with := func(flag, value string) []string {
		args := slices.Clone(good)
		i := slices.Index(args, flag)
		if value == "" {
			return slices.Delete(args, i, i+2)
		}
		args[i+1] = value
		return args
	}
	for _, c := range []struct {
		args   []string
		status int
		want   string
	}{
		{with("--oidc-client-id", ""), 64, "--oidc-client-id"},
		{with("--oidc-roles", ""), 64, "--oidc-roles"},
		{with("--url", ""), 64, "--url"},
		{with("--oidc-issuer", ""), 64, "--oidc-issuer"},
		{append(slices.Clone(good), "--insecure"), 64, "--insecure"},
		{with("--oidc-roles", bad), 78, "roles[0]: role \"boss\""},
		{with("--oidc-roles", dir+"/nowhere"), 78, "nowhere"},
		{with("--oidc-client-secret-file", empty), 78, "is empty"},
		{with("--oidc-client-secret-file", dir+"/nowhere"), 78, "nowhere"},
		{with("--oidc-issuer", "http://id.example.org"), 78, "use https"},
		{with("--url", "http://ci.example.org"), 78, "use https"},
		{with("--url", "https://ci.example.org/ci"), 78, "https://host"},
		{append(slices.Clone(good), "--sign-in-idle", "1ms"), 78, "too short"},
	} {
		p := start(t, t.TempDir(), append([]string{"--listen", "127.0.0.1:0"}, c.args...)...)
		if got := p.status(); got != c.status || !strings.Contains(p.stderr.String(), c.want) {
			t.Errorf("%v: status %d, want %d, %q: %s", c.args, got, c.status, c.want, p.stderr)
		}
	}
}
