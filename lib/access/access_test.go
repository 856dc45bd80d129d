package access

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/distci/distci/lib/fault"
)

// TestRoles is the whole table of who may do what.
func TestRoles(t *testing.T) {
	table := map[Role]string{ // for what needs public, read, trigger, worker, admin and nothing known
		"":      "+-----",
		Read:    "++----",
		Trigger: "+++---",
		Worker:  "++-+--",
		Admin:   "+++++-",
		Public:  "+-----", // nobody has it
		"root":  "+-----",
	}
	for role, may := range table {
		for i, need := range []Role{Public, Read, Trigger, Worker, Admin, ""} {
			err := Principal{Name: "n", Role: role}.May(need, "")
			if (err == nil) != (may[i] == '+') || err != nil && fault.Of(err) != fault.Denied {
				t.Errorf("%q may %q: %v", role, need, err)
			}
		}
	}
	for _, r := range Roles() {
		if got, err := ParseRole(string(r)); got != r || err != nil {
			t.Errorf("%q: %v", r, err)
		}
	}
	for _, s := range []string{"", "public", "Admin", "read "} {
		if _, err := ParseRole(s); fault.Of(err) != fault.Usage {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		job      string
		sees     bool
	}{
		{nil, "anything", true},
		{nil, "", true},
		{[]string{}, "anything", true},
		{[]string{"web-*"}, "web-1", true},
		{[]string{"web-*"}, "web", false},
		{[]string{"web-*"}, "my-web-1", false},
		{[]string{"web-*"}, "", false},
		{[]string{"*"}, "", false},
		{[]string{"*"}, "anything", true},
		{[]string{"a", "b?"}, "bc", true},
		{[]string{"a", "b?"}, "A", false},
		{[]string{"["}, "[", false},
	} {
		p := Principal{Role: Admin, Jobs: c.patterns}
		if p.Sees(c.job) != c.sees {
			t.Errorf("%v sees %q: %v", c.patterns, c.job, !c.sees)
		}
		if err := p.May(Trigger, c.job); c.job != "" && (err == nil) != c.sees {
			t.Errorf("%v may trigger %q: %v", c.patterns, c.job, err)
		}
	}
	if err := (Principal{Role: Admin, Jobs: []string{"a"}}).May(Public, "b"); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", "a/b", "a b", "a,b", "[a", "a\n"} {
		if err := CheckPatterns([]string{"ok", bad}); fault.Of(err) != fault.Usage {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestCertificates(t *testing.T) {
	var rules Certificates
	for _, s := range []string{"alice=admin", "worker-*=worker:web-*,lib", "*.ci.example.org=read", "spiffe://ci/*=trigger", "CN=odd=read"} {
		r, err := ParseCertificateRule(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		rules = append(rules, r)
	}
	for _, s := range []string{"", "alice", "=admin", "alice=", "alice=root", "alice=admin:", "alice=admin:a/b", "[=read"} {
		if _, err := ParseCertificateRule(s); fault.Of(err) != fault.Usage {
			t.Errorf("%q: %v", s, err)
		}
	}
	uri, _ := url.Parse("spiffe://ci/forge")
	deep, _ := url.Parse("spiffe://ci/forge/more")
	for _, c := range []struct {
		cert x509.Certificate
		name string
		role Role
		jobs int
	}{
		{x509.Certificate{Subject: pkix.Name{CommonName: "alice"}}, "alice", Admin, 0},
		{x509.Certificate{Subject: pkix.Name{CommonName: "worker-7"}}, "worker-7", Worker, 2},
		{x509.Certificate{Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"a.ci.example.org"}}, "a.ci.example.org", Read, 0},
		{x509.Certificate{URIs: []*url.URL{uri}}, "spiffe://ci/forge", Trigger, 0},
		{x509.Certificate{Subject: pkix.Name{CommonName: "CN=odd"}}, "CN=odd", Read, 0},
		{x509.Certificate{URIs: []*url.URL{deep}}, "", "", 0}, // * does not match a slash
		{x509.Certificate{Subject: pkix.Name{CommonName: "Alice"}}, "", "", 0},
		{x509.Certificate{}, "", "", 0},
		{x509.Certificate{Subject: pkix.Name{CommonName: "x", Organization: []string{"alice"}}}, "", "", 0},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{&c.cert}}
		if _, ok, err := rules.Authenticate(r); ok || err != nil {
			t.Errorf("%q counts although nobody has verified it: %v", c.cert.Subject.CommonName, err)
		}
		r.TLS.VerifiedChains = [][]*x509.Certificate{{&c.cert}}
		p, ok, err := rules.Authenticate(r)
		if p.Name != c.name || p.Role != c.role || len(p.Jobs) != c.jobs || ok != (c.name != "") {
			t.Errorf("%v: %+v, %v", c.cert.Subject, p, err)
		}
		if !ok && (fault.Of(err) != fault.Denied || errors.Is(err, ErrUnauthenticated)) {
			t.Errorf("%v: %v", c.cert.Subject, err)
		}
	}
}

// TestOnlyLocal: what others have let through is not this machine's own.
func TestOnlyLocal(t *testing.T) {
	for _, c := range []struct {
		host, header string
		ok           bool
	}{
		{"localhost", "", true},
		{"LOCALHOST:8088", "", true},
		{"localhost.", "", true},
		{"ci.localhost:1", "", true},
		{"127.0.0.1:8088", "", true},
		{"[::1]:8088", "", true},
		{"::1", "", true},
		{"192.0.2.1", "", true}, // no name can be made to lead here
		{"", "", true},
		{"evil.example", "", false},
		{"localhost.evil.example:8088", "", false},
		{"127.0.0.1.evil.example", "", false},
		{"notlocalhost", "", false},
		{"localhost", "X-Forwarded-For", false},
		{"localhost", "Forwarded", false},
		{"localhost", "X-Real-IP", false},
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Host = c.host
		if c.header != "" {
			r.Header.Set(c.header, "127.0.0.1")
		}
		p, ok, err := OnlyLocal().Authenticate(r)
		if ok != c.ok || ok != (err == nil) || ok != (p.Role == Admin) || err != nil && !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("%q %s: %v, %v, %v", c.host, c.header, p, ok, err)
		}
	}
}

// TestChain: what is found first decides, also if it is wrong.
func TestChain(t *testing.T) {
	nothing := Chain{}
	alice := Everybody(Principal{Name: "alice"})
	wrong := Func(func(*http.Request) (Principal, bool, error) { return Principal{}, false, Unauthenticated("no") })
	for _, c := range []struct {
		chain Chain
		name  string
		err   bool
	}{
		{Chain{}, "", false},
		{Chain{nothing, alice, wrong}, "alice", false},
		{Chain{nothing, wrong, alice}, "", true},
	} {
		p, ok, err := c.chain.Authenticate(httptest.NewRequest("GET", "/", nil))
		if p.Name != c.name || ok != (c.name != "") || errors.Is(err, ErrUnauthenticated) != c.err {
			t.Errorf("%v: %v, %v, %v", c.chain, p, ok, err)
		}
	}
	if p := FromContext(t.Context()); p.Role != "" || p.May(Read, "") == nil {
		t.Errorf("a context without a principal is that of %v", p)
	}
}
