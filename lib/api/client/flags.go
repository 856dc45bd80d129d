package client

import (
	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/tool"
)

// Flags are where the server is and how to show who we are, as every program
// that speaks to one can be told.
type Flags struct {
	url, token, ca, cert, key *string
}

// Declare declares the flags; purpose says what the address is for.
func Declare(fs *pflag.FlagSet, purpose string) *Flags {
	return &Flags{
		url:   tool.Setting(fs, "url", "url", "", purpose),
		token: tool.Setting(fs, "token-file", "token_file", "", "take the token for the server from `FILE`, which nobody else may read"),
		ca:    tool.Setting(fs, "ca-file", "ca_file", "", "believe the server's certificate if an authority in `FILE` has signed it, and no other"),
		cert:  tool.Setting(fs, "client-cert", "client_cert", "", "show the server the certificate in `FILE`"),
		key:   tool.Setting(fs, "client-key", "client_key", "", "the certificate's private key is in `FILE`"),
	}
}

// URL is the server's address; "" if there is none.
func (f *Flags) URL() string { return *f.url }

// Open returns a client for the program of this name. Errors are as for [New].
func (f *Flags) Open(name string) (*Client, error) {
	return New(*f.url, Options{TokenFile: *f.token, CAFile: *f.ca, CertFile: *f.cert, KeyFile: *f.key, Name: name + "/" + tool.Version})
}
