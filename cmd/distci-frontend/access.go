package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// door is who may come in, as the flags say it.
type door struct {
	insecure     bool
	requireToken bool
	anonymous    string
	cert, key    string
	clientCA     string
	clientRoles  []string
	proxies      []string
	rate         float64
	connections  int
	signIn       bool // people can sign in

	rules   access.Certificates
	trusted *api.Proxies
}

// newDoor declares the flags.
func newDoor(fs *pflag.FlagSet) *door {
	d := &door{}
	fs.BoolVar(&d.insecure, "insecure", false, "serve at an address that others can reach, although everybody may do everything")
	fs.BoolVar(&d.requireToken, "require-token", false, "let nobody do anything who does not show who he is; see distci-buildctl token")
	fs.StringVar(&d.anonymous, "anonymous", "", "the `ROLE` of those who do not show who they are: read")
	fs.StringVar(&d.cert, "tls-cert", "", "serve with TLS, with the certificates in `FILE`; read again when it changes")
	fs.StringVar(&d.key, "tls-key", "", "the certificate's private key is in `FILE`")
	fs.StringVar(&d.clientCA, "client-ca", "", "believe the client certificates of the authorities in `FILE`")
	fs.StringArrayVar(&d.clientRoles, "client-role", nil, "the role of client certificates: `NAME=ROLE` or NAME=ROLE:JOBS; may be repeated, the first that fits counts")
	fs.StringArrayVar(&d.proxies, "trusted-proxy", nil, "believe X-Forwarded-For of proxies in `NETWORK`, such as 10.0.0.0/8, or \"unix\"; may be repeated")
	fs.Float64Var(&d.rate, "rate-limit", 200, "take at most `N` requests a second from one token, or one address without; 0: any number")
	fs.IntVar(&d.connections, "max-connections", 1000, "take at most `N` connections at a time from one address; 0: any number")
	return d
}

// check reads the flags that are more than text.
func (d *door) check(address string) error {
	usage := func(format string, args ...any) error { return fault.Errorf(fault.Usage, format, args...) }
	switch {
	case d.insecure && d.controlled():
		return usage("--insecure lets everybody do everything: it goes with none of --require-token, --anonymous, --client-ca and sign-in")
	case d.anonymous != "" && d.anonymous != string(access.Read):
		return usage("--anonymous %q: expected read", d.anonymous)
	case (d.cert == "") != (d.key == ""):
		return usage("--tls-cert and --tls-key go together")
	case d.clientCA != "" && d.cert == "":
		return usage("--client-ca: certificates of clients need TLS: --tls-cert and --tls-key")
	case (d.clientCA == "") != (len(d.clientRoles) == 0):
		return usage("--client-ca and --client-role go together: a certificate has the role that its name gives it")
	case d.cert != "" && strings.HasPrefix(address, "unix:"):
		return usage("--tls-cert: a socket has no TLS")
	case d.rate < 0 || d.connections < 0:
		return usage("--rate-limit, --max-connections: expected 0 or more")
	}
	for _, s := range d.clientRoles {
		rule, err := access.ParseCertificateRule(s)
		if err != nil {
			return usage("--client-role %w", err)
		}
		d.rules = append(d.rules, rule)
	}
	if len(d.proxies) > 0 {
		d.trusted = &api.Proxies{}
	}
	for _, s := range d.proxies {
		if s == "unix" {
			d.trusted.Socket = true
			continue
		}
		n, err := netip.ParsePrefix(s)
		if a, e := netip.ParseAddr(s); e == nil {
			n, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return usage("--trusted-proxy %q: expected a network such as 10.0.0.0/8, an address, or unix", s)
		}
		d.trusted.Networks = append(d.trusted.Networks, n)
	}
	return nil
}

// controlled tells whether the flags ask who somebody is.
func (d *door) controlled() bool {
	return d.requireToken || d.anonymous != "" || d.clientCA != "" || d.signIn
}

// chain is how requests at l are known. Those with a session, if people can
// sign in, are in more. Where nobody is asked who he is, everybody may do
// everything who can reach the address: with --insecure anybody, else this
// machine alone.
func (d *door) chain(l net.Listener, st store.Store, log *slog.Logger, more ...access.Authenticator) access.Authenticator {
	c := access.Chain{access.NewTokens(st, log)}
	c = append(c, more...)
	if d.clientCA != "" {
		c = append(c, d.rules)
	}
	switch {
	case d.controlled():
		c = append(c, access.Everybody(access.Anonymous(access.Role(d.anonymous))))
	case d.insecure || l.Addr().Network() == "unix":
		c = append(c, access.Everybody(access.Local()))
	default:
		c = append(c, access.OnlyLocal())
	}
	return c
}

// limits are those of the rate, if there are any.
func (d *door) limits() *api.Limits {
	if d.rate == 0 {
		return nil
	}
	return api.NewLimits(d.rate)
}

// serve returns what serves at l until that is closed, with TLS if it is asked
// for.
func (d *door) serve(srv *http.Server, l net.Listener, log *slog.Logger) (func() error, error) {
	if d.cert == "" {
		if ip, ok := l.Addr().(*net.TCPAddr); ok && !ip.IP.IsLoopback() && !d.insecure {
			log.Warn("tokens come here in the clear: there should be --tls-cert, or a proxy with TLS in front that nobody can go round")
		}
		return func() error { return srv.Serve(l) }, nil
	}
	c, err := newCertificates(d.cert, d.key, d.clientCA, log)
	if err != nil {
		return nil, err
	}
	srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: c.current}
	return func() error { return srv.ServeTLS(l, "", "") }, nil
}

// closeAudit writes what there is still to write of the audit log.
func closeAudit(a *access.Audit) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return a.Close(ctx)
}
