package access

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// SignInError is why somebody could not sign in.
type SignInError struct {
	Reason    string // a word for the log and the tests
	Text      string // for the person
	Err       error  // for the log alone; may be nil
	Subject   string // who it is for the provider, if that is known
	Temporary bool   // it may work later
}

func (e *SignInError) Error() string {
	if e.Err != nil {
		return e.Text + ": " + printable(e.Err.Error())
	}
	return e.Text
}
func (e *SignInError) Unwrap() error { return e.Err }

// refused makes a SignInError.
func refused(reason string, err error, text string, args ...any) error {
	return &SignInError{Reason: reason, Err: err, Text: fmt.Sprintf(text, args...)}
}

// clockSkew is how much the provider's clock and ours may differ.
const clockSkew = 2 * time.Minute

// Finish ends a sign-in: the browser comes back from the provider. It begins a
// session and returns it and the path to which the browser is to go. Errors are
// SignInErrors or temporary.
func (o *OIDC) Finish(w http.ResponseWriter, r *http.Request) (*Session, string, error) {
	q := r.URL.Query()
	b, err := o.begun(w, r, q.Get("state"))
	if err != nil {
		return nil, "", err
	}
	p, err := o.provider(r.Context())
	if err != nil {
		return nil, "", err
	}
	if iss := q.Get("iss"); iss != o.Issuer && (iss != "" || p.saysIss) {
		return nil, "", refused("issuer", nil, "the answer is of another provider than the one that was asked")
	}
	if e := q.Get("error"); e != "" { // the state was right, so it is from the provider
		return nil, "", refused("refused-by-provider", nil, "the provider says no: %s", printable(e+" "+q.Get("error_description")))
	}
	ctx := oidc.ClientContext(r.Context(), o.Client)
	token, err := p.oauth2.Exchange(ctx, q.Get("code"), oauth2.VerifierOption(b.Verifier))
	if err != nil {
		return nil, "", exchangeError(err)
	}
	claims, id, err := o.verify(ctx, p, token, b.Nonce)
	if err != nil {
		return nil, "", err
	}
	role, jobs, ok := o.Rules.Match(claims)
	if !ok {
		if err := o.endOf(w, r, id.Subject); err != nil {
			return nil, "", err
		}
		return nil, "", &SignInError{Reason: "no-role", Subject: id.Subject,
			Text: fmt.Sprintf("the provider knows you as %s, but none of the rules gives you a role here; ask whoever runs this", o.Rules.NameOf(claims))}
	}
	v := &Session{Subject: id.Subject, Name: o.Rules.NameOf(claims), Role: role, Jobs: jobs}
	if err := o.Sessions.Begin(w, r, v); err != nil {
		return nil, "", err
	}
	return v, b.Return, nil
}

// endOf ends the browser's session of somebody who has lost his role.
func (o *OIDC) endOf(w http.ResponseWriter, r *http.Request, subject string) error {
	v, err := o.Sessions.Find(r)
	if v != nil && v.Subject == subject {
		_, err = o.Sessions.End(w, r)
	}
	return err
}

// begun finds what Start has remembered, and lets the browser forget it.
func (o *OIDC) begun(w http.ResponseWriter, r *http.Request, state string) (*begun, error) {
	name := cookieOf(state)
	c, err := r.Cookie(o.Sessions.cookieName(name))
	if err != nil {
		return nil, refused("state", nil, "this browser has not begun this sign-in, or has ended it already")
	}
	http.SetCookie(w, o.Sessions.cookie(name, "", 0))
	var b begun
	err = o.Sessions.ring.open(r.Context(), name, c.Value, &b)
	if errors.Is(err, errSealed) || err == nil && subtle.ConstantTimeCompare([]byte(b.State), []byte(state)) != 1 {
		return nil, refused("state", nil, "this is not the answer to the sign-in that this browser has begun")
	}
	if err != nil {
		return nil, err
	}
	if age := o.Sessions.Now().Sub(b.Time); age > signInTime {
		return nil, refused("expired", nil, "this sign-in was begun %v ago, which is too long", age.Round(time.Minute))
	}
	return &b, nil
}

