package client

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/distci/distci/lib/fault"
)

// TestTokenFileIsPrivate: a token that others can read is no secret, and is
// not sent.
func TestTokenFileIsPrivate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	root := os.Getuid() == 0
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o644: false, 0o604: false, 0o660: false, 0o666: false, 0o440: root} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		_, err := New("http://host", Options{TokenFile: file})
		if (err == nil) != ok {
			t.Errorf("%o: %v", mode, err)
		}
		if err != nil && (fault.Of(err) != fault.Config || !strings.Contains(err.Error(), "chmod 600 "+file) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%o: %v", mode, err)
		}
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("x", maxToken+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New("http://host", Options{TokenFile: file}); fault.Of(err) != fault.Config {
		t.Errorf("a file that is too large: %v", err)
	}
}

// TestAuthorities: the server is believed if the authority in the file has
// signed its certificate, and what cannot be used is an error of configuration.
func TestAuthorities(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(`{"jobs":["j"]}`)) }))
	defer srv.Close()
	dir := t.TempDir()
	ca, empty := filepath.Join(dir, "ca"), filepath.Join(dir, "empty")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := New(srv.URL, Options{CAFile: ca})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if jobs, err := c.Jobs(t.Context(), "", 0); err != nil || len(jobs) != 1 {
		t.Errorf("%v, %v", jobs, err)
	}
	stranger, err := New(srv.URL, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := stranger.Jobs(t.Context(), "", 0); fault.Of(err) != fault.Config {
		t.Errorf("an authority that is not known: %v", err)
	}
	for _, o := range []Options{{CAFile: empty}, {CAFile: dir + "/none"}, {CertFile: ca}, {KeyFile: ca}, {CertFile: ca, KeyFile: ca}} {
		if _, err := New(srv.URL, o); fault.Of(err) != fault.Config {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestTooOften: what came too often had no effect, and is tried again, a POST
// as well.
func TestTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		c := Over(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1) < 3 {
				w.Header().Set("Retry-After", "2")
				http.Error(w, "too many requests", http.StatusTooManyRequests)
				return
			}
			w.WriteHeader(http.StatusCreated)
			w.Write([]byte(`{"build_number":7}`))
		}))
		defer c.Close()
		var reply struct {
			Number int `json:"build_number"`
		}
		if err := c.json(t.Context(), &request{method: http.MethodPost, path: []string{"jobs", "j", "builds"}}, &reply); err != nil || reply.Number != 7 || asked.Load() != 3 {
			t.Errorf("%v, %v after %d requests", reply, err, asked.Load())
		}
	})
}
