package webhook

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The most that is kept of an event's texts, and that a build gets to know of a
// message, in bytes.
const (
	maxText    = 512
	maxKept    = 64 << 10
	maxMessage = 4 << 10
	minText    = 16 // less says nothing
)

// clean makes the texts of an event what they are said to be.
func (e *Event) clean() {
	for _, s := range []*string{&e.Delivery, &e.Author, &e.Sender, &e.URL} {
		*s = line(*s)
	}
	if !strings.HasPrefix(e.URL, "https://") && !strings.HasPrefix(e.URL, "http://") {
		e.URL = "" // it becomes a link
	}
	e.Message = text(e.Message)
	if e.Pull != nil {
		e.Pull.Title = line(e.Pull.Title)
	}
}

// Parameters are the variables of a build, all with names that begin with CI_.
// What an event does not say is not among them. Whoever puts them into a shell's
// words has to quote them. If they are more than room bytes, together with their
// names, texts for people are cut or left out.
//
// All of it has been signed: a repeat of the delivery has the same ones.
func (e *Event) Parameters(room int) map[string]string {
	p := map[string]string{
		"CI_FORGE": string(e.Forge), "CI_EVENT": string(e.Kind), "CI_REPOSITORY": e.Repository,
		"CI_COMMIT": e.Commit, "CI_BEFORE": e.Before, "CI_REF": e.Ref, "CI_BRANCH": e.Branch, "CI_TAG": e.Tag,
		"CI_AUTHOR": e.Author, "CI_MESSAGE": clip(e.Message, maxMessage), "CI_SENDER": e.Sender, "CI_EVENT_URL": e.URL,
	}
	if e.Pull != nil {
		p["CI_PULL_REQUEST"] = strconv.Itoa(e.Pull.Number)
		p["CI_PULL_REQUEST_TITLE"] = e.Pull.Title
		p["CI_TARGET_BRANCH"] = e.Pull.Target
		p["CI_FORK"] = strconv.FormatBool(e.Pull.Fork)
	}
	for name, v := range p {
		if v == "" {
			delete(p, name)
		}
	}
	for _, name := range []string{"CI_MESSAGE", "CI_PULL_REQUEST_TITLE", "CI_AUTHOR", "CI_SENDER", "CI_EVENT_URL"} {
		v, ok := p[name]
		over := -room
		for name, v := range p {
			over += len(name) + len(v)
		}
		switch {
		case over <= 0 || !ok:
		case len(v)-over >= minText:
			p[name] = clip(v, len(v)-over)
		default:
			delete(p, name)
		}
	}
	return p
}

// isControl is for terminals and parsers alike: control characters, and those
// that turn the direction in which a line is read.
func isControl(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }

// line is a text as one line.
func line(s string) string {
	return clip(strings.Map(func(r rune) rune {
		if isControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD")), maxText)
}

// text is a text of several lines.
func text(s string) string {
	return clip(strings.Map(func(r rune) rune {
		if isControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD")), maxKept)
}

// clip cuts a text between two characters.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	n -= len("…")
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
