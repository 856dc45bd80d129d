package rados

import (
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/distci/distci/lib/fault"
)

// Address is what an address says.
type Address struct {
	Pool      string
	Conf      string        // Ceph's configuration; "": librados looks for it, /etc/ceph/ceph.conf first
	ID        string        // the client's name without "client."; "admin" unless given
	Keyring   string        // the file with the client's key; "": where the configuration says
	Namespace string        // the name of the store; "distci" unless given
	Timeout   time.Duration // for one operation; 30 s unless given
	Connect   time.Duration // for connecting; 10 s, or the time-out if that is less
}

// known are the keys of an address.
var known = []string{"conf", "id", "keyring", "namespace", "timeout"}

// ParseAddress reads ceph://POOL?conf=FILE&id=NAME&keyring=FILE&namespace=NAME&timeout=30s.
// Errors are of kind Config.
func ParseAddress(address string) (Address, error) {
	bad := func(format string, args ...any) (Address, error) {
		return Address{}, fault.Errorf(fault.Config, "store %q: "+format, append([]any{address}, args...)...)
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "ceph" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.Fragment != "" {
		return bad("expected ceph://POOL?conf=FILE&id=NAME&keyring=FILE")
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return bad("%w", err)
	}
	a := Address{Pool: u.Host, ID: "admin", Namespace: "distci", Timeout: 30 * time.Second}
	for key, v := range values {
		if !slices.Contains(known, key) {
			return bad("unknown key %q; known are %s", key, strings.Join(known, ", "))
		}
		if len(v) != 1 || v[0] == "" {
			return bad("%s needs one value", key)
		}
	}
	for key, to := range map[string]*string{"conf": &a.Conf, "id": &a.ID, "keyring": &a.Keyring, "namespace": &a.Namespace} {
		if v := values.Get(key); v != "" {
			*to = v
		}
	}
	if strings.HasPrefix(a.ID, "client.") {
		return bad("id is the client's name without %q", "client.")
	}
	if strings.ContainsFunc(a.Namespace, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return bad("a namespace has no spaces and no other letters than those of ASCII")
	}
	if v := values.Get("timeout"); v != "" {
		if a.Timeout, err = time.ParseDuration(v); err != nil || a.Timeout < time.Second || a.Timeout > time.Hour {
			return bad("timeout is between 1s and 1h")
		}
	}
	a.Connect = min(a.Timeout, 10*time.Second)
	return a, nil
}
