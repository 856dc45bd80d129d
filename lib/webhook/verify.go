package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/distci/distci/lib/fault"
)

// Signed tells whether a delivery has a signature at all, right or wrong. One
// without need not be received.
func Signed(f Forge, h http.Header) bool { return signature(f, h) != "" }

// signature is a delivery's, in hex; of GitLab the token, as it signs nothing.
func signature(f Forge, h http.Header) string {
	switch f {
	case GitHub:
		s, _ := strings.CutPrefix(h.Get("X-Hub-Signature-256"), "sha256=")
		return s
	case Gitea:
		return first(h, "X-Gitea-Signature", "X-Forgejo-Signature")
	case GitLab:
		return h.Get("X-Gitlab-Token")
	}
	return ""
}

// verify returns ErrSignature unless one of the secrets has signed the body, in
// a time that depends on neither.
func verify(f Forge, h http.Header, body []byte, secrets []string) error {
	sig := signature(f, h)
	if sig == "" {
		return ErrSignature
	}
	var signed []byte
	if f != GitLab {
		var err error
		if signed, err = hex.DecodeString(sig); err != nil {
			return ErrSignature
		}
		// Gitea sends a form, and signs the payload in it.
		if f == Gitea && isForm(h) {
			if body, err = formPayload(body); err != nil {
				return ErrSignature
			}
		}
	}
	if len(secrets) == 0 {
		secrets = []string{""} // that there is none shall take as long
	}
	good := 0
	for _, secret := range secrets {
		same := 0
		if f == GitLab {
			want, got := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(sig))
			same = subtle.ConstantTimeCompare(want[:], got[:])
		} else {
			same = subtle.ConstantTimeCompare(sum(body, secret), signed)
		}
		if secret != "" { // which is everybody's
			good |= same
		}
	}
	if good == 0 {
		return ErrSignature
	}
	return nil
}

func sum(body []byte, secret string) []byte {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(body)
	return mac.Sum(nil)
}

// key makes what a repeat is known by. A header is not signed, and so says
// nothing: a delivery that somebody has recorded would be a new one with another
// id. What GitHub and Gitea sign has the times of what has happened in it, and is
// not the same twice. GitLab signs nothing; its payload is taken along because
// webhooks that set off each other share an id.
func key(f Forge, h http.Header, payload []byte) string {
	digest := sha256.New()
	if f == GitLab {
		fmt.Fprintf(digest, "%s\n", first(h, "Idempotency-Key", "X-Gitlab-Event-UUID"))
	}
	digest.Write(payload)
	return string(f) + "-" + hex.EncodeToString(digest.Sum(nil))
}

func mediaType(h http.Header) string {
	typ, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return typ
}

func isForm(h http.Header) bool { return mediaType(h) == "application/x-www-form-urlencoded" }

// Readable returns ErrMediaType for a content type that is not one of ours.
func Readable(h http.Header) error {
	if mediaType(h) != "application/json" && !isForm(h) {
		return ErrMediaType
	}
	return nil
}

// payload is the JSON of a body.
func payload(h http.Header, body []byte) ([]byte, error) {
	if err := Readable(h); err != nil {
		return nil, err
	}
	if isForm(h) {
		return formPayload(body)
	}
	return body, nil
}

func formPayload(body []byte) ([]byte, error) {
	form, err := url.ParseQuery(string(body))
	if err == nil && !form.Has("payload") {
		err = errors.New("it has no field payload")
	}
	if err != nil {
		return nil, fault.Errorf(fault.BadTicket, "the form cannot be read: %w", err)
	}
	return []byte(form.Get("payload")), nil
}
