package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// signIn is where people sign in, as the flags say it.
type signIn struct {
	issuer, client, secretFile, rules, url string
	life, idle, refresh                    time.Duration
}

// newSignIn declares the flags.
func newSignIn(fs *pflag.FlagSet) *signIn {
	s := &signIn{}
	fs.StringVar(&s.url, "url", "", "the `URL` of the frontends, as browsers see it: https://HOST or https://HOST:PORT")
	fs.StringVar(&s.issuer, "oidc-issuer", "", "let people sign in at the OpenID Connect provider at `URL`")
	fs.StringVar(&s.client, "oidc-client-id", "", "the provider knows us as `ID`")
	fs.StringVar(&s.secretFile, "oidc-client-secret-file", "", "the provider's secret for us is in `FILE`; none: we are a public client")
	fs.StringVar(&s.rules, "oidc-roles", "", "who has which role is in `FILE`, JSON")
	fs.DurationVar(&s.life, "sign-in-life", access.DefaultLife, "how long somebody who has signed in stays so at most")
	fs.DurationVar(&s.idle, "sign-in-idle", access.DefaultIdle, "how long if he does nothing")
	fs.DurationVar(&s.refresh, "sign-in-refresh", access.DefaultRefresh, "how old a role may be before the provider is asked again")
	return s
}

// wanted tells whether people can sign in.
func (s *signIn) wanted() bool { return s.issuer != "" }

// check reads the flags that go together.
func (s *signIn) check() error {
	if !s.wanted() {
		if s.client != "" || s.secretFile != "" || s.rules != "" {
			return fault.Errorf(fault.Usage, "--oidc-client-id, --oidc-client-secret-file and --oidc-roles go with --oidc-issuer")
		}
		return nil
	}
	for _, f := range []struct{ name, value string }{{"oidc-client-id", s.client}, {"oidc-roles", s.rules}, {"url", s.url}} {
		if f.value == "" {
			return fault.Errorf(fault.Usage, "--oidc-issuer needs --%s", f.name)
		}
	}
	return nil
}

// open reads the files and returns what lets people sign in; nil if that is not
// wanted. The provider need not be there.
func (s *signIn) open(st store.Store) (*access.OIDC, error) {
	if !s.wanted() {
		return nil, nil
	}
	rules, err := access.ReadRules(s.rules)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "--oidc-roles: %w", err)
	}
	var secret []byte
	if s.secretFile != "" {
		if secret, err = os.ReadFile(s.secretFile); err != nil {
			return nil, fault.Errorf(fault.Config, "--oidc-client-secret-file: %w", err)
		}
		if secret = bytes.TrimSpace(secret); len(secret) == 0 {
			return nil, fault.Errorf(fault.Config, "--oidc-client-secret-file: %s is empty", s.secretFile)
		}
	}
	sessions, err := access.NewSessions(access.SessionOptions{Store: st, URL: s.url, Life: s.life, Idle: s.idle, Refresh: s.refresh})
	if err != nil {
		return nil, err
	}
	return access.NewOIDC(access.OIDCOptions{Issuer: s.issuer, ClientID: s.client, Secret: string(secret), Rules: rules, Sessions: sessions})
}

// known is what finds out whose a session is, for the chain.
func known(people *access.OIDC) []access.Authenticator {
	if people == nil {
		return nil
	}
	return []access.Authenticator{people.Sessions}
}

// greet looks for the provider once, so that whoever has started us hears of
// it when it is not there, and not the first who wants to sign in. The result
// ends that.
func greet(people *access.OIDC, log *slog.Logger) (stop func()) {
	if people == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := people.Discover(ctx); err != nil && ctx.Err() == nil {
			log.Warn("nobody can sign in yet", "error", err)
		}
	}()
	return func() { cancel(); <-ended }
}
