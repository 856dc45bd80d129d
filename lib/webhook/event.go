// Package webhook verifies and reads what GitHub, GitLab and Gitea (and so
// Forgejo) send when something is pushed or proposed, and tells which builds a
// job wants for it.
//
// The formats are those of
//   - https://docs.github.com/en/webhooks/webhook-events-and-payloads
//   - https://docs.gitlab.com/user/project/integrations/webhook_events/
//   - https://docs.gitea.com/usage/webhooks
//
// Of a delivery's hundreds of fields the dozen is read that a build is about,
// into structs of our own. The libraries that there are read all of them, so
// that a field which changes its type somewhere else makes a push unreadable;
// they do not read the forms that GitHub and Gitea can send, take bodies of any
// size, and one of them lets a delivery pass if no secret is set.
package webhook

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/distci/distci/lib/fault"
)

// MaxSize bounds a delivery's body, in bytes: GitHub sends no more, and the
// others less.
const MaxSize = 25 << 20

// Forge is a kind of server that sends deliveries.
type Forge string

// The forges. Forgejo sends what Gitea does.
const (
	GitHub Forge = "github"
	GitLab Forge = "gitlab"
	Gitea  Forge = "gitea"
)

// Forges lists the forges.
func Forges() []Forge { return []Forge{GitHub, GitLab, Gitea} }

// ParseForge reads the name of a forge. Errors are of kind Usage.
func ParseForge(s string) (Forge, error) {
	for _, f := range Forges() {
		if s == string(f) {
			return f, nil
		}
	}
	return "", fault.Errorf(fault.Usage, "forge %.40q: expected github, gitlab or gitea", s)
}

// Kind is the kind of an event.
type Kind string

// The kinds of events that a job can want, and Ping, by which a forge tries
// whether it can reach us.
const (
	Push        Kind = "push" // to a branch
	Tag         Kind = "tag"  // a tag was pushed
	PullRequest Kind = "pull_request"
	Ping        Kind = "ping"
)

// Event is what a delivery says. Its texts are the sender's. They are bounded and
// have no control characters, but for line ends and tabs in Message; Repository,
// Commit and Before are checked to be what they should.
type Event struct {
	Forge    Forge
	Kind     Kind   // "" if it is none of ours
	Delivery string // its id, as the forge shows it to people; may be empty
	Key      string // the same for every repeat of the delivery

	Repository string // "owner/name", or "group/…/name"
	Ref        string // "refs/heads/main"; of a pull request the one of its head
	Branch     string // of a push; of a pull request the one that it comes from
	Tag        string
	Commit     string // to build: 40 or 64 hex digits
	Before     string // what the branch was before a push; "" if it is new, or not known
	Author     string // of the commit, or of the pull request where that is not said
	Message    string // of the commit, or the title of the pull request where that is not said
	Sender     string // whose doing it is: his name in the forge
	URL        string // of the push, or the pull request, for people

	Pull *Pull // of a pull request; nil for others

	Paths    []string // files that the push changes, as far as they are told
	AllPaths bool     // these are all of them

	// Nothing tells why no build can follow, in words that stand behind
	// "nothing to build: "; "" if one can.
	Nothing string
}

// Pull is a pull request, which GitLab calls a merge request.
type Pull struct {
	Number int
	Title  string
	Target string // the branch that it is to go into
	Fork   bool   // it comes from another repository, or from one that is not known
}

// The errors of Read besides those of kind BadTicket, which tell what is wrong
// with a body.
var (
	// ErrSignature is of kind Denied. It does not say more, lest it help.
	ErrSignature = fault.Errorf(fault.Denied, "the delivery is not signed as it should be")
	// ErrMediaType is of kind BadTicket.
	ErrMediaType = fault.Errorf(fault.BadTicket, "expected the content type application/json or, with a form's field payload, application/x-www-form-urlencoded")
)

// Read verifies a delivery with the secrets, any one of which may have signed
// it, and then, not before, reads it. Without secrets nothing passes.
func Read(f Forge, h http.Header, body []byte, secrets ...string) (*Event, error) {
	if err := verify(f, h, body, secrets); err != nil {
		return nil, err
	}
	data, err := payload(h, body)
	if err != nil {
		return nil, err
	}
	e := &Event{Forge: f, Key: key(f, h, data)}
	switch f {
	case GitHub:
		e.Delivery = h.Get("X-GitHub-Delivery")
		err = readHub(e, h.Get("X-GitHub-Event"), data)
	case Gitea:
		e.Delivery = first(h, "X-Gitea-Delivery", "X-Forgejo-Delivery")
		err = readHub(e, first(h, "X-Gitea-Event", "X-Forgejo-Event"), data)
	case GitLab:
		e.Delivery = first(h, "Idempotency-Key", "X-Gitlab-Event-UUID")
		err = readLab(e, data)
	}
	if err == nil {
		err = e.check()
	}
	if err != nil {
		return nil, fault.Errorf(fault.BadTicket, "the delivery cannot be read: %w", err)
	}
	e.clean()
	return e, nil
}

// first returns the first of the headers that is there.
func first(h http.Header, names ...string) string {
	for _, name := range names {
		if v := h.Get(name); v != "" {
			return v
		}
	}
	return ""
}

const (
	heads = "refs/heads/"
	tags  = "refs/tags/"
)

// pushed fills in what a ref says: what kind of push it is.
func (e *Event) pushed(ref string) {
	e.Ref = ref
	branch, isBranch := strings.CutPrefix(ref, heads)
	tag, isTag := strings.CutPrefix(ref, tags)
	switch {
	case isBranch:
		e.Kind, e.Branch = Push, branch
	case isTag:
		e.Kind, e.Tag = Tag, tag
	default:
		e.Nothing = "the push is to neither a branch nor a tag"
	}
}

// isZero tells whether an id stands for "there is none".
func isZero(id string) bool { return strings.Trim(id, "0") == "" }

// The most that is taken of names, in bytes.
const maxName = 1024

// check asserts what others rely on: these values become parts of URLs and of
// git's own requests.
func (e *Event) check() error {
	if e.Kind == "" || e.Kind == Ping {
		return nil
	}
	if !ValidRepository(e.Repository) {
		return fmt.Errorf("repository %.100q: expected owner/name", e.Repository)
	}
	names := []string{e.Ref, e.Branch, e.Tag}
	if e.Pull != nil {
		names = append(names, e.Pull.Target)
	}
	for _, name := range names {
		if len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, isControl) {
			return fmt.Errorf("ref %.100q: expected at most %d bytes without control characters", name, maxName)
		}
	}
	if e.Before != "" && !ValidCommit(e.Before) {
		return fmt.Errorf("commit before %.100q: expected 40 or 64 hex digits", e.Before)
	}
	if e.Nothing != "" {
		return nil
	}
	if e.Branch == "" && e.Tag == "" {
		return errors.New("it names no branch")
	}
	if !ValidCommit(e.Commit) {
		return fmt.Errorf("commit %.100q: expected 40 or 64 hex digits", e.Commit)
	}
	return nil
}

// ValidCommit tells whether s is the id of a commit, in full.
func ValidCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && !isZero(s) &&
		!strings.ContainsFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}

// ValidRepository tells whether s can name a repository of a forge: two parts
// or more, none of which means something to a URL.
func ValidRepository(s string) bool {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		other := func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_.-", r)
		}
		if p == "" || p == "." || p == ".." || strings.ContainsFunc(p, other) {
			return false
		}
	}
	return len(parts) >= 2 && len(s) <= maxName
}
