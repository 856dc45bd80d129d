package s3

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/storetest"
	s3test "github.com/distci/distci/test/s3"
)

func open(url string) (store.Store, error) { return Open(context.Background(), url) }

func TestMain(m *testing.M) { storetest.Main(m, open) }

func TestStoreOnCeph(t *testing.T) {
	s := s3test.Ceph(t)
	storetest.Run(t, open, func(*testing.T) string { return s.Fresh("") })
}

func TestStoreOnVersity(t *testing.T) {
	s := s3test.Versity(t, true)
	storetest.Run(t, open, func(*testing.T) string { return s.Fresh("") })
}

// server is the lighter one.
func server(t *testing.T) *s3test.Server { return s3test.Versity(t, false) }

func mustOpen(t *testing.T, url string) *bucket {
	t.Helper()
	s, err := open(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.(*bucket)
}

func wantKind(t *testing.T, what string, err error, want fault.Kind) {
	t.Helper()
	if err == nil || fault.Of(err) != want {
		t.Errorf("%s: %v, kind %q; want kind %q", what, err, fault.Of(err), want)
	}
}

func TestOpenErrors(t *testing.T) {
	s := server(t)
	proxy := s3test.NewProxy(t, s)
	try := func(what, url string, want fault.Kind) error {
		t.Helper()
		_, err := open(url)
		wantKind(t, what, err, want)
		return err
	}
	try("wrong secret", s.Fresh("&credentials="+s.Credentials(t, "wrongwrongwrong")), fault.Denied)
	try("no such file", s.Fresh("&credentials=/nowhere"), fault.Config)
	try("no such bucket", strings.Replace(s.Fresh(""), s.Bucket, "no-such-bucket", 1), fault.Config)
	try("nobody listens", s.Store("x", "http://127.0.0.1:1", "&timeout=300ms"), fault.Temporary)
	try("TLS to a server without", s.Store("x", strings.Replace(s.URL, "http:", "https:", 1), "&timeout=2s"), fault.Config)

	proxy.Decide(func(int, *http.Request) s3test.Fault { return s3test.Ignore })
	err := try("no conditional puts", s.Store("x", proxy.URL, ""), fault.Config)
	if err != nil && !strings.Contains(err.Error(), "If-Match") {
		t.Errorf("%v: it does not tell what is missing", err)
	}

	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, []byte("[default]\naws_secret_access_key = geheim\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := try("half of the credentials", s.Fresh("&credentials="+empty), fault.Config); strings.Contains(err.Error(), "geheim") {
		t.Errorf("%v: it repeats a secret", err)
	}

	b := mustOpen(t, s.Store("y", s.URL, ""))
	for text, what := range map[string]string{"distci-store 2\n": "newer", "something": "marker"} {
		if _, err := b.tryPut(t.Context(), marker, []byte(text), condition{}); err != nil {
			t.Fatal(err)
		}
		if err := try(text, s.Store("y", s.URL, ""), fault.Config); !strings.Contains(err.Error(), what) {
			t.Errorf("%v: it does not say %q", err, what)
		}
	}
	if _, err := b.tryPut(t.Context(), "sub/file", []byte("x"), condition{}); err != nil {
		t.Fatal(err)
	}
	try("a place in use", s.Store("y/sub", s.URL, ""), fault.Config)
	if err := b.remove(t.Context(), marker); err != nil {
		t.Fatal(err)
	}
	try("a place in use", s.Store("y", s.URL, ""), fault.Config)
}

func TestCertificateIsChecked(t *testing.T) {
	s := s3test.Versity(t, true)
	mustOpen(t, s.Fresh(""))
	s.CAFile = "" // the system does not know it
	_, err := open(s.Fresh(""))
	wantKind(t, "unknown authority", err, fault.Config)
}

func TestCredentialsOfTheEnvironment(t *testing.T) {
	s := server(t)
	url, _, _ := strings.Cut(s.Fresh(""), "&credentials=")
	t.Setenv("HOME", t.TempDir())
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "")
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	_, err := open(url)
	wantKind(t, "none", err, fault.Config)
	t.Setenv("AWS_ACCESS_KEY_ID", s.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s.SecretKey)
	mustOpen(t, url)
}
