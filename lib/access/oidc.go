package access

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/distci/distci/lib/fault"
)

// OIDCOptions is what NewOIDC needs.
type OIDCOptions struct {
	Issuer   string // the provider's URL, as it writes it itself
	ClientID string
	Secret   string // "": a public client
	Rules    *Rules
	Sessions *Sessions
	Client   *http.Client // for requests to the provider; nil: one of our own
}

// OIDC lets people sign in at an OpenID Connect provider, by the authorization
// code flow with PKCE. What it has to remember meanwhile is in a sealed cookie,
// so that the person may come back to another frontend.
type OIDC struct {
	OIDCOptions

	mu     sync.Mutex
	found  *provider
	failed error     // of the last attempt to find the provider
	next   time.Time // not before then is there another
}

// provider is what the provider says of itself.
type provider struct {
	*oidc.Provider
	oauth2  oauth2.Config
	saysIss bool // it names itself in what it sends by the browser (RFC 9207)
}

// CallbackPath is where the provider sends people back to.
const CallbackPath = "/ui/sign-in/callback"

// NewOIDC checks the options. The provider need not be there yet. Errors are of
// kind Config.
func NewOIDC(o OIDCOptions) (*OIDC, error) {
	for _, u := range []string{o.Issuer, o.Sessions.Origin()} {
		if err := checkURL(u); err != nil {
			return nil, err
		}
	}
	if o.ClientID == "" {
		return nil, fault.Errorf(fault.Config, "sign-in needs the id of a client")
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: 10 * time.Second}
	}
	client := *o.Client // it may be somebody else's as well
	client.Transport = bounded{client.Transport}
	o.Client = &client
	return &OIDC{OIDCOptions: o}, nil
}

// checkURL refuses to carry tokens and cookies in the open.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || strings.ContainsAny(s, "?#") {
		return fault.Errorf(fault.Config, "%.300q: expected https://…", s)
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "http" && u.Hostname() != "localhost" && !ip.IsLoopback() {
		return fault.Errorf(fault.Config, "%s: http would show everybody on the way what signs people in; use https", s)
	}
	return nil
}

// bounded bounds the provider's replies.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	t := b.RoundTripper
	if t == nil {
		t = http.DefaultTransport
	}
	resp, err := t.RoundTrip(r)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, 1<<20)
	}
	return resp, err
}

// Discover finds the provider, unless it was found already; for who wants to
// know early.
func (o *OIDC) Discover(ctx context.Context) error {
	_, err := o.provider(ctx)
	return err
}

// provider finds the provider. While it is not there it is looked for when
// somebody signs in, but not all the time.
func (o *OIDC) provider(ctx context.Context) (*provider, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.found != nil {
		return o.found, nil
	}
	now := o.Sessions.Now()
	if now.Before(o.next) {
		return nil, o.failed
	}
	p, err := o.discover(ctx)
	if err != nil {
		err = &SignInError{Reason: "provider-unreachable", Temporary: true, Err: err,
			Text: "the provider " + o.Issuer + " cannot be reached or does not say what it should; sign-in works again when it does"}
		if ctx.Err() == nil { // else whoever asked has gone, which says nothing
			o.failed, o.next = err, o.Sessions.Now().Add(2*time.Second)
		}
		return nil, err
	}
	o.found = p
	return p, nil
}