// exchangeError is why the provider gave no tokens for a code.
func exchangeError(err error) error {
	var re *oauth2.RetrieveError
	switch {
	case !errors.As(err, &re) || re.Response != nil && re.Response.StatusCode >= 500:
		return &SignInError{Reason: "provider-unreachable", Temporary: true, Err: safe(err), Text: "the provider does not answer as it should; try again"}
	case re.ErrorCode == "invalid_grant":
		return refused("code", safe(err), "the provider does not accept the code with which it sent you: it was used already, or is too old")
	case re.ErrorCode == "invalid_client" || re.ErrorCode == "unauthorized_client":
		return refused("client", safe(err), "the provider does not accept this frontend's client id or secret; whoever runs this has to look")
	}
	return refused("code", safe(err), "the provider gives no tokens: %s", printable(re.ErrorCode+" "+re.ErrorDescription))
}

// safe is an error of the exchange without what the provider wrote outside its
// error fields, which might be a token.
func safe(err error) error {
	var re *oauth2.RetrieveError
	if errors.As(err, &re) && re.ErrorCode == "" && re.Response != nil {
		return errors.New("the provider answers " + re.Response.Status)
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		return ue.Err
	}
	return err
}

// verify checks the ID token and returns what it and the provider's userinfo
// say. What is signed counts if they differ.
func (o *OIDC) verify(ctx context.Context, p *provider, token *oauth2.Token, nonce string) (Claims, *oidc.IDToken, error) {
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return nil, nil, refused("id-token", nil, "the provider has sent no ID token")
	}
	now := o.Sessions.Now()
	id, err := p.Verifier(&oidc.Config{ClientID: o.ClientID, Now: func() time.Time { return now.Add(-clockSkew) }}).Verify(ctx, raw)
	var expired *oidc.TokenExpiredError
	if errors.As(err, &expired) {
		return nil, nil, refused("clock", nil, "the provider's ID token has expired at %s, and here it is %s: one of the clocks is wrong",
			expired.Expiry.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if err != nil {
		return nil, nil, refused("id-token", nil, "the provider's ID token is refused: %s", printable(strings.TrimPrefix(err.Error(), "oidc: ")))
	}
	if id.IssuedAt.After(now.Add(clockSkew)) {
		return nil, nil, refused("clock", nil, "the provider's ID token was made at %s, and here it is %s: one of the clocks is wrong",
			id.IssuedAt.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(nonce)) != 1 {
		return nil, nil, refused("nonce", nil, "the provider's ID token is not for this sign-in")
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(token.AccessToken); err != nil {
			return nil, nil, refused("id-token", err, "the provider's ID token does not belong to its access token")
		}
	}
	var claims Claims
	if err := id.Claims(&claims); err != nil {
		return nil, nil, refused("id-token", err, "the provider's ID token cannot be read")
	}
	var azp string
	_ = json.Unmarshal(claims["azp"], &azp) // not there: ""
	if azp != o.ClientID && (azp != "" || len(id.Audience) > 1) {
		return nil, nil, refused("id-token", nil, "the provider's ID token was made for another program")
	}
	if id.Subject == "" {
		return nil, nil, refused("id-token", nil, "the provider's ID token does not say who you are")
	}
	if p.UserInfoEndpoint() == "" {
		return claims, id, nil
	}
	info, err := p.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil {
		return nil, nil, &SignInError{Reason: "userinfo", Temporary: true, Subject: id.Subject, Err: safe(err), Text: "the provider does not tell who you are; try again"}
	}
	if info.Subject != id.Subject {
		return nil, nil, refused("userinfo", nil, "the provider tells of somebody else than it signs for")
	}
	var more Claims
	if err := info.Claims(&more); err != nil {
		return nil, nil, refused("userinfo", err, "what the provider tells of you cannot be read")
	}
	for k, v := range claims {
		more[k] = v
	}
	return more, id, nil
}

// printable is what somebody else has written, short enough to show.
func printable(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(strings.TrimSpace(s), "?"))
	return fmt.Sprintf("%.300s", s)
}
