package access

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/sim"
)

var quiet = slog.New(slog.DiscardHandler)

// made makes a token and puts it into the store.
func made(t testing.TB, st store.Store, tk Token) (Token, string) {
	t.Helper()
	if tk.Name == "" {
		tk.Name = "n"
	}
	if tk.Role == "" {
		tk.Role = Read
	}
	tk, token, err := NewToken(tk, time.Now())
	if err == nil {
		err = CreateToken(t.Context(), st, tk)
	}
	if err != nil {
		t.Fatal(err)
	}
	return tk, token
}

func TestTokenFormat(t *testing.T) {
	pattern := regexp.MustCompile(TokenPattern)
	seen := map[string]bool{}
	for range 1000 {
		tk, token, err := NewToken(Token{Name: "n", Role: Read}, time.Now())
		if err != nil || seen[token] || seen[tk.ID] {
			t.Fatalf("%q: %v", token, err)
		}
		seen[token], seen[tk.ID] = true, true
		if pattern.FindString(`x="`+token+`";`) != token {
			t.Fatalf("a scanner does not find %q", token)
		}
		id, secret, err := parseToken(token)
		if err != nil || id != tk.ID || hashOf(secret) != tk.Hash || !strings.HasSuffix(token, tk.Last) {
			t.Fatalf("%q: %q %q %v", token, id, secret, err)
		}
		if strings.Contains(tk.Hash+tk.ID+tk.Last, secret) {
			t.Fatal("the record has the secret")
		}
		// A digit that was written wrongly is noticed without the store.
		i := len(tokenPrefix) + len(token)%7
		if _, _, err := parseToken(token[:i] + "A" + token[i+1:]); !errors.Is(err, ErrUnauthenticated) {
			t.Fatalf("%v", err)
		}
	}
}

func TestNewTokenRefuses(t *testing.T) {
	now := time.Now()
	for _, tk := range []Token{
		{Role: Read},
		{Name: "a\nb", Role: Read},
		{Name: strings.Repeat("x", 101), Role: Read},
		{Name: "n"},
		{Name: "n", Role: Public},
		{Name: "n", Role: Read, Jobs: []string{"a", ""}},
		{Name: "n", Role: Read, Expires: now},
	} {
		if _, token, err := NewToken(tk, now); fault.Of(err) != fault.Usage || token != "" {
			t.Errorf("%+v: %v", tk, err)
		}
	}
}

// FuzzParseToken: what is taken for a token is one, in one way only, and no
// error tells what was presented.
func FuzzParseToken(f *testing.F) {
	_, good, err := NewToken(Token{Name: "n", Role: Read}, time.Now())
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{good, good + "0", good[:len(good)-1], strings.ToUpper(good), " " + good, good[:40] + "\x00" + good[41:], "", "distci_", strings.Repeat("distci_", 10)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, secret, err := parseToken(s)
		if err != nil {
			if !errors.Is(err, ErrUnauthenticated) || id != "" || secret != "" || len(s) > 12 && strings.Contains(err.Error(), s) {
				t.Errorf("%q: %q %q %v", s, id, secret, err)
			}
			return
		}
		token := tokenPrefix + id + "_" + secret
		if again := token + check(token); again != s || store.CheckKey(tokensPrefix+id) != nil {
			t.Errorf("%q is taken for %q", s, again)
		}
	})
}

// FuzzAuthorization: no header makes anything but a refusal of one that is not
// a token.
func FuzzAuthorization(f *testing.F) {
	st := sim.New(time.Now).Open()
	ts := NewTokens(st, quiet)
	for _, s := range []string{"Bearer x", "bearer", "Bearer  ", "Basic eDp5", "Bearer\tx", "Bearer x, Bearer y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Authorization"] = []string{s}
		p, ok, err := ts.Authenticate(r)
		if ok || p.Role != "" || err != nil && !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("%q: %v %v %v", s, p, ok, err)
		}
	})
}

func TestVerify(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := sim.New(time.Now).Open()
		ts := NewTokens(st, quiet)
		tk, token := made(t, st, Token{Name: "forge", Role: Trigger, Jobs: []string{"web-*"}, Expires: time.Now().Add(time.Hour)})
		verify := func(token string) (Principal, string) {
			t.Helper()
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Authorization", "bearer "+token)
			p, ok, err := ts.Authenticate(r)
			if ok != (err == nil) {
				t.Errorf("%v, %v", ok, err)
			}
			if err != nil {
				if !errors.Is(err, ErrUnauthenticated) || strings.Contains(err.Error(), token) {
					t.Errorf("%v", err)
				}
				return p, err.Error()
			}
			return p, ""
		}
		if p, err := verify(token); err != "" || p.Name != "forge" || p.Role != Trigger || p.ID != tk.ID || p.Via != ViaToken || len(p.Jobs) != 1 {
			t.Errorf("%+v, %v", p, err)
		}
		// Another secret, with a check sum that is right.
		wrong := token[:len(tokenPrefix)+idDigits+1] + strings.Repeat("0", keyDigits)
		if p, err := verify(wrong + check(wrong)); err == "" || p.Role != "" {
			t.Errorf("a wrong secret: %+v", p)
		}
		// One that was made a moment later is known at once, at most a second on.
		_, later := made(t, st, Token{})
		time.Sleep(lookAgain)
		if _, err := verify(later); err != "" {
			t.Error(err)
		}
		// Revoked: it may work for TokenAge, and not a moment longer.
		if err := RevokeToken(t.Context(), st, strings.Split(later, "_")[1]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(TokenAge)
		if _, err := verify(later); !strings.Contains(err, "revoked") {
			t.Errorf("revoked: %q", err)
		}
		time.Sleep(time.Until(tk.Expires) - 1)
		if _, err := verify(token); err != "" {
			t.Error(err)
		}
		time.Sleep(time.Nanosecond)
		if _, err := verify(token); !strings.Contains(err, "expired") {
			t.Errorf("expired: %q", err)
		}
		two := httptest.NewRequest("GET", "/", nil)
		two.Header["Authorization"] = []string{"Bearer " + token, "Bearer " + token}
		if _, ok, err := ts.Authenticate(two); ok || !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("two headers: %v, %v", ok, err)
		}
	})
}

