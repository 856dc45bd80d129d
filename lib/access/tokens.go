package access

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

const (
	// TokenAge is how old what a frontend knows of the tokens may be: within
	// it a revocation takes effect everywhere.
	TokenAge = 5 * time.Second
	// lookAgain is how often at most an unknown token makes us look whether it
	// was made just now, and how long a store that has failed is left alone.
	lookAgain = time.Second
	lookTime  = 10 * time.Second
)

// Tokens is the Authenticator of bearer tokens. It has the records of all
// tokens in memory and looks at the store again when they are older than
// TokenAge; so a flood of unknown tokens costs one listing a second, however
// many come and from wherever.
type Tokens struct {
	st  store.Store
	log *slog.Logger
	now func() time.Time

	turn chan struct{} // held by whoever reads the store

	mu     sync.Mutex
	all    map[string]stored
	as     time.Time // that all is known to be true of
	failed error
	tried  time.Time // when the store has failed
}

// NewTokens returns the Authenticator of the tokens in st.
func NewTokens(st store.Store, log *slog.Logger) *Tokens {
	return &Tokens{st: st, log: log, now: time.Now, turn: make(chan struct{}, 1)}
}

// Authenticate looks at the header Authorization. Another scheme than Bearer is
// no evidence.
func (ts *Tokens) Authenticate(r *http.Request) (Principal, bool, error) {
	header := r.Header["Authorization"]
	if len(header) > 1 {
		return Principal{}, false, Unauthenticated("there is more than one header Authorization")
	}
	if len(header) == 0 {
		return Principal{}, false, nil
	}
	scheme, token, _ := strings.Cut(header[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return Principal{}, false, nil
	}
	p, err := ts.Verify(r.Context(), strings.TrimSpace(token))
	return p, err == nil, err
}

// Verify tells whose a token is. Errors: ErrUnauthenticated; Temporary if the
// store does not answer.
func (ts *Tokens) Verify(ctx context.Context, token string) (Principal, error) {
	id, secret, err := parseToken(token)
	if err != nil {
		return Principal{}, err
	}
	t, found, err := ts.find(ctx, id)
	if err != nil {
		return Principal{}, err
	}
	want := t.Hash
	if !found { // takes as long as a known one
		want = strings.Repeat("0", 64)
	}
	if subtle.ConstantTimeCompare([]byte(hashOf(secret)), []byte(want)) != 1 || !found {
		return Principal{}, Unauthenticated("the token is not known here, or was revoked")
	}
	if !t.Expires.IsZero() && !ts.now().Before(t.Expires) {
		return Principal{}, Unauthenticated("the token has expired on " + t.Expires.Format(time.RFC3339))
	}
	return Principal{Name: t.Name, Role: t.Role, Jobs: t.Jobs, Via: ViaToken, ID: t.ID}, nil
}

// find returns a token's record. One that is not known is looked for again, for
// it may have been made since.
func (ts *Tokens) find(ctx context.Context, id string) (Token, bool, error) {
	for _, age := range []time.Duration{TokenAge, lookAgain} {
		all, err := ts.current(ctx, age)
		if err != nil {
			return Token{}, false, err
		}
		if s, ok := all[id]; ok && s.bad == nil {
			return s.token, true, nil
		}
	}
	return Token{}, false, nil
}

// current returns the records as they were at most age ago.
func (ts *Tokens) current(ctx context.Context, age time.Duration) (map[string]stored, error) {
	if all, err, ok := ts.known(age); ok {
		return all, err
	}
	select {
	case ts.turn <- struct{}{}:
		defer func() { <-ts.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if all, err, ok := ts.known(age); ok { // somebody else has looked meanwhile
		return all, err
	}
	begun := ts.now()
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	all, err := readTokens(ctx, ts.st, ts.all) // written below only, in our turn
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if errors.Is(err, context.Canceled) { // it was the client that has gone
		return nil, err
	}
	if err != nil {
		ts.log.Error("the tokens cannot be read", "error", err)
		ts.failed, ts.tried = fault.Errorf(fault.Temporary, "the tokens cannot be read: %v", err), ts.now()
		return nil, ts.failed
	}
	for id, s := range all {
		if s.bad != nil && ts.all[id].version != s.version {
			ts.log.Error("the record of a token cannot be read; it is refused", "token", id, "error", s.bad)
		}
	}
	ts.all, ts.as, ts.failed = all, begun, nil
	return all, nil
}

// known is what can be said without looking at the store.
func (ts *Tokens) known(age time.Duration) (map[string]stored, error, bool) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	now := ts.now()
	if ts.all != nil && now.Sub(ts.as) < age {
		return ts.all, nil, true
	}
	if ts.failed != nil && now.Sub(ts.tried) < lookAgain {
		return nil, ts.failed, true
	}
	return nil, nil, false
}

func sortTokens(tokens []Token) {
	slices.SortFunc(tokens, func(a, b Token) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
}
