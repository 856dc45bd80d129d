package access

import (
	"crypto/x509"
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/distci/distci/lib/fault"
)

// CertificateRule gives the holders of certificates a role.
type CertificateRule struct {
	Name string   // a pattern of [path.Match] for one of the certificate's names
	Role Role     // that its holder has
	Jobs []string // patterns of jobs; none: all
}

// ParseCertificateRule reads NAME=ROLE or NAME=ROLE:PATTERN,PATTERN… Errors are
// of kind Usage.
func ParseCertificateRule(s string) (CertificateRule, error) {
	i := strings.LastIndexByte(s, '=') // a name may have one, neither of the others
	if i <= 0 {
		return CertificateRule{}, fault.Errorf(fault.Usage, "%.300q: expected NAME=ROLE or NAME=ROLE:JOBS", s)
	}
	c := CertificateRule{Name: s[:i]}
	if _, err := path.Match(c.Name, "name"); err != nil {
		return c, fault.Errorf(fault.Usage, "%.300q: the name is not a pattern", s)
	}
	role, jobs, limited := strings.Cut(s[i+1:], ":")
	var err error
	if c.Role, err = ParseRole(role); err != nil {
		return c, err
	}
	if limited {
		c.Jobs = strings.Split(jobs, ",")
		err = CheckPatterns(c.Jobs)
	}
	return c, err
}

// Certificates is the Authenticator of TLS client certificates. The first rule
// that has one of a certificate's names says what its holder may do. That the
// certificate is good the TLS connection has seen to.
type Certificates []CertificateRule

// Authenticate looks at the certificate that the connection was made with.
func (rules Certificates) Authenticate(r *http.Request) (Principal, bool, error) {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 {
		return Principal{}, false, nil
	}
	names := namesOf(r.TLS.VerifiedChains[0][0])
	for _, rule := range rules {
		for _, name := range names {
			if ok, err := path.Match(rule.Name, name); ok && err == nil {
				return Principal{Name: name, Role: rule.Role, Jobs: rule.Jobs, Via: ViaCertificate}, true, nil
			}
		}
	}
	if len(names) == 0 {
		names = []string{"nobody"}
	}
	return Principal{}, false, fault.Errorf(fault.Denied, "the certificate of %.200q has no role here", names[0])
}

// namesOf are the names in a certificate: the common name, then the alternative
// ones.
func namesOf(c *x509.Certificate) []string {
	names := []string{c.Subject.CommonName}
	names = append(names, c.DNSNames...)
	names = append(names, c.EmailAddresses...)
	for _, u := range c.URIs {
		names = append(names, u.String())
	}
	return slices.DeleteFunc(names, func(s string) bool { return s == "" })
}
