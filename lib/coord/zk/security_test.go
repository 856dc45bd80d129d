package zk

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	testlab "github.com/distci/distci/test/lab"
	zktest "github.com/distci/distci/test/zk"
)

func authFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func dial(t *testing.T, a Address, log *testlab.Buffer, timeout time.Duration) (*conn, error) {
	t.Helper()
	if log == nil {
		log = &testlab.Buffer{}
	}
	c, err := Open(t.Context(), a, Options{SessionTimeout: timeout, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c.(*conn), nil
}

// TestDigest: without our credentials a client reads and writes nothing that
// we made, also after a reconnection and in a later session.
func TestDigest(t *testing.T) {
	zktest.Require(t)
	e := zktest.Start(t, zktest.Options{})
	proxy := zktest.NewProxy(t, e.Servers()[0])
	ours := Address{Servers: []string{proxy.Addr()}, Path: "/group/ci", AuthFile: authFile(t, "ci:secret")}
	c, err := dial(t, ours, nil, short)
	if err != nil {
		t.Fatal(err)
	}
	make := func(path string) {
		t.Helper()
		if _, err := c.Txn(t.Context(), coord.Create(path, []byte("x")), coord.CreateEphemeral(path+"-e", nil)); err != nil {
			t.Fatal(err)
		}
	}
	make("/a")
	proxy.Cut()
	proxy.Wait(1)
	make("/b")
	old := c.Session().ID
	proxy.Drop(true, true)
	testlab.Until(t, "the end of the session", func() bool { return time.Since(c.Session().Renewed) > 2*short })
	proxy.Pass()
	proxy.Cut()
	testlab.Until(t, "a new session", func() bool { id := c.Session().ID; return id != 0 && id != old })
	make("/c")

	raw, _, err := zk.Connect(e.Servers(), time.Minute, zk.WithLogger(nolog{}))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	for _, path := range []string{"/group", "/group/ci", "/group/ci/a", "/group/ci/b", "/group/ci/c", "/group/ci/c-e", "/group/ci/" + counterName} {
		_, _, get := raw.Get(path)
		_, _, children := raw.Children(path)
		_, set := raw.Set(path, nil, -1)
		_, create := raw.Create(path+"/x", nil, 0, zk.WorldACL(zk.PermAll))
		_, acl := raw.SetACL(path, zk.WorldACL(zk.PermAll), -1)
		for what, err := range map[string]error{"get": get, "children": children, "set": set, "create": create, "acl": acl} {
			if !errors.Is(err, zk.ErrNoAuth) && !(path == "/group/ci/c-e" && what == "create") {
				t.Errorf("%s %s without credentials: %v", what, path, err)
			}
		}
		if err := raw.Delete(path, -1); err == nil {
			t.Errorf("%s was deleted without credentials", path)
		}
	}

	for _, auth := range []string{"", authFile(t, "ci:wrong"), authFile(t, "other:secret")} {
		_, err := dial(t, Address{Servers: e.Servers(), Path: "/group/ci", AuthFile: auth}, nil, short)
		if fault.Of(err) != fault.Denied || strings.Contains(err.Error(), "secret") {
			t.Errorf("open with %q: %v", auth, err)
		}
	}
}

// TestOpenCluster: credentials do not close a cluster that was formed without.
func TestOpenCluster(t *testing.T) {
	zktest.Require(t)
	e := zktest.Start(t, zktest.Options{})
	log := &testlab.Buffer{}
	for _, auth := range []string{"", authFile(t, "ci:secret")} {
		if _, err := dial(t, Address{Servers: e.Servers(), Path: "/ci", AuthFile: auth}, log, short); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(log.String(), "formed a new cluster"); n != 1 {
		t.Errorf("formed %d times:\n%s", n, log)
	}
	if n := strings.Count(log.String(), "formed without credentials"); n != 1 {
		t.Errorf("warned %d times:\n%s", n, log)
	}
}

// TestTLS: servers and clients know each other by their certificates.
func TestTLS(t *testing.T) {
	zktest.Require(t)
	e := zktest.Start(t, zktest.Options{TLS: true})
	key := func(name string) string { return filepath.Join(e.Keys(), name) }
	good := Address{Servers: e.Secure(), Path: "/ci", CAFile: key("ca.pem"), CertFile: key("client.pem"), KeyFile: key("client.key")}
	c, err := dial(t, good, nil, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Txn(t.Context(), coord.Create("/a", nil), coord.CreateEphemeral("/b", nil)); err != nil {
		t.Fatal(err)
	}
	other, err := dial(t, good, nil, time.Minute) // with the same certificate
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := other.Get(t.Context(), "/a"); err != nil {
		t.Error(err)
	}
	// The certificate's owner is whom the nodes belong to.
	if _, err := dial(t, Address{Servers: e.Servers(), Path: "/ci"}, nil, time.Minute); fault.Of(err) != fault.Denied {
		t.Errorf("without a certificate: %v", err)
	}
	none, intruder, foreign, plain, wrong := good, good, good, good, good
	none.CertFile, none.KeyFile = "", ""
	intruder.CertFile, intruder.KeyFile = key("intruder.pem"), key("intruder.key")
	foreign.CAFile = key("intruder.pem")
	plain.CAFile, plain.CertFile, plain.KeyFile = "", "", ""
	wrong.Servers = e.Servers()
	for name, bad := range map[string]Address{"no client certificate": none, "a foreign client": intruder, "a foreign authority": foreign,
		"plain to the TLS port": plain, "TLS to the plain port": wrong} {
		_, err := dial(t, bad, nil, short)
		if fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), bad.Servers[0]+": ") {
			t.Errorf("%s: %v", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}
