// Package s3test starts real S3 servers for tests, and stands in their way.
//
// The servers are Ceph's gateway on a cluster of its own, and versitygw, which
// serves a folder. They listen on loopback and end with their test, and with
// the test's process, however that ends.
package s3test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	cephtest "github.com/distci/distci/test/ceph"
	"github.com/distci/distci/test/lab"
	"github.com/distci/distci/test/need"
)

// Server is a running S3 server with an empty bucket.
type Server struct {
	URL       string // of its endpoint
	AccessKey string
	SecretKey string
	Bucket    string
	CAFile    string // for TLS; "": it speaks none

	Cluster *cephtest.Cluster // on which it runs; nil: none
	Process *lab.Proc         // versitygw's; nil: it is Ceph's

	credentials string // file
}

// Ceph starts Ceph's gateway, or skips the test where that is not installed;
// where DISTCI_REQUIRE names ceph, the test fails instead.
func Ceph(t testing.TB) *Server {
	t.Helper()
	c, g := cephtest.StartGateway(t)
	return (&Server{URL: g.URL, AccessKey: g.AccessKey, SecretKey: g.SecretKey, Cluster: c}).ready(t)
}

// versity is the folder in which test/prepare.sh installs versitygw.
const versity = "distci-test/versitygw-v1.8.0"

// program finds versitygw.
func program(t testing.TB) string {
	t.Helper()
	if cache, err := os.UserCacheDir(); err == nil {
		if p := filepath.Join(cache, versity, "versitygw"); exec.Command(p, "--version").Run() == nil {
			return p
		}
	}
	p, err := exec.LookPath("versitygw")
	if err != nil {
		need.Missing(t, "s3", "no versitygw on this machine; DISTCI_REQUIRE=s3 test/prepare.sh builds it")
	}
	return p
}

// Versity starts versitygw on a new folder, with TLS and a certificate of its
// own if asked for, or skips the test where that is not installed; where
// DISTCI_REQUIRE names s3, the test fails instead.
func Versity(t testing.TB, withTLS bool) *Server {
	t.Helper()
	exe := program(t)
	dir := lab.Dir(t)
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	s := &Server{AccessKey: "ciaccess", SecretKey: "cisecretcisecret"}
	spawn := lab.NewSpawner(t)
	for range 10 {
		address := fmt.Sprintf("127.0.0.1:%d", 15000+mathrand.IntN(17000))
		args := []string{"--quiet", "--port", address}
		s.URL = "http://" + address
		if withTLS {
			s.URL = "https://" + address
			cert, key := certificate(t, dir)
			s.CAFile = cert
			args = append(args, "--cert", cert, "--key", key)
		}
		cmd := exec.Command(exe, append(args, "posix", root)...)
		cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+s.AccessKey, "ROOT_SECRET_KEY="+s.SecretKey)
		s.Process = lab.Start(t, spawn, dir, "versitygw", cmd)
		if s.serves(address) {
			return s.ready(t)
		}
	}
	t.Fatal("s3test: versitygw does not serve")
	return nil
}

// serves waits until the server listens, or has ended as another process has
// its port.
func (s *Server) serves(address string) bool {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		select {
		case <-s.Process.Done:
			return false
		case <-time.After(20 * time.Millisecond):
		}
		if c, err := net.Dial("tcp", address); err == nil {
			c.Close()
			return true
		}
	}
	return false
}

// certificate makes one for loopback, signed by itself.
func certificate(t testing.TB, dir string) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "s3test"}, NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// ready makes the bucket and the file of credentials.
func (s *Server) ready(t testing.TB) *Server {
	t.Helper()
	s.Bucket = "distci-" + strings.ToLower(rand.Text()[:8])
	s.credentials = s.Credentials(t, s.SecretKey)
	api := s.Client(t)
	var err error
	for range 50 {
		if err = api.MakeBucket(context.Background(), s.Bucket, minio.MakeBucketOptions{}); err == nil {
			return s
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal(err)
	return nil
}

// Freeze stops versitygw where it is, and returns when it stands still.
func (s *Server) Freeze(t testing.TB) {
	t.Helper()
	if err := s.Process.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); !s.frozen(t); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("s3test: versitygw does not stop")
		}
	}
}

// Thaw lets it go on. It must have been frozen all the time.
func (s *Server) Thaw(t testing.TB) {
	t.Helper()
	if !s.frozen(t) {
		t.Error("s3test: somebody else has woken versitygw")
	}
	if err := s.Process.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) frozen(t testing.TB) bool {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", s.Process.Process.Pid))
	if err != nil || len(tasks) == 0 {
		t.Fatal(err, "s3test: versitygw is gone")
	}
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		if i := bytes.LastIndexByte(b, ')'); i < 0 || !bytes.HasPrefix(b[i:], []byte(") T")) {
			return false
		}
	}
	return true
}

// Credentials writes a file of credentials as the AWS tools have it.
func (s *Server) Credentials(t testing.TB, secret string) string {
	t.Helper()
	file := filepath.Join(lab.Dir(t), "credentials")
	var b bytes.Buffer
	fmt.Fprintf(&b, "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n", s.AccessKey, secret)
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// Client is one of the library's own, to look behind a store, without tries.
func (s *Server) Client(t testing.TB) *minio.Core {
	t.Helper()
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	o := &minio.Options{Creds: credentials.NewStaticV4(s.AccessKey, s.SecretKey, ""), Secure: u.Scheme == "https",
		Region: "us-east-1", BucketLookup: minio.BucketLookupPath, MaxRetries: 1}
	if s.CAFile != "" {
		pool := x509.NewCertPool()
		b, err := os.ReadFile(s.CAFile)
		if err != nil || !pool.AppendCertsFromPEM(b) {
			t.Fatal(errors.Join(err, errors.New("s3test: no certificate")))
		}
		tr, err := minio.DefaultTransport(true)
		if err != nil {
			t.Fatal(err)
		}
		tr.TLSClientConfig.RootCAs = pool
		o.Transport = tr
	}
	api, err := minio.NewCore(u.Host, o)
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// Fresh is the URL of a new, empty store, with more options: "&timeout=1s".
func (s *Server) Fresh(more string) string {
	return s.Store(strings.ToLower(rand.Text()[:12]), s.URL, more)
}

// Store is the URL of the store with a prefix, by way of an endpoint: the
// server's own or a proxy's.
func (s *Server) Store(prefix, endpoint, more string) string {
	if s.CAFile != "" {
		more += "&ca=" + url.QueryEscape(s.CAFile)
	}
	if !strings.Contains(more, "credentials=") {
		more += "&credentials=" + url.QueryEscape(s.credentials)
	}
	return fmt.Sprintf("s3://%s/%s?endpoint=%s%s", s.Bucket, prefix, endpoint, more)
}
