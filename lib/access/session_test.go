package access

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/sim"
)

const site = "https://ci.example.org"

// clock is a time that a test moves.
type clock struct{ t time.Time }

func newClock() *clock { return &clock{time.Date(2026, 5, 1, 8, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time { return c.t }

func (c *clock) after(d time.Duration) *clock { c.t = c.t.Add(d); return c }

// newSessions are those of one frontend.
func newSessions(t testing.TB, st store.Store, c *clock) *Sessions {
	t.Helper()
	s, err := NewSessions(SessionOptions{Store: st, URL: site, Now: c.now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// browser keeps cookies as they are set, and sends them.
type browser map[string]*http.Cookie

func (b browser) keep(w *httptest.ResponseRecorder) {
	for _, c := range w.Result().Cookies() {
		if c.MaxAge < 0 {
			delete(b, c.Name)
		} else {
			b[c.Name] = c
		}
	}
}

func (b browser) request(method, target string, header ...string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	for _, c := range b {
		r.AddCookie(c)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

// begin signs somebody in.
func (b browser) begin(t testing.TB, s *Sessions, v Session) Session {
	t.Helper()
	w := httptest.NewRecorder()
	if err := s.Begin(w, b.request("GET", "/"), &v); err != nil {
		t.Fatal(err)
	}
	b.keep(w)
	return v
}

// is tells who the browser is at a frontend; "": nobody.
func (b browser) is(t testing.TB, s *Sessions) string {
	t.Helper()
	p, ok, err := s.Authenticate(b.request("GET", "/"))
	if err != nil {
		t.Fatal(err)
	}
	if ok != (p.Name != "") {
		t.Fatalf("ok %v and %q", ok, p.Name)
	}
	return p.Name
}

var ada = Session{Subject: "1", Name: "ada", Role: Trigger, Jobs: []string{"web-*"}}

// TestSession: what somebody is at one frontend he is at all of them; the
// cookie is for the browser alone.
func TestSession(t *testing.T) {
	st, c := sim.New(time.Now).Open(), newClock()
	one, two, b := newSessions(t, st, c), newSessions(t, st, c), browser{}
	if got := b.is(t, one); got != "" {
		t.Errorf("without a cookie it is %q", got)
	}
	v := b.begin(t, one, ada)
	k := b["__Host-distci-session"]
	if k == nil || !k.Secure || !k.HttpOnly || k.SameSite != http.SameSiteLaxMode || k.Path != "/" || k.Domain != "" || k.MaxAge != 12*3600 {
		t.Fatalf("the cookie is %+v", k)
	}
	if strings.Contains(k.Value, "ada") {
		t.Error("the cookie can be read")
	}
	p, ok, err := two.Authenticate(b.request("GET", "/"))
	if !ok || err != nil || p.Name != "ada" || p.Role != Trigger || len(p.Jobs) != 1 || p.Via != ViaSession || p.ID != v.ID {
		t.Errorf("at the other frontend it is %+v, %v, %v", p, ok, err)
	}
	plain, err := NewSessions(SessionOptions{Store: st, URL: "http://localhost:8088/"})
	if err != nil {
		t.Fatal(err)
	}
	b = browser{}
	b.begin(t, plain, ada)
	if k := b["distci-session"]; k == nil || k.Secure || !k.HttpOnly {
		t.Errorf("over http the cookie is %+v", k)
	}
}

// TestSessionTimes: a session ends when it is old, and when it was not used, and
// when its role is old; being used keeps it, for its life.
func TestSessionTimes(t *testing.T) {
	use := func(t *testing.T, s *Sessions, b browser) {
		w := httptest.NewRecorder()
		if err := s.Renew(w, b.request("GET", "/")); err != nil {
			t.Fatal(err)
		}
		b.keep(w)
	}
	t.Run("idle", func(t *testing.T) {
		c, b := newClock(), browser{}
		s := newSessions(t, sim.New(c.now).Open(), c)
		b.begin(t, s, ada)
		if c.after(DefaultIdle - time.Second); b.is(t, s) == "" {
			t.Error("it ended early")
		}
		if c.after(time.Second); b.is(t, s) != "" {
			t.Error("it has not ended")
		}
	})
	t.Run("role", func(t *testing.T) {
		c, b := newClock(), browser{}
		s := newSessions(t, sim.New(c.now).Open(), c)
		b.begin(t, s, ada)
		var used time.Duration
		for ; b.is(t, s) != ""; used += 10 * time.Minute {
			if stale := s.Stale(b.request("GET", "/")); stale != (used >= DefaultRefresh) {
				t.Errorf("after %v stale is %v", used, stale)
			}
			use(t, s, b)
			c.after(10 * time.Minute)
		}
		if used != DefaultRefresh+DefaultIdle {
			t.Errorf("it ended after %v", used)
		}
	})
	t.Run("life", func(t *testing.T) {
		c, b := newClock(), browser{}
		s := newSessions(t, sim.New(c.now).Open(), c)
		first := b.begin(t, s, ada)
		var used time.Duration
		for ; b.is(t, s) != ""; used += time.Hour {
			if v := b.begin(t, s, ada); v.ID != first.ID || !v.Began.Equal(first.Began) {
				t.Fatalf("after %v it is another session: %+v", used, v)
			}
			c.after(time.Hour)
		}
		if used != DefaultLife {
			t.Errorf("it ended after %v", used)
		}
		if v := b.begin(t, s, ada); v.ID == first.ID {
			t.Error("a new session has the id of an old one")
		}
	})
	t.Run("somebody else", func(t *testing.T) {
		c, b := newClock(), browser{}
		s := newSessions(t, sim.New(c.now).Open(), c)
		first := b.begin(t, s, ada)
		if v := b.begin(t, s, Session{Subject: "2", Name: "bob", Role: Read}); v.ID == first.ID {
			t.Error("bob goes on with ada's session")
		}
	})
}

// TestSignOut: a session that was ended is over everywhere at once, also for a
// copy of the cookie, and one that goes on under the same id.
func TestSignOut(t *testing.T) {
	c := newClock()
	st := sim.New(c.now).Open()
	one, two, b := newSessions(t, st, c), newSessions(t, st, c), browser{}
	v := b.begin(t, one, ada)
	copied := browser{}
	for k, v := range b {
		copied[k] = v
	}
	c.after(time.Hour)
	b.begin(t, two, ada) // the role was read again
	w := httptest.NewRecorder()
	ended, err := two.End(w, b.request("POST", "/"))
	if err != nil || ended == nil || ended.ID != v.ID {
		t.Fatalf("%+v, %v", ended, err)
	}
	again := browser{}
	for k, v := range b {
		again[k] = v
	}
	b.keep(w)
	if len(b) > 0 {
		t.Errorf("the browser still has %v", b)
	}
	for name, b := range map[string]browser{"the browser": b, "a copy": copied, "a later copy": again} {
		for i, s := range []*Sessions{one, two} {
			if got := b.is(t, s); got != "" {
				t.Errorf("%s is %q at frontend %d", name, got, i)
			}
		}
	}
	if v, err := one.End(httptest.NewRecorder(), b.request("POST", "/")); v != nil || err != nil {
		t.Errorf("without a session: %v, %v", v, err)
	}
	// What is remembered of it is forgotten when it would be over anyway.
	c.after(DefaultLife + 2*time.Hour)
	b.begin(t, one, ada)
	if _, err := one.End(httptest.NewRecorder(), b.request("POST", "/")); err != nil {
		t.Fatal(err)
	}
	if list, err := st.List(t.Context(), endedAt, "", 0); len(list) != 1 || err != nil {
		t.Errorf("%d ended sessions are remembered, %v", len(list), err)
	}
}

// TestEndSessions: one session is ended, and no other; without the keys nobody
// has a session, soon.
func TestEndSessions(t *testing.T) {
	c := newClock()
	st := sim.New(c.now).Open()
	one, two, b := newSessions(t, st, c), newSessions(t, st, c), browser{}
	b.begin(t, one, ada)
	if b.is(t, two) == "" {
		t.Fatal("it has not begun")
	}
	single := browser{}
	v := single.begin(t, one, ada)
	if err := EndSession(t.Context(), st, v.ID); err != nil || single.is(t, one)+single.is(t, two) != "" || b.is(t, two) == "" {
		t.Errorf("to end one session: %v", err)
	}
	for _, id := range []string{"", "../tokens/x", strings.ToUpper(v.ID), "{" + v.ID + "}"} {
		if err := EndSession(t.Context(), st, id); fault.Of(err) != fault.Usage {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := EndSessions(t.Context(), st); err != nil {
		t.Fatal(err)
	}
	c.after(keyReread)
	if b.is(t, one) != "" || b.is(t, two) != "" {
		t.Error("it goes on")
	}
	b.begin(t, one, ada)
	if c.after(keyUnknown); b.is(t, two) == "" {
		t.Error("a new one is not accepted")
	}
	if err := EndSessions(t.Context(), sim.New(c.now).Open()); err != nil {
		t.Errorf("where there are none: %v", err)
	}
}

// TestKeys: keys change, and what was sealed with the old one is good until it
// would be over anyway. However many frontends make the first key, all agree.
func TestKeys(t *testing.T) {
	c := newClock()
	st := sim.New(c.now).Open()
	rings := make([]*keyring, 8)
	for i := range rings {
		rings[i] = &keyring{store: st, life: DefaultLife, now: c.now}
	}
	texts := make(chan string, len(rings))
	for _, k := range rings {
		go func() {
			text, err := k.seal(t.Context(), "p", "v")
			if err != nil {
				t.Error(err)
			}
			texts <- text
		}()
	}
	for range rings {
		text := <-texts
		for i, k := range rings {
			var v string
			if err := k.open(t.Context(), "p", text, &v); err != nil || v != "v" {
				t.Errorf("frontend %d opens %q: %v", i, v, err)
			}
		}
	}
	one, two := rings[0], rings[1]
	seal := func(k *keyring) (string, string) {
		t.Helper()
		text, err := k.seal(t.Context(), "p", "v")
		if err != nil {
			t.Fatal(err)
		}
		id, _, _ := strings.Cut(text, ".")
		return text, id
	}
	opens := func(k *keyring, text string) error {
		var v string
		return k.open(t.Context(), "p", text, &v)
	}
	c.after(keyRotate - time.Second)
	old, first := seal(one)
	c.after(time.Minute)
	if _, id := seal(one); id != first { // it has made the new one
		t.Error("the new key is used before the others have it")
	}
	if err := opens(two, old); err != nil {
		t.Error(err)
	}
	c.after(keySettle)
	text, second := seal(one)
	if second == first {
		t.Fatal("the key has not changed")
	}
	for i, k := range rings[:2] {
		if opens(k, text) != nil || opens(k, old) != nil {
			t.Errorf("frontend %d: %v, %v", i, opens(k, text), opens(k, old))
		}
	}
	c.after(keyRotate) // the one after next: the first is of no use to anybody
	seal(one)
	if err := opens(one, old); !errors.Is(err, errSealed) {
		t.Errorf("the oldest key still opens: %v", err)
	}
	if err := opens(one, text); err != nil {
		t.Errorf("the last but one does not: %v", err)
	}
}

// TestTampering: nothing but what we have sealed for this purpose is taken for
// it, whatever is changed.
func TestTampering(t *testing.T) {
	c := newClock()
	s, b := newSessions(t, sim.New(c.now).Open(), c), browser{}
	b.begin(t, s, ada)
	good := b["__Host-distci-session"].Value
	other, _ := newSessions(t, sim.New(c.now).Open(), c), browser{}
	foreign, err := other.ring.seal(t.Context(), sessionCookie, ada)
	if err != nil {
		t.Fatal(err)
	}
	purpose, err := s.ring.seal(t.Context(), signInCookie+"x", ada)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string]string{
		"empty": "", "dot": ".", "no dot": strings.Replace(good, ".", "", 1), "twice": good + good, "cut": good[:len(good)-1],
		"padded": good + "=", "other alphabet": strings.NewReplacer("-", "+", "_", "/").Replace(good) + "+", "no key": "." + strings.SplitN(good, ".", 2)[1],
		"another cluster": foreign, "another purpose": purpose, "long": good + strings.Repeat("A", 10000), "short": strings.SplitN(good, ".", 2)[0] + ".AAAA",
		"another cluster's body": strings.SplitN(good, ".", 2)[0] + "." + strings.SplitN(foreign, ".", 2)[1],
	}
	for i := range good {
		changed := []byte(good)
		changed[i] = map[bool]byte{true: 'B', false: 'A'}[changed[i] == 'A']
		bad["byte"+string(rune(i))] = string(changed)
	}
	for name, v := range bad {
		b := browser{"s": {Name: "__Host-distci-session", Value: v}}
		if got := b.is(t, s); got != "" {
			t.Errorf("%s: %q is %q", name, v, got)
		}
	}
	// A cookie that somebody has planted does not lock its owner out.
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Cookie", "__Host-distci-session=planted; __Host-distci-session="+good)
	if p, _, err := s.Authenticate(r); p.Name != "ada" || err != nil {
		t.Errorf("beside another cookie it is %q, %v", p.Name, err)
	}
	// The name without its prefix could be set by other sites of the domain.
	r = httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Cookie", "distci-session="+good)
	if _, ok, _ := s.Authenticate(r); ok {
		t.Error("a cookie without the prefix is taken")
	}
}

// TestSameOrigin: what changes something with a cookie comes from our pages, as
// far as the browser says, of whatever age it is.
func TestSameOrigin(t *testing.T) {
	c := newClock()
	s, b := newSessions(t, sim.New(c.now).Open(), c), browser{}
	b.begin(t, s, ada)
	for _, k := range []struct {
		name   string
		ok     bool
		header []string
	}{
		{"a browser of today", true, []string{"Sec-Fetch-Site", "same-origin", "Origin", site}},
		{"the same, hiding its origin", true, []string{"Sec-Fetch-Site", "same-origin", "Origin", "null"}},
		{"the same, a request without a body", true, []string{"Sec-Fetch-Site", "same-origin"}},
		{"an older one, or over http", true, []string{"Origin", site}},
		{"an old one that says nothing", false, nil},
		{"an old one that says where it was", false, []string{"Referer", site + "/ui/"}},
		{"another site", false, []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}},
		{"another site, in an old browser", false, []string{"Origin", "https://evil.example"}},
		{"another site in a sandbox", false, []string{"Sec-Fetch-Site", "cross-site", "Origin", "null"}},
		{"the same, in an old browser", false, []string{"Origin", "null"}},
		{"a neighbour of the same domain", false, []string{"Sec-Fetch-Site", "same-site", "Origin", "https://www.example.org"}},
		{"the address bar", false, []string{"Sec-Fetch-Site", "none"}},
		{"http of the same host", false, []string{"Origin", "http://ci.example.org"}},
		{"another port", false, []string{"Origin", site + ":8443"}},
		{"a host that begins alike", false, []string{"Origin", site + ".evil.example"}},
		{"a path", false, []string{"Origin", site + "/"}},
		{"contradiction", false, []string{"Sec-Fetch-Site", "same-origin", "Origin", "https://evil.example"}},
		{"contradiction the other way", false, []string{"Sec-Fetch-Site", "cross-site", "Origin", site}},
		{"twice", false, []string{"Origin", site, "Origin", "https://evil.example"}},
		{"nothing said", false, []string{"Sec-Fetch-Site", "", "Origin", ""}},
	} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "ODD"} {
			p, ok, err := s.Authenticate(b.request(method, "/", k.header...))
			if ok != k.ok || (err == nil) != k.ok {
				t.Errorf("%s, %s: %v, %v", k.name, method, ok, err)
			}
			if err != nil && (fault.Of(err) != fault.Denied || errors.Is(err, ErrUnauthenticated) || p.Name != "") {
				t.Errorf("%s, %s: %v of kind %s", k.name, method, err, fault.Of(err))
			}
		}
		if _, ok, err := s.Authenticate(b.request("GET", "/", k.header...)); !ok || err != nil {
			t.Errorf("%s, GET: %v, %v", k.name, ok, err)
		}
	}
	// Without a session it is not our business: a program has a token.
	if _, ok, err := s.Authenticate(browser{}.request("POST", "/", "Origin", "https://evil.example")); ok || err != nil {
		t.Errorf("without a session: %v, %v", ok, err)
	}
}

// TestSessionOptions: what is not a URL of frontends.
func TestSessionOptions(t *testing.T) {
	for _, u := range []string{"", "ci.example.org", "ftp://x", "https://", "https://x/path", "https://user@x", "https://x?q", "https://x?", "https://x#f", "https://x/#", "://"} {
		if _, err := NewSessions(SessionOptions{URL: u}); fault.Of(err) != fault.Config {
			t.Errorf("%q: %v", u, err)
		}
	}
	for u, want := range map[string]string{"https://CI.example.org:443/": site, "http://x:80": "http://x", "http://[::1]:8088": "http://[::1]:8088", "https://x:80": "https://x:80", "https://x:": "https://x"} {
		s, err := NewSessions(SessionOptions{URL: u})
		if err != nil || s.Origin() != want {
			t.Errorf("%q: %v, %v", u, s, err)
		}
	}
	if _, err := NewSessions(SessionOptions{URL: site, Idle: -time.Hour}); fault.Of(err) != fault.Config {
		t.Errorf("%v", err)
	}
}

// TestSessionTooLarge: no browser would keep it.
func TestSessionTooLarge(t *testing.T) {
	c := newClock()
	v := ada
	v.Jobs = strings.Split(strings.Repeat("a-job-with-a-name ", 300), " ")
	err := newSessions(t, sim.New(c.now).Open(), c).Begin(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil), &v)
	if fault.Of(err) != fault.Config {
		t.Errorf("%v", err)
	}
}

// FuzzOpen: no text that we have not made opens, and none does harm.
func FuzzOpen(f *testing.F) {
	c := newClock()
	s := newSessions(f, sim.New(c.now).Open(), c)
	good, err := s.ring.seal(f.Context(), sessionCookie, ada)
	if err != nil {
		f.Fatal(err)
	}
	id, _, _ := strings.Cut(good, ".")
	for _, seed := range []string{"", ".", "a.b", id, id + ".", id + ".AAAA", "." + id, id + "..", id + "." + strings.Repeat("A", 60), strings.Repeat(".", 9000), good[:len(good)/2]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, text := range []string{text, id + "." + text} {
			var v Session
			if err := s.ring.open(t.Context(), sessionCookie, text, &v); !errors.Is(err, errSealed) && text != good {
				t.Fatalf("%q: %v, %+v", text, err, v)
			}
		}
	})
}
