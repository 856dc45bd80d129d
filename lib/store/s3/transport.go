package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"

	"github.com/distci/distci/lib/fault"
)

// transport makes the HTTP requests.
type transport struct {
	base   *http.Transport
	creds  *credentials.Credentials
	region string
	bare   atomic.Bool  // the server wants ETags in If-Match without quotes
	skew   atomic.Int64 // the server's clock less ours, ns
}

func newTransport(a Address, creds *credentials.Credentials) (*transport, error) {
	roots, err := a.roots()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: min(a.Timeout, 10*time.Second)}
	return &transport{
		creds:  creds,
		region: a.Region,
		base: &http.Transport{
			Proxy: http.ProxyFromEnvironment,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := dialer.DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &conn{c, a.Timeout}, nil
			},
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout: min(a.Timeout, 10*time.Second),
			MaxIdleConnsPerHost: 64,
			// Shorter than servers keep them: a put that meets a closed
			// connection has an unknown outcome.
			IdleConnTimeout:    5 * time.Second,
			DisableCompression: true,
		},
	}, nil
}

// roots are the authorities that the URL's "ca" names; nil: the system's.
func (a Address) roots() (*x509.CertPool, error) {
	if a.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(a.CAFile)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "store: ca: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fault.Errorf(fault.Config, "store: ca: no certificate in %s", a.CAFile)
	}
	return pool, nil
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if match := r.Header.Get("If-Match"); match != "" && t.bare.Load() {
		// Ceph's gateway, up to some version, compares what stands here with
		// the bare ETag. The signature covers it, so it is made again.
		v, err := t.creds.GetWithContext(nil)
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Header.Set("If-Match", strings.Trim(match, `"`))
		r.Header.Del("Authorization")
		r = signer.SignV4(*r, v.AccessKeyID, v.SecretAccessKey, v.SessionToken, t.region)
	}
	resp, err := t.base.RoundTrip(r)
	if err == nil {
		if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
			t.skew.Store(int64(time.Until(date)))
		}
	}
	return resp, err
}

// now is the time by the server's clock, in whole seconds.
func (t *transport) now() time.Time {
	return time.Now().Add(time.Duration(t.skew.Load())).UTC().Truncate(time.Second)
}

// conn is a connection that fails when nothing moves for some time, whatever
// it is that waits: to send, for an answer, or for its next bytes.
type conn struct {
	net.Conn
	timeout time.Duration
}

func (c *conn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	quickAck(c.Conn)
	return c.Conn.Read(p)
}

// Write moves the deadline of a Read too: it waits for the answer to what is
// written here.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.SetDeadline(time.Now().Add(c.timeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}
