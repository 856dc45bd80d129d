package api

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/fault"
)

// home is where somebody goes who has signed in and did not say where to.
const home = "/ui/"

// whoami tells whose the call is, also those who may do nothing.
func (c *call) whoami() error {
	c.problem = true
	if err := c.identify(); err != nil {
		return err
	}
	reply := struct {
		Name   string      `json:"name"`
		Role   access.Role `json:"role"` // "": may do only what is public
		Via    string      `json:"via"`
		Jobs   []string    `json:"jobs"` // patterns; none: all jobs
		SignIn string      `json:"sign_in,omitempty"`
	}{c.who.Name, c.who.Role, c.who.Via, c.who.Jobs, ""}
	if reply.Jobs == nil {
		reply.Jobs = []string{}
	}
	if c.SignIn != nil {
		reply.SignIn = "/ui/sign-in"
	}
	return c.json(http.StatusOK, reply)
}

// signIn sends the browser to the provider.
func (c *call) signIn() error {
	c.noStore()
	if c.SignIn == nil {
		return c.signInFailed(status(http.StatusNotFound, "nobody signs in at this frontend: it has no provider"))
	}
	back := home
	if q := c.r.URL.Query(); q.Has("return") {
		back = q.Get("return")
	}
	to, err := c.SignIn.Start(c.w, c.r, back)
	if err != nil {
		return c.signInFailed(err)
	}
	return c.redirect(to)
}

// signedIn takes the browser that comes back from the provider.
func (c *call) signedIn() error {
	c.noStore()
	if c.SignIn == nil {
		return c.signInFailed(status(http.StatusNotFound, "nobody signs in at this frontend: it has no provider"))
	}
	v, back, err := c.SignIn.Finish(c.w, c.r)
	if err != nil {
		return c.signInFailed(err)
	}
	c.setWho(v.Principal())
	c.tellSignIn("sign in", v.Subject, "", nil)
	return c.redirect(back)
}

// signOut ends the session. It is no harm without one.
func (c *call) signOut() error {
	c.noStore()
	if c.SignIn == nil {
		return status(http.StatusNotFound, "nobody signs in at this frontend: it has no provider")
	}
	if err := c.SignIn.Sessions.SameOrigin(c.r); err != nil {
		return err
	}
	v, err := c.SignIn.Sessions.End(c.w, c.r)
	if err != nil {
		return err
	}
	if v != nil {
		c.setWho(v.Principal())
		c.tellSignIn("sign out", v.Subject, "", nil)
	}
	if !c.wantsPage() {
		return c.none()
	}
	return c.page(http.StatusOK, signInPage{Title: "Signed out",
		Text: "Your session here is over. At your provider you may still be signed in.",
		Link: "/ui/sign-in", Label: "Sign in again"})
}

// signInFailed answers somebody who could not sign in: with a page, since it is
// a browser that is here. It returns nil if that is the whole answer.
func (c *call) signInFailed(err error) error {
	c.problem = true
	code, text := answer(err)
	reason, subject := string(fault.Of(err)), ""
	if se := (*access.SignInError)(nil); errors.As(err, &se) {
		code, text, reason, subject = http.StatusForbidden, se.Text, se.Reason, se.Subject
		if se.Temporary {
			code = http.StatusServiceUnavailable
		}
	}
	c.tellSignIn("sign in", subject, reason, err)
	err = &statusError{code, text, err}
	if !c.wantsPage() {
		return err
	}
	rec := recorderOf(c.w)
	rec.err = err
	p := signInPage{Title: "Sign-in failed", Text: strings.ToUpper(text[:1]) + text[1:] + ".", Request: rec.id}
	if code != http.StatusNotFound {
		p.Link, p.Label = "/ui/sign-in", "Try again"
	}
	if code == http.StatusServiceUnavailable {
		c.w.Header().Set("Retry-After", "5")
	}
	return c.page(code, p)
}

// tellSignIn writes to the log and the audit log who has come and gone, and who
// was refused and why.
func (c *call) tellSignIn(action, subject, reason string, err error) {
	r := access.Record{Time: time.Now(), Who: c.who.Name, Via: c.who.Via, ID: c.who.ID, Role: c.who.Role, From: c.from,
		Object: subject, Action: action, Outcome: access.Done, Request: recorderOf(c.w).id, Frontend: c.Name}
	attrs := []slog.Attr{slog.String("name", c.who.Name), slog.String("subject", subject), slog.String("from", c.from), slog.String("id", r.Request)}
	level, msg := slog.LevelInfo, action
	if err != nil {
		level, msg = slog.LevelWarn, action+" failed"
		r.Outcome, r.Error = access.Refused, reason
		attrs = append(attrs, slog.String("reason", reason), slog.String("error", err.Error()))
	} else {
		attrs = append(attrs, slog.String("role", string(c.who.Role)), slog.String("session", c.who.ID))
	}
	c.Log.LogAttrs(c.r.Context(), level, msg, attrs...)
	// A sign-out is a request that changes something, and recorded as one.
	if c.Audit != nil && action == "sign in" {
		c.Audit.Add(r)
	}
}

// wantsPage tells whether the call is of a browser that shows the reply to
// somebody.
func (c *call) wantsPage() bool {
	switch c.r.Header.Get("Sec-Fetch-Mode") {
	case "", "navigate":
	default:
		return false // a script that takes anything
	}
	accept := strings.Split(strings.Join(c.r.Header.Values("Accept"), ","), ",")
	return slices.ContainsFunc(accept, func(s string) bool {
		typ, _, _ := strings.Cut(s, ";")
		return strings.EqualFold(strings.TrimSpace(typ), "text/html")
	})
}

// signInFirst sends somebody who opens a page to sign in, if that is what he
// lacks or his role is to be read again, and tells whether it did. Who has a
// session and may not see the page is not sent: he would come back the same.
func (c *call) signInFirst(rt route, err error) bool {
	page, _, _ := strings.Cut(rt.pattern, "/")
	if c.SignIn == nil || page != "ui" || rt.role == access.Public || c.r.Method != http.MethodGet || !c.wantsPage() {
		return false
	}
	stale := err == nil && c.who.Via == access.ViaSession && c.SignIn.Sessions.Stale(c.r)
	if !errors.Is(err, access.ErrUnauthenticated) && !stale || c.r.Header.Get("Authorization") != "" {
		return false
	}
	to := "/ui/sign-in"
	if back := c.r.URL.RequestURI(); access.CheckReturn(back) == nil {
		to += "?return=" + url.QueryEscape(back)
	}
	c.noStore()
	_ = c.redirect(to)
	return true
}

// keepSession lets a session go on that is being used: for pages, and for what
// is done. What else a page asks for by itself is no use.
func (c *call) keepSession(rt route) error {
	if c.SignIn == nil || c.who.Via != access.ViaSession || rt.method == http.MethodGet && !c.wantsPage() {
		return nil
	}
	return c.SignIn.Sessions.Renew(c.w, c.r)
}

func (c *call) noStore() { c.w.Header().Set("Cache-Control", "no-store") }

func (c *call) redirect(to string) error {
	c.w.Header().Set("Location", to)
	c.w.WriteHeader(http.StatusSeeOther)
	return nil
}
