package zk

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/distci/distci/lib/fault"
)

// Address says where a cluster is.
type Address struct {
	Servers []string // host:port of each server of the ensemble
	Path    string   // "/CLUSTER-ID", or below another folder "/x/CLUSTER-ID"

	AuthFile string // holds "user:password", for ZooKeeper's digest authentication; "": none
	CAFile   string // PEM certificates by which the servers are known; "": no TLS
	CertFile string // PEM certificate of this client, and its key; "": none
	KeyFile  string
}

const (
	scheme      = "zk://"
	form        = scheme + "host:port,host:port/CLUSTER-ID"
	defaultPort = "2181"
	tlsPort     = "2281"
)

var hostName = regexp.MustCompile(`^[A-Za-z0-9._:-]+$`)

var clusterID = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)

// ParseAddress reads zk://h1:2181,h2:2181/CLUSTER-ID, which may be followed by
// ?auth=FILE&ca=FILE&cert=FILE&key=FILE. Errors are of kind fault.Config.
func ParseAddress(s string) (Address, error) {
	wrong := func(format string, args ...any) (Address, error) {
		return Address{}, fault.Errorf(fault.Config, "coordination %q: "+format, append([]any{s}, args...)...)
	}
	if strings.Contains(s, "@") { // not to be repeated in an error
		return Address{}, fault.Errorf(fault.Config, "coordination: credentials do not belong into its URL; expected %s?auth=FILE", form)
	}
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return wrong("expected %s", form)
	}
	rest, query, _ := strings.Cut(rest, "?")
	hosts, path, _ := strings.Cut(rest, "/")
	a := Address{Path: "/" + path}
	options, err := url.ParseQuery(query)
	if err != nil {
		return wrong("%w", err)
	}
	known := map[string]*string{"auth": &a.AuthFile, "ca": &a.CAFile, "cert": &a.CertFile, "key": &a.KeyFile}
	for key, values := range options {
		field := known[key]
		if field == nil {
			return wrong("unknown option %q; there are auth, ca, cert and key, each with a file", key)
		}
		if len(values) > 1 || values[0] == "" {
			return wrong("option %q: expected one file", key)
		}
		*field = values[0]
	}
	if (a.CertFile == "") != (a.KeyFile == "") || a.CertFile != "" && a.CAFile == "" {
		return wrong("TLS needs ca, and with a client certificate both cert and key")
	}
	for host := range strings.SplitSeq(hosts, ",") {
		server, err := a.server(host)
		if err != nil {
			return wrong("server %q: %w; expected %s", host, err, form)
		}
		if slices.Contains(a.Servers, server) {
			return wrong("server %q is there twice", host)
		}
		a.Servers = append(a.Servers, server)
	}
	if path == "" {
		return wrong("which cluster? expected %s", form)
	}
	for part := range strings.SplitSeq(path, "/") {
		if len(part) > 128 || !clusterID.MatchString(part) {
			return wrong("cluster id %q: expected 1 to 128 of A–Z a–z 0–9 _ - . in each part, and no dot in front", part)
		}
	}
	if path == "zookeeper" || strings.HasPrefix(path, "zookeeper/") {
		return wrong("/zookeeper is ZooKeeper's own")
	}
	return a, nil
}

// server completes a host with its port.
func (a Address) server(s string) (string, error) {
	port := defaultPort
	if a.CAFile != "" {
		port = tlsPort
	}
	host, p, err := net.SplitHostPort(s)
	switch {
	case err == nil:
		port = p
	case !strings.Contains(s, ":"):
		host = s
	case strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]"):
		host = s[1 : len(s)-1]
	default:
		return "", err
	}
	if !hostName.MatchString(host) {
		return "", fault.Errorf(fault.Config, "%q is not a host", host)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", fault.Errorf(fault.Config, "%q is not a port", port)
	}
	return net.JoinHostPort(host, port), nil
}

// String is the address as ParseAddress reads it, without the options.
func (a Address) String() string { return scheme + strings.Join(a.Servers, ",") + a.Path }

// tls is the configuration of TLS; nil for none.
func (a Address) tls() (*tls.Config, error) {
	if a.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(a.CAFile)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "coordination: ca: %w", err)
	}
	c := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fault.Errorf(fault.Config, "coordination: ca: %s holds no PEM certificate", a.CAFile)
	}
	if a.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(a.CertFile, a.KeyFile)
		if err != nil {
			return nil, fault.Errorf(fault.Config, "coordination: cert %s, key %s: %w", a.CertFile, a.KeyFile, err)
		}
		c.Certificates = []tls.Certificate{cert}
	}
	return c, nil
}

// credentials reads the user and the password; "" if there are none.
func (a Address) credentials() (user, password string, err error) {
	if a.AuthFile == "" {
		return "", "", nil
	}
	b, err := os.ReadFile(a.AuthFile)
	if err != nil {
		return "", "", fault.Errorf(fault.Config, "coordination: auth: %w", err)
	}
	user, password, ok := strings.Cut(strings.TrimRight(string(b), "\r\n"), ":")
	if !ok || user == "" || password == "" || strings.ContainsAny(password, "\r\n") {
		return "", "", fault.Errorf(fault.Config, "coordination: auth: %s: expected one line, user:password", a.AuthFile)
	}
	return user, password, nil
}