func (o *OIDC) discover(ctx context.Context) (*provider, error) {
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, o.Client), o.Issuer)
	if err != nil {
		return nil, err
	}
	var meta struct {
		Auth    []string `json:"token_endpoint_auth_methods_supported"`
		SaysIss bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := found.Claims(&meta); err != nil {
		return nil, err
	}
	endpoint := found.Endpoint()
	for _, u := range []string{endpoint.AuthURL, endpoint.TokenURL} {
		if err := checkURL(strings.SplitN(u, "?", 2)[0]); err != nil {
			return nil, fmt.Errorf("the provider's description: %w", err)
		}
	}
	// Asked for outright: to find it out by trial would use up the code.
	endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if o.Secret == "" || len(meta.Auth) > 0 && !slices.Contains(meta.Auth, "client_secret_basic") {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	scopes := o.Rules.Scopes
	if len(scopes) == 0 {
		scopes = []string{"profile", "email"}
	}
	return &provider{Provider: found, saysIss: meta.SaysIss, oauth2: oauth2.Config{
		ClientID: o.ClientID, ClientSecret: o.Secret, Endpoint: endpoint,
		RedirectURL: o.Sessions.Origin() + CallbackPath,
		Scopes:      append([]string{oidc.ScopeOpenID}, slices.DeleteFunc(slices.Clone(scopes), func(s string) bool { return s == oidc.ScopeOpenID })...),
	}}, nil
}

// begun is what is remembered of a sign-in while the person is at the provider.
type begun struct {
	State    string    `json:"state"`
	Nonce    string    `json:"nonce"`
	Verifier string    `json:"verifier"`
	Return   string    `json:"return"`
	Time     time.Time `json:"time"`
}

const (
	signInCookie = "distci-sign-in-" // and the state's beginning: several tabs sign in at once
	signInTime   = 10 * time.Minute
	signInsMost  = 8 // of a browser at a time
)

// Start begins a sign-in: it returns the provider's URL to which the browser is
// to go. Afterwards it is to come back to the given path, see CheckReturn.
func (o *OIDC) Start(w http.ResponseWriter, r *http.Request, back string) (string, error) {
	if err := CheckReturn(back); err != nil {
		return "", err
	}
	p, err := o.provider(r.Context())
	if err != nil {
		return "", err
	}
	b := begun{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Return: back, Time: o.Sessions.Now().UTC()}
	name := cookieOf(b.State)
	text, err := o.Sessions.ring.seal(r.Context(), name, b)
	if err != nil {
		return "", err
	}
	// Those that were begun and left would one day fill the browser's header.
	var left []string
	for _, c := range r.Cookies() {
		if n := strings.TrimPrefix(c.Name, o.Sessions.cookieName("")); strings.HasPrefix(n, signInCookie) {
			left = append(left, n)
		}
	}
	if len(left) >= signInsMost {
		for _, n := range left {
			http.SetCookie(w, o.Sessions.cookie(n, "", 0))
		}
	}
	http.SetCookie(w, o.Sessions.cookie(name, text, signInTime))
	return p.oauth2.AuthCodeURL(b.State, oidc.Nonce(b.Nonce), oauth2.S256ChallengeOption(b.Verifier)), nil
}

// cookieOf is the name of the cookie for a sign-in.
func cookieOf(state string) string {
	if len(state) < 8 || strings.ContainsFunc(state, func(c rune) bool { return !(c >= 'A' && c <= 'Z' || c >= '2' && c <= '7') }) {
		return signInCookie + "none"
	}
	return signInCookie + state[:8]
}

// maxReturn leaves room in a cookie.
const maxReturn = 2000

var errReturn = errors.New("not a path under /ui")

// CheckReturn returns an error of kind Usage unless s is a path of one of our
// pages, which may have a query. Anything that a browser could take for an
// address elsewhere is refused, and so are the pages of the sign-in itself.
func CheckReturn(s string) error {
	refuse := fault.Errorf(fault.Usage, "return %.100q: %w", s, errReturn)
	if len(s) > maxReturn || strings.ContainsFunc(s, func(c rune) bool { return c <= ' ' || c > '~' || c == '\\' }) {
		return refuse
	}
	u, err := url.Parse(s)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || u.Opaque != "" || u.Fragment != "" {
		return refuse
	}
	clean := path.Clean(u.Path)
	if strings.HasSuffix(u.Path, "/") && clean != "/" {
		clean += "/"
	}
	// The path must not need to be cleaned, by the browser or by a proxy.
	if clean != u.Path || clean != "/ui" && !strings.HasPrefix(clean, "/ui/") || strings.HasPrefix(clean, "/ui/sign-") ||
		strings.ContainsFunc(clean, func(c rune) bool { return c < ' ' || c == '\\' || c == 0x7f }) {
		return refuse
	}
	return nil
}
