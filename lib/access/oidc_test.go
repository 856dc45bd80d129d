package access

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store/sim"
)

// issuer is a provider that does what a real one cannot be made to do. Real
// ones are in lib/api's tests.
type issuer struct {
	*httptest.Server
	key    *rsa.PrivateKey
	served *rsa.PublicKey // what it says its key is
	clock  *clock

	nonce, challenge string // of the sign-in that is under way

	// What a test may change; nil: as it should be.
	token    func(claims map[string]any) string // the ID token
	userinfo map[string]any
	reply    func(w http.ResponseWriter) bool // to the request for tokens
	meta     map[string]any
}

// issuerKey is made once: it takes a while.
var issuerKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func newIssuer(t testing.TB, c *clock) *issuer {
	t.Helper()
	key := issuerKey()
	i := &issuer{key: key, served: &key.PublicKey, clock: c}
	mux := http.NewServeMux()
	send := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, r *http.Request) {
		m := map[string]any{"issuer": i.URL, "authorization_endpoint": i.URL + "/auth", "token_endpoint": i.URL + "/token", "jwks_uri": i.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256", "HS256", "none"}}
		maps.Copy(m, i.meta)
		send(w, m)
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) {
		n, e := i.served.N.Bytes(), big.NewInt(int64(i.served.E)).Bytes()
		send(w, map[string]any{"keys": []any{map[string]string{"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "k", "n": encode(n), "e": encode(e)}}})
	})
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		if i.reply != nil && i.reply(w) {
			return
		}
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if encode(sum[:]) != i.challenge {
			t.Errorf("the verifier does not fit the challenge")
		}
		now := i.clock.now()
		claims := map[string]any{"iss": i.URL, "aud": "distci", "sub": "1", "nonce": i.nonce, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "groups": []string{"devs"}, "preferred_username": "ada"}
		make := i.token
		if make == nil {
			make = i.sign
		}
		send(w, map[string]any{"access_token": "access", "token_type": "Bearer", "id_token": make(claims)})
	})
	mux.HandleFunc("/userinfo", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer access" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		send(w, i.userinfo)
	})
	i.Server = httptest.NewServer(mux)
	t.Cleanup(i.Close)
	return i
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func unsigned(alg string, claims map[string]any) string {
	b, _ := json.Marshal(claims)
	return encode(fmt.Appendf(nil, `{"alg":%q,"kid":"k"}`, alg)) + "." + encode(b)
}

func (i *issuer) sign(claims map[string]any) string {
	text := unsigned("RS256", claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(nil, i.key, crypto.SHA256, sum[:])
	if err != nil {
		panic(err)
	}
	return text + "." + encode(sig)
}

var devs = &Rules{Roles: []Rule{{Claim: "groups", Value: "devs", Role: Trigger}}}

func newOIDC(t testing.TB, i *issuer, s *Sessions) *OIDC {
	t.Helper()
	o, err := NewOIDC(OIDCOptions{Issuer: i.URL, ClientID: "distci", Secret: "secret", Rules: devs, Sessions: s})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// start begins a sign-in and returns the query with which the provider would
// send the browser back.
func (b browser) start(t testing.TB, i *issuer, o *OIDC) url.Values {
	t.Helper()
	w := httptest.NewRecorder()
	to, err := o.Start(w, b.request("GET", "/ui/sign-in"), "/ui/jobs/j?x=1")
	if err != nil {
		t.Fatal(err)
	}
	b.keep(w)
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	i.nonce, i.challenge = q.Get("nonce"), q.Get("code_challenge")
	if q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("redirect_uri") != o.Sessions.Origin()+CallbackPath ||
		q.Get("scope") != "openid profile email" || len(q.Get("state")) < 20 || len(i.nonce) < 20 || q.Get("client_id") != "distci" {
		t.Errorf("the provider is asked %s", to)
	}
	if strings.Contains(to, "secret") || q.Has("code_verifier") {
		t.Errorf("a secret is in %s", to)
	}
	return url.Values{"state": {q.Get("state")}, "code": {"code"}}
}

func (b browser) finish(o *OIDC, q url.Values) (*Session, string, error) {
	w := httptest.NewRecorder()
	v, back, err := o.Finish(w, b.request("GET", CallbackPath+"?"+q.Encode()))
	b.keep(w)
	return v, back, err
}

// TestProviderFaults: an answer that is not as it must be signs nobody in.
func TestProviderFaults(t *testing.T) {
	with := func(changes map[string]any) func(*issuer) {
		return func(i *issuer) {
			i.token = func(claims map[string]any) string {
				maps.Copy(claims, changes)
				maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
				return i.sign(claims)
			}
		}
	}
	status := func(code int, body string) func(*issuer) {
		return func(i *issuer) {
			i.reply = func(w http.ResponseWriter) bool {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(code)
				fmt.Fprint(w, body)
				return true
			}
		}
	}
	c := newClock()
	now := c.now()
	for _, k := range []struct {
		name   string
		set    func(*issuer)
		reason string // "": it works
		text   string
	}{
		{"all is well", func(*issuer) {}, "", ""},
		{"two audiences, and we are meant", with(map[string]any{"aud": []string{"other", "distci"}, "azp": "distci"}), "", ""},
		{"its clock is a little slow", with(map[string]any{"exp": now.Add(-time.Minute).Unix()}), "", ""},
		{"its clock is a little fast", with(map[string]any{"iat": now.Add(time.Minute).Unix()}), "", ""},

		{"alg none", func(i *issuer) {
			i.token = func(claims map[string]any) string { return unsigned("none", claims) + "." }
		}, "id-token", "none"},
		{"signed with the secret", func(i *issuer) {
			i.token = func(claims map[string]any) string {
				text := unsigned("HS256", claims)
				m := hmac.New(sha256.New, []byte("secret"))
				m.Write([]byte(text))
				return text + "." + encode(m.Sum(nil))
			}
		}, "id-token", "HS256"},
		{"signed with the public key as a secret", func(i *issuer) {
			i.token = func(claims map[string]any) string {
				text := unsigned("HS256", claims)
				m := hmac.New(sha256.New, i.served.N.Bytes())
				m.Write([]byte(text))
				return text + "." + encode(m.Sum(nil))
			}
		}, "id-token", "HS256"},
		{"another's key", func(i *issuer) {
			key, err := rsa.GenerateKey(rand.Reader, 2048)
			if err != nil {
				t.Fatal(err)
			}
			i.served = &key.PublicKey
		}, "id-token", "signature"},
		{"changed after signing", func(i *issuer) {
			i.token = func(claims map[string]any) string {
				parts := strings.Split(i.sign(claims), ".")
				claims["sub"] = "admin"
				return unsigned("RS256", claims) + "." + parts[2]
			}
		}, "id-token", "signature"},
		{"not a token", func(i *issuer) { i.token = func(map[string]any) string { return "nonsense" } }, "id-token", "malformed"},
		{"wrong audience", with(map[string]any{"aud": "other"}), "id-token", "audience"},
		{"no audience", with(map[string]any{"aud": nil}), "id-token", "audience"},
		{"for another program", with(map[string]any{"aud": []string{"other", "distci"}, "azp": "other"}), "id-token", "another program"},
		{"several audiences, for nobody", with(map[string]any{"aud": []string{"other", "distci"}}), "id-token", "another program"},
		{"another issuer", with(map[string]any{"iss": "https://evil.example"}), "id-token", "different provider"},
		{"expired", with(map[string]any{"exp": now.Add(-time.Hour).Unix()}), "clock", "expired at 2026-05-01T07:00:00Z, and here it is 2026-05-01T08:00:00Z"},
		{"never expires", with(map[string]any{"exp": nil}), "clock", "expired"},
		{"from the future", with(map[string]any{"iat": now.Add(time.Hour).Unix()}), "clock", "made at 2026-05-01T09:00:00Z"},
		{"not before", with(map[string]any{"nbf": now.Add(time.Hour).Unix()}), "id-token", "not before"},
		{"another nonce", with(map[string]any{"nonce": "old"}), "nonce", "not for this sign-in"},
		{"no nonce", with(map[string]any{"nonce": nil}), "nonce", "not for this sign-in"},
		{"another access token", with(map[string]any{"at_hash": "AAAA"}), "id-token", "access token"},
		{"nobody", with(map[string]any{"sub": nil}), "id-token", "who you are"},
		{"no role", with(map[string]any{"groups": []string{"others"}}), "no-role", "knows you as ada"},
		{"no groups", with(map[string]any{"groups": nil}), "no-role", "knows you as ada"},
		{"groups of another kind", with(map[string]any{"groups": map[string]any{"devs": true}}), "no-role", "knows you as ada"},

		{"the code was used", status(400, `{"error":"invalid_grant","error_description":"used"}`), "code", "used already"},
		{"wrong secret", status(401, `{"error":"invalid_client"}`), "client", "client id or secret"},
		{"another refusal", status(400, `{"error":"odd","error_description":"<script>"}`), "code", "odd <script>"},
		{"the provider fails", status(502, `the secret`), "provider-unreachable", "try again"},
		{"no ID token", status(200, `{"access_token":"access","token_type":"Bearer"}`), "id-token", "no ID token"},
		{"not JSON", status(200, `nonsense`), "provider-unreachable", "try again"},
		{"endless", func(i *issuer) {
			i.reply = func(w http.ResponseWriter) bool {
				w.Header().Set("Content-Type", "application/json")
				fmt.Fprintf(w, `{"access_token":"%s"}`, strings.Repeat("x", 2<<20))
				return true
			}
		}, "provider-unreachable", "try again"},

		{"userinfo adds", func(i *issuer) {
			with(map[string]any{"groups": nil})(i)
			i.meta, i.userinfo = map[string]any{"userinfo_endpoint": i.URL + "/userinfo"}, map[string]any{"sub": "1", "groups": []string{"devs"}}
		}, "", ""},
		{"userinfo does not overrule", func(i *issuer) {
			with(map[string]any{"groups": []string{"others"}})(i)
			i.meta, i.userinfo = map[string]any{"userinfo_endpoint": i.URL + "/userinfo"}, map[string]any{"sub": "1", "groups": []string{"devs"}}
		}, "no-role", ""},
		{"userinfo of somebody else", func(i *issuer) {
			i.meta, i.userinfo = map[string]any{"userinfo_endpoint": i.URL + "/userinfo"}, map[string]any{"sub": "2"}
		}, "userinfo", "somebody else"},
		{"userinfo fails", func(i *issuer) { i.meta = map[string]any{"userinfo_endpoint": i.URL + "/nowhere"} }, "userinfo", "try again"},
	} {
		t.Run(k.name, func(t *testing.T) {
			i, b := newIssuer(t, c), browser{}
			k.set(i)
			s := newSessions(t, sim.New(c.now).Open(), c)
			o := newOIDC(t, i, s)
			q := b.start(t, i, o)
			v, back, err := b.finish(o, q)
			if k.reason == "" {
				if err != nil || back != "/ui/jobs/j?x=1" || v.Name != "ada" || v.Role != Trigger || b.is(t, s) != "ada" || len(b) != 1 {
					t.Fatalf("%+v, %q, %v, cookies %v", v, back, err, b)
				}
				return
			}
			var se *SignInError
			if !errors.As(err, &se) || se.Reason != k.reason || !strings.Contains(se.Text, k.text) {
				t.Errorf("%v, want %s: %s", err, k.reason, k.text)
			}
			if v != nil || len(b) > 0 || strings.Contains(fmt.Sprint(err), "the secret") {
				t.Errorf("%+v, %v, cookies %v", v, err, b)
			}
		})
	}
}

// TestCallback: what comes back must be the answer to what this browser has
// asked, once and in time.
func TestCallback(t *testing.T) {
	for _, k := range []struct {
		name   string
		reason string
		change func(q url.Values, b browser, c *clock)
	}{
		{"as it should be", "", func(url.Values, browser, *clock) {}},
		{"it names itself", "", func(q url.Values, _ browser, _ *clock) { q.Set("iss", "ISSUER") }},
		{"another browser", "state", func(_ url.Values, b browser, _ *clock) { clear(b) }},
		{"no state", "state", func(q url.Values, _ browser, _ *clock) { q.Del("state") }},
		{"another state", "state", func(q url.Values, _ browser, _ *clock) { q.Set("state", strings.Repeat("A", 26)) }},
		{"a state with another end", "state", func(q url.Values, _ browser, _ *clock) { q.Set("state", q.Get("state")[:20]+"AAAAAA") }},
		{"a state that is none", "state", func(q url.Values, _ browser, _ *clock) { q.Set("state", "x=1; y\r\n") }},
		{"another cookie", "state", func(_ url.Values, b browser, _ *clock) {
			for _, c := range b {
				c.Value = "made.up"
			}
		}},
		{"late", "expired", func(_ url.Values, _ browser, c *clock) { c.after(signInTime + time.Second) }},
		{"another provider", "issuer", func(q url.Values, _ browser, _ *clock) { q.Set("iss", "https://evil.example") }},
		{"the provider says no", "refused-by-provider", func(q url.Values, _ browser, _ *clock) {
			q.Del("code")
			q.Set("error", "access_denied")
			q.Set("error_description", "not\r\nyou")
		}},
		{"somebody else says no", "state", func(q url.Values, _ browser, _ *clock) {
			q.Set("error", "call this number")
			q.Del("state")
		}},
	} {
		t.Run(k.name, func(t *testing.T) {
			c, b := newClock(), browser{}
			i := newIssuer(t, c)
			s := newSessions(t, sim.New(c.now).Open(), c)
			o := newOIDC(t, i, s)
			q := b.start(t, i, o)
			copied := browser{}
			for n, v := range b {
				copied[n] = v
			}
			k.change(q, b, c)
			if q.Get("iss") == "ISSUER" {
				q.Set("iss", i.URL)
			}
			_, _, err := b.finish(o, q)
			var se *SignInError
			if k.reason == "" {
				if err != nil || b.is(t, s) != "ada" {
					t.Fatal(err)
				}
				// The browser has forgotten it.
				if _, _, err := b.finish(o, q); !errors.As(err, &se) || se.Reason != "state" {
					t.Errorf("again: %v", err)
				}
				return
			}
			if !errors.As(err, &se) || se.Reason != k.reason || b.is(t, s) != "" {
				t.Errorf("%v", err)
			}
			if strings.ContainsAny(se.Text, "\r\n") || strings.Contains(se.Text, "number") {
				t.Errorf("the text is %q", se.Text)
			}
		})
	}
}

// TestIssRequired: a provider that says that it names itself must do so.
func TestIssRequired(t *testing.T) {
	c, b := newClock(), browser{}
	i := newIssuer(t, c)
	i.meta = map[string]any{"authorization_response_iss_parameter_supported": true}
	o := newOIDC(t, i, newSessions(t, sim.New(c.now).Open(), c))
	var se *SignInError
	if _, _, err := b.finish(o, b.start(t, i, o)); !errors.As(err, &se) || se.Reason != "issuer" {
		t.Errorf("%v", err)
	}
}

// TestTabs: several tabs sign in at once, at any frontend; those that are left
// do not fill the browser.
func TestTabs(t *testing.T) {
	c, b := newClock(), browser{}
	i, st := newIssuer(t, c), sim.New(c.now).Open()
	one, two := newOIDC(t, i, newSessions(t, st, c)), newOIDC(t, i, newSessions(t, st, c))
	first := b.start(t, i, one)
	nonce, challenge := i.nonce, i.challenge
	second := b.start(t, i, two)
	if _, _, err := b.finish(one, second); err != nil {
		t.Error(err)
	}
	i.nonce, i.challenge = nonce, challenge
	if _, _, err := b.finish(two, first); err != nil {
		t.Error(err)
	}
	for range 50 {
		b.start(t, i, one)
	}
	if len(b) > signInsMost+2 {
		t.Errorf("the browser has %d cookies", len(b))
	}
}

// TestProviderDown: a provider that is away when a frontend starts is used as
// soon as it is there.
func TestProviderDown(t *testing.T) {
	c, b := newClock(), browser{}
	i := newIssuer(t, c)
	there, asked := false, 0
	h := i.Config.Handler
	i.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if !there {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		h.ServeHTTP(w, r)
	})
	o := newOIDC(t, i, newSessions(t, sim.New(c.now).Open(), c))
	for range 3 {
		_, err := o.Start(httptest.NewRecorder(), b.request("GET", "/"), "/ui/")
		var se *SignInError
		if !errors.As(err, &se) || se.Reason != "provider-unreachable" || !se.Temporary || !strings.Contains(se.Text, i.URL) {
			t.Errorf("%v", err)
		}
	}
	if asked != 1 {
		t.Errorf("it was asked %d times in a moment", asked)
	}
	there = true
	c.after(5 * time.Second)
	if _, _, err := b.finish(o, b.start(t, i, o)); err != nil {
		t.Error(err)
	}
}

// TestDescription: a provider that describes itself as something else is not
// used.
func TestDescription(t *testing.T) {
	for name, meta := range map[string]map[string]any{
		"another issuer":   {"issuer": "https://other.example"},
		"tokens over http": {"token_endpoint": "http://provider.example/token"},
		"no endpoints":     {"authorization_endpoint": ""},
	} {
		c := newClock()
		i := newIssuer(t, c)
		i.meta = meta
		if err := newOIDC(t, i, newSessions(t, sim.New(c.now).Open(), c)).Discover(t.Context()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	s := newSessions(t, sim.New(time.Now).Open(), newClock())
	for _, k := range []OIDCOptions{
		{Issuer: "http://provider.example", ClientID: "x"}, {Issuer: "https://provider.example?", ClientID: "x"}, {Issuer: "nonsense", ClientID: "x"}, {Issuer: "", ClientID: "x"}, {Issuer: "https://provider.example", ClientID: ""},
	} {
		k.Sessions, k.Rules = s, devs
		if _, err := NewOIDC(k); fault.Of(err) != fault.Config {
			t.Errorf("%+v: %v", k, err)
		}
	}
}

// returns are paths and whether a browser may be sent there.
var returns = map[string]bool{
	"/ui": true, "/ui/": true, "/ui/jobs/a": true, "/ui/jobs/a?q=x&y=//evil": true, "/ui/jobs/a%20b": true,
	"": false, "/": false, "/uix": false, "/jobs": false, "ui/": false, "//evil.example/ui/": false, "///evil": false, "/\\evil": false, "\\\\evil": false,
	"https://evil.example/ui/": false, "https:/ui/": false, "https:ui": false, "javascript:alert(1)": false, "/ui/../..//evil": false, "/ui/..": false, "/ui//evil": false,
	"/ui/\\evil": false, "/ui/%5cevil": false, "/ui/%2e%2e/": false, "/ui/\tx": false, "/ui/\r\nSet-Cookie: x=1": false, "/ui/%0d%0ax": false, "/ui/ x": false,
	"/ui/#x": false, "/ui/sign-in": false, "/ui/sign-in?return=/ui/": false, "/ui/sign-out": false, "/UI/": false, "/ui/é": false,
	"/ui/" + strings.Repeat("x", 3000): false, "@evil/ui/": false, "/ui@evil": false, "/%75i/": true,
}

func TestCheckReturn(t *testing.T) {
	for s, want := range returns {
		if err := CheckReturn(s); (err == nil) != want || err != nil && fault.Of(err) != fault.Usage {
			t.Errorf("%q: %v", s, err)
		}
	}
	c, b := newClock(), browser{}
	o := newOIDC(t, newIssuer(t, c), newSessions(t, sim.New(c.now).Open(), c))
	if _, err := o.Start(httptest.NewRecorder(), b.request("GET", "/"), "//evil.example"); err == nil {
		t.Error("a sign-in begins that leads elsewhere")
	}
}

// FuzzCheckReturn: what is accepted leads to a page of ours, however a browser
// reads it.
func FuzzCheckReturn(f *testing.F) {
	for s := range returns {
		f.Add(s)
	}
	base, err := url.Parse(site + CallbackPath)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if CheckReturn(s) != nil {
			return
		}
		// A browser drops tabs and line ends, trims blanks, and takes \ for /.
		seen := strings.Trim(strings.NewReplacer("\t", "", "\n", "", "\r", "", "\\", "/").Replace(s), " \x00")
		u, err := base.Parse(seen)
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if u.Scheme != "https" || u.Host != "ci.example.org" || u.Path != "/ui" && !strings.HasPrefix(u.Path, "/ui/") || strings.HasPrefix(s, "//") {
			t.Fatalf("%q leads to %s", s, u)
		}
	})
}

// TestRules: the first rule that fits gives the role, and others of the same
// role their jobs.
func TestRules(t *testing.T) {
	rules, err := ParseRules([]byte(`{"roles": [
		{"claim": "groups", "value": "admins", "role": "admin"},
		{"claim": "groups", "value": "web", "role": "trigger", "jobs": ["web-*"]},
		{"claim": "groups", "value": "db", "role": "trigger", "jobs": ["db"]},
		{"claim": "groups", "value": "all", "role": "trigger"},
		{"claim": "realm_access.roles", "value": "/ci/*", "role": "worker"},
		{"claim": "https://example.org/roles.of", "value": "x", "role": "worker"},
		{"claim": "email", "value": "*@example.org", "role": "read"},
		{"claim": "level", "value": "12345678901234567890", "role": "read"},
		{"claim": "staff", "value": "true", "role": "read"}
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	for claims, want := range map[string]string{
		`{}`: "", `{"groups": []}`: "", `{"groups": null}`: "", `{"groups": "Admins"}`: "", `{"groups": ["xadmins", "adminsx"]}`: "",
		`{"groups": "admins"}`:                                       "admin []",
		`{"groups": ["web", "admins"]}`:                              "admin []",
		`{"groups": ["web"]}`:                                        "trigger [web-*]",
		`{"groups": ["db", "web"]}`:                                  "trigger [web-* db]",
		`{"groups": ["db", "all"]}`:                                  "trigger []",
		`{"groups": [["admins"], {"x": "admins"}]}`:                  "",
		`{"groups": ["web"], "staff": true}`:                         "trigger [web-*]",
		`{"realm_access": {"roles": ["/ci/a/b"]}}`:                   "worker []",
		`{"realm_access": {"roles": ["/cix"]}}`:                      "",
		`{"realm_access": "/ci/a", "realm_access.roles": "/ci/a"}`:   "worker []",
		`{"https://example.org/roles.of": ["x"]}`:                    "worker []",
		`{"email": "a@example.org"}`:                                 "",
		`{"email": "a@example.org", "email_verified": false}`:        "",
		`{"email": "a@example.org", "email_verified": "no"}`:         "",
		`{"email": "a@example.org", "email_verified": true}`:         "read []",
		`{"email": "a@example.org", "email_verified": "true"}`:       "read []",
		`{"email": "a@example.org.evil", "email_verified": true}`:    "",
		`{"level": 12345678901234567890}`:                            "read []",
		`{"staff": true}`:                                            "read []",
		`{"staff": false}`:                                           "",
		`{"realm_access": {"roles": {"roles": "/ci/a"}}, "staff":1}`: "",
	} {
		var c Claims
		if err := json.Unmarshal([]byte(claims), &c); err != nil {
			t.Fatal(err)
		}
		role, jobs, ok := rules.Match(c)
		got := fmt.Sprint(role, " ", jobs)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%s: %s, %v, want %q", claims, got, ok, want)
		}
	}
}

func TestNameOf(t *testing.T) {
	for claims, want := range map[string]string{
		`{"sub": "1"}`: "1", `{"sub": "1", "preferred_username": "ada"}`: "ada",
		`{"sub": "1", "email": "a@x", "email_verified": true}`:                   "a@x",
		`{"sub": "1", "email": "a@x"}`:                                           "1",
		`{"sub": "1", "preferred_username": "a\nb"}`:                             "1",
		`{"sub": "1", "preferred_username": "\u202eada"}`:                        "1",
		`{"sub": "1", "preferred_username": "` + strings.Repeat("x", 300) + `"}`: "1",
		`{"sub": "\u0007"}`: "somebody",
	} {
		var c Claims
		if err := json.Unmarshal([]byte(claims), &c); err != nil {
			t.Fatal(err)
		}
		if got := (&Rules{}).NameOf(c); got != want {
			t.Errorf("%s: %q", claims, got)
		}
	}
	if got := (&Rules{Name: "login"}).NameOf(Claims{"sub": []byte(`"1"`), "login": []byte(`"ada"`)}); got != "ada" {
		t.Error(got)
	}
}

// TestExamples: the files that people begin with.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/sign-in/*.json")
	if err != nil || len(files) < 5 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		if _, err := ReadRules(file); err != nil {
			t.Error(err)
		}
	}
	gitlab, err := ReadRules("../../examples/sign-in/gitlab.json")
	if err != nil {
		t.Fatal(err)
	}
	role, _, _ := gitlab.Match(Claims{"https://gitlab.org/claims/groups/owner": []byte(`["example"]`)})
	if role != Admin {
		t.Errorf("an owner is %q", role)
	}
}

// TestBadRules: errors name the place.
func TestBadRules(t *testing.T) {
	for text, want := range map[string]string{
		``: "EOF", `[]`: "cannot unmarshal", `{}`: "none", `{"roles": []}`: "none", `{"rules": []}`: "rules",
		`{"roles": [{"claim": "g", "value": "v", "role": "admin"}]} x`:                 "behind",
		`{"roles": [{"claim": "g", "value": "v", "role": "boss"}]}`:                    "roles[0]",
		`{"roles": [{"claim": "g", "value": "", "role": "admin"}]}`:                    "roles[0]",
		`{"roles": [{"claim": "", "value": "v", "role": "admin"}]}`:                    "roles[0]",
		`{"roles": [{"claim": "g", "value": "v", "role": "public"}]}`:                  "roles[0]",
		`{"roles": [{"claim": "g", "value": "v", "role": "read", "jobs": ["["]}]}`:     "roles[0]",
		`{"roles": [{"claim": "g", "value": "v", "role": "read", "job": "x"}]}`:        "job",
		`{"scopes": ["a b"], "roles": [{"claim": "g", "value": "v", "role": "read"}]}`: "scopes",
	} {
		if _, err := ParseRules([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := ReadRules("/nowhere/rules"); fault.Of(err) != fault.Config || !strings.Contains(err.Error(), "/nowhere/rules") {
		t.Errorf("%v", err)
	}
}

// FuzzClaims: whatever a provider says, rules fit it or not, the same each
// time, and leave it as it is; a name can be printed.
func FuzzClaims(f *testing.F) {
	for _, s := range []string{`{}`, `{"groups": ["web", "db"]}`, `{"groups": [["web"], null, {"a": 1}, 1e400, "db"]}`, `{"a": {"b": {"c": ["x"]}}}`, `{"a.b": {"c": "x"}}`,
		`{"email": "a@x", "email_verified": "TRUE"}`, `{"email": ["a@x", "b@x"], "email_verified": true}`, `{"sub": "\u202e\u0000"}`, `{"groups": [`, `null`, `{"": ""}`} {
		f.Add(s)
	}
	rules := &Rules{Roles: []Rule{
		{Claim: "groups", Value: "web", Role: Trigger, Jobs: []string{"web"}}, {Claim: "groups", Value: "d*", Role: Trigger, Jobs: []string{"db"}},
		{Claim: "a.b.c", Value: "x", Role: Admin}, {Claim: "email", Value: "*", Role: Read}, {Claim: ".", Value: "*", Role: Read}, {Claim: "", Value: "*", Role: Read},
	}}
	f.Fuzz(func(t *testing.T, text string) {
		var c, again Claims
		if json.Unmarshal([]byte(text), &c) != nil {
			return
		}
		role, jobs, ok := rules.Match(c)
		if ok != (role != "") || role == Admin && len(jobs) > 0 {
			t.Errorf("%q %v %v", role, jobs, ok)
		}
		json.Unmarshal([]byte(text), &again)
		if !reflect.DeepEqual(c, again) {
			t.Errorf("%s has become %s", again, c)
		}
		if r, j, _ := rules.Match(c); r != role || !slices.Equal(j, jobs) {
			t.Errorf("%q %v, then %q %v", role, jobs, r, j)
		}
		if name := rules.NameOf(c); name == "" || len(name) > 256 || strings.ContainsFunc(name, func(c rune) bool { return !unicode.IsPrint(c) }) {
			t.Errorf("the name is %q", name)
		}
		if c.emailVerified() != again.emailVerified() {
			t.Error("verified once")
		}
	})
}
