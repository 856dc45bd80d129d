package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
)

// storeOf opens the store of a cluster that is in a folder.
func storeOf(t *testing.T, folder string) store.Store {
	t.Helper()
	st, err := dir.Open(filepath.Join(folder, "state", "distci", "store"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	return st
}

// tokenFile makes a token and returns the file that has it.
func tokenFile(t *testing.T, st store.Store, tk access.Token) (access.Token, string) {
	t.Helper()
	tk, token, err := access.NewToken(tk, time.Now())
	if err == nil {
		err = access.CreateToken(t.Context(), st, tk)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err == nil {
		err = os.WriteFile(file, []byte(token+"\n"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tk, file
}

func connect(t *testing.T, url string, o client.Options) *client.Client {
	t.Helper()
	c, err := client.New(url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

var aJob = []byte(`{"job_id":"j","tasks":[]}`)

// TestRequireToken: with a token one gets in and nobody else does, until it is
// revoked; and all of it is in the audit log of the store.
func TestRequireToken(t *testing.T) {
	folder := t.TempDir()
	p, url := serve(t, folder, "--require-token")
	st := storeOf(t, folder)
	tk, file := tokenFile(t, st, access.Token{Name: "ops", Role: access.Admin})
	known, nobody := connect(t, url, client.Options{TokenFile: file}), connect(t, url, client.Options{})
	if err := known.PutJob(t.Context(), "j", aJob); err != nil {
		t.Fatal(err)
	}
	if err := nobody.DeleteJob(t.Context(), "j"); client.Status(err) != 401 || fault.Of(err) != fault.Denied {
		t.Errorf("nobody: %v", err)
	}
	if _, err := nobody.Jobs(t.Context(), "", 0); client.Status(err) != 401 {
		t.Errorf("nobody: %v", err)
	}
	if err := access.RevokeToken(t.Context(), st, tk.ID); err != nil {
		t.Fatal(err)
	}
	p.until(t, "the token is refused", func() bool {
		_, err := known.Jobs(t.Context(), "", 0)
		return client.Status(err) == 401
	})
	p.Process.Signal(syscall.SIGTERM)
	if got := p.status(); got != 0 {
		t.Errorf("status %d: %s", got, p.stderr)
	}
	var records []access.Record
	if err := access.Audits(t.Context(), st, access.Filter{}, func(r access.Record) error { records = append(records, r); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(records) != 2 || records[0].Who != "ops" || records[0].ID != tk.ID || records[0].Outcome != access.Done || records[0].Job != "j" ||
		records[1].Who != "anonymous" || records[1].Method != "DELETE" || records[1].Status != 401 {
		t.Errorf("%+v", records)
	}
	if token, err := os.ReadFile(file); err != nil || strings.Contains(p.stderr.String(), strings.TrimSpace(string(token))) {
		t.Errorf("the log has the token, or %v", err)
	}
}

// TestAnonymous: everybody may look, and a wrong token is not as good as none.
func TestAnonymous(t *testing.T) {
	_, url := serve(t, t.TempDir(), "--anonymous", "read")
	nobody := connect(t, url, client.Options{})
	if _, err := nobody.Jobs(t.Context(), "", 0); err != nil {
		t.Error(err)
	}
	if err := nobody.PutJob(t.Context(), "j", aJob); client.Status(err) != 401 {
		t.Error(err)
	}
}

// TestLocal: at the machine's own address everybody may do everything, and a
// request that was let through by something else is not of this machine.
func TestLocal(t *testing.T) {
	_, url := serve(t, t.TempDir())
	ask := func(host string, header ...string) int {
		req, err := http.NewRequest("GET", url+"/jobs", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		status int
		host   string
		header []string
	}{
		{200, "", nil},
		{200, "localhost:1", nil},
		{401, "ci.example.org", nil},
		{401, "", []string{"X-Forwarded-For", "127.0.0.1"}},
		{401, "", []string{"Authorization", "Bearer distci_nonsense"}},
		{200, "", []string{"Authorization", "Basic eDp5"}}, // a proxy's
	} {
		if got := ask(c.host, c.header...); got != c.status {
			t.Errorf("%q %q: status %d, want %d", c.host, c.header, got, c.status)
		}
	}
	_, url = serve(t, t.TempDir(), "--insecure")
	if got := ask("ci.example.org", "X-Forwarded-For", "203.0.113.9"); got != 200 {
		t.Errorf("--insecure: status %d", got)
	}
}

// TestAccessRefusals: flags that do not go together.
func TestAccessRefusals(t *testing.T) {
	pair := newAuthority(t).issue("localhost")
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tls := " --tls-cert " + pair.cert + " --tls-key " + pair.key
	for _, c := range []struct {
		args   string
		status int
		want   string
	}{
		{"--insecure --require-token", 64, "--insecure"},
		{"--insecure --anonymous read", 64, "--insecure"},
		{"--anonymous admin", 64, "expected read"},
		{"--tls-cert x", 64, "go together"},
		{"--tls-key x", 64, "go together"},
		{"--client-ca x", 64, "need TLS"},
		{"--client-ca x" + tls, 64, "--client-role"},
		{"--client-role a=read" + tls, 64, "--client-ca"},
		{"--client-role a=root --client-ca x" + tls, 64, "expected one of"},
		{"--client-role a=read --client-ca " + empty + tls, 78, "no certificate"},
		{"--client-role a=read --client-ca /none" + tls, 78, "--client-ca"},
		{"--tls-cert /none --tls-key /none", 78, "--tls-cert"},
		{"--tls-cert " + pair.cert + " --tls-key " + pair.cert, 78, "--tls-key"},
		{"--listen unix:/tmp/x" + tls, 64, "socket"},
		{"--trusted-proxy 10.0.0.0/99", 64, "--trusted-proxy"},
		{"--trusted-proxy proxy.example.org", 64, "--trusted-proxy"},
		{"--rate-limit -1", 64, "--rate-limit"},
		{"--max-connections -1", 64, "--max-connections"},
	} {
		p := start(t, t.TempDir(), append([]string{"--listen", "127.0.0.1:0"}, strings.Fields(c.args)...)...)
		if got := p.status(); got != c.status || !strings.Contains(p.stderr.String(), c.want) {
			t.Errorf("%s: status %d, want %d, %q: %s", c.args, got, c.status, c.want, p.stderr)
		}
	}
	// What asks who one is may be reached by others, and says that it should
	// have TLS.
	p := start(t, t.TempDir(), "--listen", ":0", "--require-token")
	p.until(t, "it listens", func() bool { return strings.Contains(p.stderr.String(), "listening on") })
	if !strings.Contains(p.stderr.String(), "in the clear") {
		t.Error(p.stderr)
	}
}

// authority issues certificates for a test.
type authority struct {
	t    *testing.T
	dir  string
	file string // with its own certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	n    int64
}

// files are a certificate and its key.
type files struct{ cert, key string }

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir(), n: 1}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	a.file = a.write("ca", "CERTIFICATE", a.sign(a.cert, &a.key.PublicKey))
	return a
}

func (a *authority) sign(c *x509.Certificate, key any) []byte {
	a.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return der
}

func (a *authority) write(name, typ string, der []byte) string {
	a.t.Helper()
	file := filepath.Join(a.dir, name)
	var b bytes.Buffer
	if err := pem.Encode(&b, &pem.Block{Type: typ, Bytes: der}); err != nil {
		a.t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return file
}

// issue issues a certificate of a name, for servers and clients alike.
func (a *authority) issue(name string) files {
	a.t.Helper()
	a.n++
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der := a.sign(&x509.Certificate{SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}, &key.PublicKey)
	b, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return files{a.write(name+".crt", "CERTIFICATE", der), a.write(name+".key", "EC PRIVATE KEY", b)}
}

// TestMutualTLS: what a certificate's holder may do is what its name gives him.
func TestMutualTLS(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	server := ca.issue("localhost")
	folder := t.TempDir()
	_, url := serve(t, folder, "--tls-cert", server.cert, "--tls-key", server.key, "--client-ca", ca.file,
		"--client-role", "alice=admin", "--client-role", "w-*=worker:web-*", "--client-role", "*.example=read")
	url = strings.Replace(url, "http:", "https:", 1)
	as := func(a *authority, name string) client.Options {
		f := a.issue(name)
		return client.Options{CAFile: ca.file, CertFile: f.cert, KeyFile: f.key}
	}
	alice := connect(t, url, as(ca, "alice"))
	if err := alice.PutJob(t.Context(), "j", aJob); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		name string
		o    client.Options
		want int // for setting a job
		read int // for looking at it
	}{
		{"a reader", as(ca, "a.example"), 403, 200},
		{"a worker for other jobs", as(ca, "w-1"), 403, 404},
		{"a name without a role", as(ca, "bob"), 403, 403},
		{"nobody", client.Options{CAFile: ca.file}, 401, 401},
		{"alice of another authority", as(stranger, "alice"), 0, 0}, // the handshake fails
	} {
		cl := connect(t, url, c.o)
		if err := cl.PutJob(t.Context(), "j", aJob); client.Status(err) != c.want || err == nil {
			t.Errorf("%s: %v", c.name, err)
		}
		_, err := cl.Job(t.Context(), "j")
		if got := client.Status(err); got != c.read && (c.read != 200 || err != nil) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// A token does as well, and counts before the certificate.
	_, file := tokenFile(t, storeOf(t, folder), access.Token{Name: "reader", Role: access.Read})
	o := as(ca, "alice")
	o.TokenFile = file
	if err := connect(t, url, o).PutJob(t.Context(), "j", aJob); client.Status(err) != 403 {
		t.Error(err)
	}
	// The server is believed only if our authority says so.
	if _, err := connect(t, url, client.Options{CAFile: stranger.file}).Jobs(t.Context(), "", 0); fault.Of(err) != fault.Config {
		t.Error(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parse(t, ca.file))
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}}
	resp, err := hc.Get(url + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor != 2 || resp.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%s %v", resp.Proto, resp.Header)
	}
	old := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}}}
	if resp, err := old.Get(url + "/healthz"); err == nil {
		resp.Body.Close()
		t.Error("TLS 1.1 is spoken")
	}
}

func parse(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestReload: a certificate that has changed is used for new connections; one
// that cannot be used is not.
func TestReload(t *testing.T) {
	ca := newAuthority(t)
	f := ca.issue("localhost")
	var log bytes.Buffer
	c, err := newCertificates(f.cert, f.key, "", slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	serial := func() int64 {
		t.Helper()
		config, err := c.current(nil)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(config.Certificates[0].Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		return leaf.SerialNumber.Int64()
	}
	first := serial()
	ca.issue("localhost") // over the same files
	later := time.Now().Add(time.Minute)
	os.Chtimes(f.cert, later, later)
	if serial() != first {
		t.Error("the files were looked at again at once")
	}
	c.looked = time.Time{}
	second := serial()
	if second == first {
		t.Error("the new certificate is not used")
	}
	if err := os.WriteFile(f.key, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c.looked = time.Time{}
		if serial() != second {
			t.Error("a certificate without its key is used")
		}
	}
	if n := strings.Count(log.String(), "cannot be used"); n != 1 {
		t.Errorf("told %d times: %s", n, &log)
	}
}

// TestSlowLoris: connections that say nothing, or a header bit by bit, are
// closed by the server, and meanwhile others are served.
func TestSlowLoris(t *testing.T) {
	t.Parallel()
	_, url := serve(t, t.TempDir())
	var conns []net.Conn
	for i := range 200 {
		c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
		switch i % 3 {
		case 1:
			fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\nX-a: ")
		case 2:
			go func() { // a byte now and then, until the server closes
				fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: localhost\r\n")
				for {
					if _, err := fmt.Fprint(c, "X: y\r\n"); err != nil {
						return
					}
					time.Sleep(200 * time.Millisecond)
				}
			}()
		}
	}
	resp, err := http.Get(url + "/healthz")
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	for i, c := range conns {
		c.SetReadDeadline(time.Now().Add(time.Minute)) // for a test that hangs
		if _, err := io.Copy(io.Discard, c); err != nil && os.IsTimeout(err) {
			t.Fatalf("connection %d is still open", i)
		}
	}
}

// TestFair: an address has so many connections and no more, until one of them
// is closed.
func TestFair(t *testing.T) {
	in := &fakes{c: make(chan net.Conn, 100)}
	l := newFair(in, 2, nil)
	take := func(address string) *fakeConn {
		c := &fakeConn{addr: address}
		in.c <- c
		return c
	}
	accept := func() net.Conn {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	take("192.0.2.1:1")
	first := accept()
	take("192.0.2.1:2")
	accept()
	third := take("192.0.2.1:3")
	take("192.0.2.2:1")
	if c := accept(); c.RemoteAddr().String() != "192.0.2.2:1" || !third.closed {
		t.Errorf("%s was accepted; the third is closed: %v", c.RemoteAddr(), third.closed)
	}
	first.Close()
	first.Close() // counts once
	take("192.0.2.1:4")
	accept()
	fifth := take("192.0.2.1:5")
	for i := range 5 { // this machine is not counted
		take(fmt.Sprintf("127.0.0.1:%d", i+1))
		accept()
	}
	if !fifth.closed {
		t.Error("closing a connection twice counts twice")
	}
	take("[2001:db8::1]:1")
	accept()
	take("[2001:db8::2]:1")
	accept()
	same := take("[2001:db8::3]:1")
	take("[2001:db8:0:1::1]:1")
	if accept(); !same.closed {
		t.Error("a network of IPv6 is more than one address")
	}
}

type fakes struct{ c chan net.Conn }

func (f *fakes) Accept() (net.Conn, error) { return <-f.c, nil }
func (f *fakes) Close() error              { return nil }
func (f *fakes) Addr() net.Addr            { return &net.TCPAddr{} }

type fakeConn struct {
	net.Conn
	addr   string
	closed bool
}

func (c *fakeConn) RemoteAddr() net.Addr {
	a, _ := net.ResolveTCPAddr("tcp", c.addr)
	return a
}
func (c *fakeConn) Close() error { c.closed = true; return nil }