// TestUnknownTokensAreCheap: a flood of tokens that nobody has made, from
// however many, is a listing a second for the store.
func TestUnknownTokensAreCheap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := sim.New(time.Now).Open()
		_, good := made(t, st, Token{})
		var reads atomic.Int64
		st.Hook = func(op, key string, do func() error) error {
			reads.Add(1)
			time.Sleep(50 * time.Millisecond) // so that they meet
			return do()
		}
		ts := NewTokens(st, quiet)
		const seconds = 20
		begin := time.Now()
		done := make(chan bool)
		for range 50 {
			go func() {
				for time.Since(begin) < seconds*time.Second {
					_, token, _ := NewToken(Token{Name: "n", Role: Admin}, time.Now())
					if p, err := ts.Verify(t.Context(), token); err == nil {
						t.Errorf("%+v", p)
					}
					if _, err := ts.Verify(t.Context(), good); err != nil {
						t.Error(err)
					}
					time.Sleep(20 * time.Millisecond)
				}
				done <- true
			}()
		}
		for range 50 {
			<-done
		}
		if n := reads.Load(); n > seconds+3 { // and the one record, once
			t.Errorf("%d reads of the store in %d seconds", n, seconds)
		}
	})
}

// TestTokensWithoutStore: while the store does not answer nobody is let in, not
// even he whom we knew, once that is too old; and the store is left alone.
func TestTokensWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := sim.New(time.Now).Open()
		_, good := made(t, st, Token{})
		ts := NewTokens(st, quiet)
		if _, err := ts.Verify(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		reads := 0
		st.Hook = func(op, key string, do func() error) error { reads++; return store.ErrUnknown }
		if _, err := ts.Verify(t.Context(), good); err != nil || reads > 0 {
			t.Errorf("%v after %d reads", err, reads)
		}
		time.Sleep(TokenAge)
		for range 10 {
			if p, err := ts.Verify(t.Context(), good); fault.Of(err) != fault.Temporary || errors.Is(err, ErrUnauthenticated) || p.Role != "" {
				t.Errorf("%+v, %v", p, err)
			}
		}
		if reads != 1 {
			t.Errorf("%d reads", reads)
		}
		st.Hook = func(_, _ string, do func() error) error { return do() }
		time.Sleep(lookAgain)
		if _, err := ts.Verify(t.Context(), good); err != nil {
			t.Error(err)
		}
	})
}

// TestGoneClientIsNoFailure: the one who asks first may go away while he waits
// for the store; the others do not suffer for it.
func TestGoneClientIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := sim.New(time.Now).Open()
		_, good := made(t, st, Token{})
		ts := NewTokens(st, quiet)
		ctx, cancel := context.WithCancel(t.Context())
		slow := true
		st.Hook = func(op, key string, do func() error) error {
			if slow {
				slow = false
				<-ctx.Done()
				return ctx.Err()
			}
			return do()
		}
		first := make(chan error)
		go func() { _, err := ts.Verify(ctx, good); first <- err }()
		synctest.Wait()
		second := make(chan error)
		go func() { _, err := ts.Verify(t.Context(), good); second <- err }()
		synctest.Wait()
		cancel()
		if err := <-first; err == nil {
			t.Error("the first was let in")
		}
		if err := <-second; err != nil {
			t.Error(err)
		}
	})
}

// TestDamagedRecord: it is refused, told, and the others are not.
func TestDamagedRecord(t *testing.T) {
	st := sim.New(time.Now).Open()
	tk, token := made(t, st, Token{})
	_, good := made(t, st, Token{})
	for _, text := range []string{"{", "{}", `{"id":"` + tk.ID + `","role":"admin","hash":""}`, `{"id":"other"}`} {
		if _, err := st.Put(t.Context(), tokensPrefix+tk.ID, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		ts := NewTokens(st, quiet)
		if p, err := ts.Verify(t.Context(), token); !errors.Is(err, ErrUnauthenticated) {
			t.Errorf("%s: %+v, %v", text, p, err)
		}
		if _, err := ts.Verify(t.Context(), good); err != nil {
			t.Error(err)
		}
		if all, bad, err := ListTokens(t.Context(), st); err != nil || len(all) != 1 || len(bad) != 1 || bad[0] != tk.ID {
			t.Errorf("%s: %v %v %v", text, all, bad, err)
		}
	}
	for _, id := range []string{"", "x", "../../jobs/j", "0000000000000", "00000000000A"} {
		if err := RevokeToken(t.Context(), st, id); !errors.Is(err, ErrNoToken) {
			t.Errorf("%q: %v", id, err)
		}
	}
}
