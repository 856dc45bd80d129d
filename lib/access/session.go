package access

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// Session is what a browser keeps, sealed, of somebody who has signed in.
// Frontends keep nothing of it, so each of them accepts it.
type Session struct {
	ID      string    `json:"id"`  // a UUID of version 7
	Subject string    `json:"sub"` // who it is for the provider
	Name    string    `json:"name"`
	Role    Role      `json:"role"`
	Jobs    []string  `json:"jobs,omitempty"`
	Began   time.Time `json:"began"`
	Read    time.Time `json:"read"` // when the provider was asked for the role
	Seen    time.Time `json:"seen"` // when it was last used, about
}

// Principal is whose session it is.
func (s *Session) Principal() Principal {
	return Principal{Name: s.Name, Role: s.Role, Jobs: s.Jobs, Via: ViaSession, ID: s.ID}
}

// SessionOptions is what NewSessions needs.
type SessionOptions struct {
	Store store.Store
	URL   string // of the frontends, as browsers see them: scheme, host, port
	// Life is how long a session lasts at most, Idle how long without being
	// used, and Refresh how old a role may be before a page asks the provider
	// again. 0: the defaults.
	Life, Idle, Refresh time.Duration
	Now                 func() time.Time // nil: time.Now
}

// The defaults of SessionOptions.
const (
	DefaultLife    = 12 * time.Hour
	DefaultIdle    = 2 * time.Hour
	DefaultRefresh = time.Hour
)

// endedAt is the folder of the sessions that were ended before their time. A
// sign-out writes there; whoever accepts a session looks there.
const endedAt = "access/ended/"

// Sessions makes, accepts and ends sessions. It is an Authenticator.
type Sessions struct {
	SessionOptions
	ring   *keyring
	origin string
	secure bool
}

