package access

import (
	"net"
	"net/http"
	"strings"
)

// OnlyLocal is the Authenticator at the end of the chain where everybody who
// can reach the address may do everything, because it is this machine's own. It
// finds nothing in a request that has come through something that others can
// reach: a proxy that says so, or a page whose host's name was made to lead
// here ("DNS rebinding").
func OnlyLocal() Authenticator {
	return Func(func(r *http.Request) (Principal, bool, error) {
		for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip"} {
			if r.Header.Get(name) != "" {
				return Principal{}, false, Unauthenticated("this has come through a proxy: who you are is not known")
			}
		}
		if !localHost(r.Host) {
			return Principal{}, false, Unauthenticated("this was sent to a host that is not known here: who you are is not known")
		}
		return Local(), true, nil
	})
}

// localHost tells whether a header Host is that of the machine itself. An
// address is safe: nobody's name server can make it lead elsewhere.
func localHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(strings.Trim(host, "[]"), "."))
	return host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host) != nil
}
