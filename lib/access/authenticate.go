package access

import (
	"errors"
	"net/http"

	"github.com/distci/distci/lib/fault"
)

// ErrUnauthenticated is behind every error that says: this does not show who
// you are. The answer is 401. Other errors of kind Denied say that it is known,
// and not enough.
var ErrUnauthenticated = errors.New("not authenticated")

// unauthenticated is such an error, with its own words.
type unauthenticated struct{ text string }

func (e *unauthenticated) Error() string        { return e.text }
func (e *unauthenticated) Is(target error) bool { return target == ErrUnauthenticated }

// Unauthenticated makes an error of kind Denied that is ErrUnauthenticated. The
// text goes to the client.
func Unauthenticated(text string) error {
	return fault.Wrap(fault.Denied, &unauthenticated{text})
}

// Authenticator finds out whose a request is, by one kind of evidence.
type Authenticator interface {
	// Authenticate returns whose request it is. ok is false if the request has
	// no evidence of this kind. Evidence that is there and is wrong is an
	// error: ErrUnauthenticated; another one of kind Denied for somebody who
	// is known and refused; Temporary if it cannot be found out now.
	Authenticate(r *http.Request) (p Principal, ok bool, err error)
}

// Func is an Authenticator that is a function.
type Func func(r *http.Request) (Principal, bool, error)

// Authenticate calls f.
func (f Func) Authenticate(r *http.Request) (Principal, bool, error) { return f(r) }

// Chain asks one after the other. The first that finds evidence decides: a
// request with a wrong token is not taken for an anonymous one.
type Chain []Authenticator

// Authenticate is that of the first that finds something.
func (c Chain) Authenticate(r *http.Request) (Principal, bool, error) {
	for _, a := range c {
		if p, ok, err := a.Authenticate(r); ok || err != nil {
			return p, ok, err
		}
	}
	return Principal{}, false, nil
}

// Everybody is an Authenticator for the end of a chain: whoever has presented
// nothing is p.
func Everybody(p Principal) Authenticator {
	return Func(func(*http.Request) (Principal, bool, error) { return p, true, nil })
}