// NewSessions checks the options; errors are of kind Config.
func NewSessions(o SessionOptions) (*Sessions, error) {
	for _, d := range []struct {
		v    *time.Duration
		def  time.Duration
		name string
	}{{&o.Life, DefaultLife, "life"}, {&o.Idle, DefaultIdle, "idle time"}, {&o.Refresh, DefaultRefresh, "refresh"}} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < time.Second {
			return nil, fault.Errorf(fault.Config, "the %s of sessions: %v is too short", d.name, *d.v)
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	u, err := url.Parse(o.URL)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil ||
		u.Path != "" && u.Path != "/" || strings.ContainsAny(o.URL, "?#") {
		return nil, fault.Errorf(fault.Config, "URL %.300q: expected https://host or https://host:port", o.URL)
	}
	ring := &keyring{store: o.Store, life: o.Life, now: o.Now}
	return &Sessions{SessionOptions: o, ring: ring, origin: originOf(u), secure: u.Scheme == "https"}, nil
}

// Origin is the origin of the pages, as browsers write it.
func (s *Sessions) Origin() string { return s.origin }

// cookie makes one of our cookies; value "" removes it. Its prefix binds it to
// this host and to https, so that no other site of the same domain can plant
// one.
func (s *Sessions) cookie(name, value string, life time.Duration) *http.Cookie {
	c := &http.Cookie{Name: s.cookieName(name), Value: value, Path: "/", MaxAge: int(life / time.Second),
		Secure: s.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if value == "" {
		c.MaxAge = -1
	}
	return c
}

func (s *Sessions) cookieName(name string) string {
	if s.secure {
		return "__Host-" + name
	}
	return name
}

const sessionCookie = "distci-session"

// Find returns the request's session, nil if it has none that is valid. An
// error means that it cannot be told now.
func (s *Sessions) Find(r *http.Request) (*Session, error) {
	v, err := s.read(r)
	if v == nil || err != nil {
		return nil, err
	}
	if ended, err := s.ended(r.Context(), v.ID); ended || err != nil {
		return nil, err
	}
	return v, nil
}

// read is Find for a session of which it is known that nobody has ended it.
func (s *Sessions) read(r *http.Request) (*Session, error) {
	for i, c := range r.CookiesNamed(s.cookieName(sessionCookie)) {
		if i == 4 { // there is one, unless somebody plays
			break
		}
		var v Session
		err := s.ring.open(r.Context(), sessionCookie, c.Value, &v)
		if err == nil && s.current(&v) {
			return &v, nil
		}
		if err != nil && !errors.Is(err, errSealed) {
			return nil, err
		}
	}
	return nil, nil
}

// current tells whether a session is within its times. One from the future is
// of a frontend whose clock is ahead.
func (s *Sessions) current(v *Session) bool {
	now := s.Now()
	return now.Sub(v.Began) < s.Life && now.Sub(v.Seen) < s.Idle && now.Sub(v.Read) < s.Refresh+s.Idle
}

// Stale tells whether the provider should be asked for the role of the
// request's session again. It is valid nevertheless; a page may go that way
// without anybody noticing, while a form or a script may not.
func (s *Sessions) Stale(r *http.Request) bool {
	v, err := s.read(r)
	return v != nil && err == nil && s.Now().Sub(v.Read) >= s.Refresh
}

// Authenticate is whose session it is. A cookie that is no session, or not any
// more, is as good as none. A request that changes something must come from one
// of our own pages, see SameOrigin.
func (s *Sessions) Authenticate(r *http.Request) (Principal, bool, error) {
	v, err := s.Find(r)
	if v == nil || err != nil {
		return Principal{}, false, err
	}
	if err := s.SameOrigin(r); err != nil {
		return Principal{}, false, err
	}
	return v.Principal(), true, nil
}

// SameOrigin returns an error of kind Denied for a request that could change
// something and does not prove that it comes from a page of ours. A browser
// sends its cookies along with whatever another site makes it send, so they
// prove nothing.
//
// The proof is what browsers say and scripts cannot: Sec-Fetch-Site, which they
// send to https and to this machine, and Origin, which all of them send with a
// POST. One must be there, and neither may say otherwise.
func (s *Sessions) SameOrigin(r *http.Request) error {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return nil
	}
	site, origin := r.Header.Values("Sec-Fetch-Site"), r.Header.Values("Origin")
	// A page that hides where it comes from (Referrer-Policy) has the origin "null".
	if slices.Equal(site, []string{"same-origin"}) && slices.Equal(origin, []string{"null"}) {
		return nil
	}
	ok := len(site)+len(origin) > 0
	for _, v := range site {
		ok = ok && v == "same-origin"
	}
	for _, v := range origin {
		ok = ok && v == s.origin
	}
	if !ok {
		return fault.Errorf(fault.Denied, "with a session, changes are made from the pages at %s only: the browser does not say that this comes from there; programs use a token", s.origin)
	}
	return nil
}

// Begin makes a session, whose ID and times it sets, and gives it to the
// browser. If the browser has one of the same person, that goes on; one of
// another role ends.
func (s *Sessions) Begin(w http.ResponseWriter, r *http.Request, v *Session) error {
	old, err := s.Find(r)
	if err != nil {
		return err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	now := s.Now().UTC().Truncate(time.Second)
	v.ID, v.Began, v.Read, v.Seen = id.String(), now, now, now
	if old != nil && old.Subject == v.Subject {
		v.Began = old.Began
		if old.Role == v.Role && slices.Equal(old.Jobs, v.Jobs) {
			v.ID = old.ID
		} else if err := EndSession(r.Context(), s.Store, old.ID); err != nil { // or a copy would keep the role
			return err
		}
	}
	return s.send(r.Context(), w, v)
}

// Renew gives the browser the session anew if that is due, so that it does not
// end for being idle. It is for a request that Authenticate has accepted.
func (s *Sessions) Renew(w http.ResponseWriter, r *http.Request) error {
	v, err := s.read(r)
	if v == nil || err != nil || s.Now().Sub(v.Seen) < s.Idle/8 {
		return err
	}
	v.Seen = s.Now().UTC().Truncate(time.Second)
	return s.send(r.Context(), w, v)
}

// maxCookie is what browsers keep for certain, with the name and attributes.
const maxCookie = 4096 - 256

func (s *Sessions) send(ctx context.Context, w http.ResponseWriter, v *Session) error {
	text, err := s.ring.seal(ctx, sessionCookie, v)
	if err != nil {
		return err
	}
	if len(text) > maxCookie {
		return fault.Errorf(fault.Config, "the session of %s is too large for a cookie: %d job patterns", v.Name, len(v.Jobs))
	}
	http.SetCookie(w, s.cookie(sessionCookie, text, v.Began.Add(s.Life).Sub(s.Now())))
	return nil
}

// End ends the request's session for good, also for whoever has copied the
// cookie, and returns it; nil if there is none.
func (s *Sessions) End(w http.ResponseWriter, r *http.Request) (*Session, error) {
	v, err := s.Find(r)
	if err != nil {
		return nil, err
	}
	if v != nil {
		if err := EndSession(r.Context(), s.Store, v.ID); err != nil {
			return nil, err
		}
		s.sweep(r.Context())
	}
	http.SetCookie(w, s.cookie(sessionCookie, "", 0))
	return v, nil
}

// EndSession ends the session with this id, if there is one, at every frontend
// at once. Errors are of kind Usage for what cannot be an id.
func EndSession(ctx context.Context, st store.Store, id string) error {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return fault.Errorf(fault.Usage, "session %.100q: expected the id of one, a lower-case UUID", id)
	}
	if _, err := st.Put(ctx, endedAt+id, bytes.NewReader(nil)); err != nil {
		return fault.Errorf(fault.Temporary, "end the session: %w", err)
	}
	return nil
}

// EndSessions ends the sessions of everybody, by removing the keys. Frontends
// notice within a minute.
func EndSessions(ctx context.Context, st store.Store) error {
	if err := st.Delete(ctx, keysAt); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fault.Errorf(fault.Temporary, "end the sessions: %w", err)
	}
	return nil
}

// ended tells whether a session was ended.
func (s *Sessions) ended(ctx context.Context, id string) (bool, error) {
	_, err := s.Store.Stat(ctx, endedAt+id)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fault.Errorf(fault.Temporary, "whether the session was ended: %w", err)
	}
	return true, nil
}

// sweep forgets some ended sessions that would be over anyway. Their ids are in
// the order of time, so the oldest come first. What fails now is done at
// another time.
func (s *Sessions) sweep(ctx context.Context) {
	list, err := s.Store.List(ctx, endedAt, "", 50)
	if err != nil {
		return
	}
	for _, o := range list {
		if s.Now().Sub(o.Modified) < s.Life+time.Hour { // the store's clock may be another
			continue
		}
		if err := s.Store.Delete(ctx, o.Key); err != nil && !errors.Is(err, store.ErrNotFound) {
			return
		}
	}
}

// originOf is the origin of a URL as browsers write it: no default port, lower
// case.
func originOf(u *url.URL) string {
	host := strings.ToLower(u.Host)
	switch u.Scheme + ":" + u.Port() {
	case "https:443", "http:80", "https:", "http:":
		host = strings.TrimSuffix(strings.TrimSuffix(host, u.Port()), ":")
	}
	return u.Scheme + "://" + host
}
