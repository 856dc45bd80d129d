package main

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/distci/distci/lib/fault"
)

// certificates is the configuration of TLS out of files, which is read again
// when they change: a certificate is renewed without a restart.
type certificates struct {
	cert, key, ca string
	log           *slog.Logger

	mu     sync.Mutex
	looked time.Time
	seen   [3]stamp
	config *tls.Config
}

// stamp tells whether a file is another one than before.
type stamp struct {
	size int64
	time time.Time
}

// lookInterval is how often at most the files are looked at.
const lookInterval = time.Second

// newCertificates reads the files. Errors are of kind Config.
func newCertificates(cert, key, ca string, log *slog.Logger) (*certificates, error) {
	c := &certificates{cert: cert, key: key, ca: ca, log: log}
	c.seen, c.looked = c.stamps(), time.Now()
	var err error
	c.config, err = c.read()
	return c, err
}

func (c *certificates) stamps() (s [3]stamp) {
	for i, name := range []string{c.cert, c.key, c.ca} {
		if info, err := os.Stat(name); err == nil {
			s[i] = stamp{info.Size(), info.ModTime()}
		}
	}
	return s
}

func (c *certificates) read() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "--tls-cert, --tls-key: %w", err)
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{pair},
	}
	if c.ca == "" {
		return config, nil
	}
	pem, err := os.ReadFile(c.ca)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "--client-ca: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fault.Errorf(fault.Config, "--client-ca %s: there is no certificate in it", c.ca)
	}
	// Who has none may have a token or sign in.
	config.ClientAuth = tls.VerifyClientCertIfGiven
	return config, nil
}

// current is the configuration for a new connection. Files that cannot be used
// change nothing: they may be about to be replaced, one after the other.
func (c *certificates) current(*tls.ClientHelloInfo) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < lookInterval {
		return c.config, nil
	}
	c.looked = time.Now()
	now := c.stamps()
	if now == c.seen {
		return c.config, nil
	}
	c.seen = now
	config, err := c.read()
	if err != nil {
		c.log.Warn("the certificates have changed and cannot be used; those before are used on", "error", err)
		return c.config, nil
	}
	c.log.Info("the certificates were read again")
	c.config = config
	return c.config, nil
}
