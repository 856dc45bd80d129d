// Package client speaks the REST interface: to a frontend over TCP, to the
// worker of the build on its unix socket, or to a handler in the same process.
//
// Every error has a kind of fault, and is or wraps an [*Error] if the server
// has answered. What may be repeated without harm is repeated a few times when
// the network or the server fails; see [Client].
package client

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/distci/distci/lib/fault"
)

// Options is what New needs besides the address.
type Options struct {
	TokenFile string // file with a bearer token, for its owner's eyes alone; "": none
	CAFile    string // PEM file with the authorities that are believed; "": the system's
	CertFile  string // PEM file with a certificate to show; "": none
	KeyFile   string // PEM file with its private key
	Name      string // the program, for the server's log; "": "distci"
}

// Client speaks to one server. It may be used by several goroutines.
//
// GET, PUT and DELETE, and those POSTs that are safe to repeat, are tried up
// to four times while there is no answer, or one that says "not now" (429,
// 502, 503, 504). Any other POST is repeated only if no connection could be
// made or it came too often (429), so that it cannot have had an effect.
type Client struct {
	base  *url.URL
	where string // the server, for messages
	http  *http.Client
	slow  *http.Client // for replies that may begin at any time
	token string
	name  string
}

// New returns a client of the server at address: http://host, https://host
// (both may have a path) or unix:/path. It does not connect yet. Errors are of
// kind Config.
func New(address string, o Options) (*Client, error) {
	c := &Client{where: address, name: o.Name}
	if c.name == "" {
		c.name = "distci"
	}
	config, err := tlsConfig(o)
	if err != nil {
		return nil, err
	}
	dialer := &dialer{net.Dialer{Timeout: 10 * time.Second}}
	t := &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         dialer.DialContext,
		TLSClientConfig:     config,
		TLSHandshakeTimeout: 10 * time.Second,
		// Nothing that the server has to do before it answers takes longer.
		ResponseHeaderTimeout: 2 * time.Minute,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConnsPerHost:   16,
		ForceAttemptHTTP2:     true,
		// Ranges and sizes are those of the bytes themselves.
		DisableCompression: true,
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		if path == "" {
			return nil, fault.Errorf(fault.Config, "client: address %q: expected a path after unix:", address)
		}
		t.Proxy = nil
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		c.base = &url.URL{Scheme: "http", Host: "localhost"}
	} else {
		u, err := parse(address)
		if err != nil {
			return nil, err
		}
		c.base = u
	}
	if o.TokenFile != "" {
		token, err := readToken(o.TokenFile)
		if err != nil {
			return nil, err
		}
		c.token = token
	}
	c.http = &http.Client{Transport: t, CheckRedirect: noRedirect}
	t = t.Clone()
	t.ResponseHeaderTimeout = 0
	c.slow = &http.Client{Transport: t, CheckRedirect: noRedirect}
	return c, nil
}

// Over returns a client of a handler in this process. Nothing is bound, and
// nothing is copied but what is said.
func Over(h http.Handler) *Client {
	c := &http.Client{Transport: &local{handler: h}, CheckRedirect: noRedirect}
	return &Client{base: &url.URL{Scheme: "http", Host: "localhost"}, where: "this process", http: c, slow: c, name: "distci"}
}

// Close frees the connections. A handler in this process has returned when
// Close does; the requests must have ended or be canceled.
func (c *Client) Close() {
	c.http.CloseIdleConnections()
	c.slow.CloseIdleConnections()
	if l, ok := c.http.Transport.(*local); ok {
		l.running.Wait()
	}
}

// noRedirect: a request with a body or a token is not sent where the user has
// not sent it.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func parse(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil: // its text might show a password
		return nil, fault.Errorf(fault.Config, "client: the address is not a URL (known: http://host, https://host, unix:/path)")
	case u.User != nil:
		return nil, fault.Errorf(fault.Config, "client: address %s: user and password do not belong there; put a token into a file", u.Redacted())
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fault.Errorf(fault.Config, "client: address %q: unknown scheme (known: http://host, https://host, unix:/path)", address)
	case u.Host == "":
		return nil, fault.Errorf(fault.Config, "client: address %q: no host", address)
	case strings.ContainsAny(address, "?#"):
		return nil, fault.Errorf(fault.Config, "client: address %q: expected no query and no fragment", address)
	}
	return u, nil
}
