package client

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"os"
	"strings"
	"syscall"

	"github.com/distci/distci/lib/fault"
)

const maxToken = 4096 // bytes of its file

// readToken reads a token, which is never shown in an error.
func readToken(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", fault.Errorf(fault.Config, "client: token: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fault.Errorf(fault.Config, "client: token: %w", err)
	}
	if !private(info) {
		return "", fault.Errorf(fault.Config, "client: token: %s can be read by others (mode %04o); say: chmod 600 %s", name, info.Mode().Perm(), name)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
	if err != nil {
		return "", fault.Errorf(fault.Config, "client: token: %w", err)
	}
	token := strings.TrimSpace(string(b))
	switch {
	case token == "":
		return "", fault.Errorf(fault.Config, "client: token: %s is empty", name)
	case len(b) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fault.Errorf(fault.Config, "client: token: %s does not hold one line of visible ASCII characters", name)
	}
	return token, nil
}

// private tells whether a file is for its owner alone. What root gives to a
// group, as service managers do with credentials, is for those whom he means.
func private(info os.FileInfo) bool {
	perm := info.Mode().Perm()
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid == 0 && perm&0o027 == 0 {
		return true
	}
	return perm&0o077 == 0
}

// tlsConfig is how to be sure of the server, and how to show who we are.
func tlsConfig(o Options) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fault.Errorf(fault.Config, "client: certificate authority: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fault.Errorf(fault.Config, "client: certificate authority: there is no certificate in %s", o.CAFile)
		}
	}
	if (o.CertFile == "") != (o.KeyFile == "") {
		return nil, fault.Errorf(fault.Config, "client: a certificate and its key go together: one of them was given")
	}
	if o.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, fault.Errorf(fault.Config, "client: certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}
