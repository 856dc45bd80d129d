package source

import (
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/distci/distci/lib/fault"
)

// location is where a repository is. It formats itself without secrets.
type location struct {
	raw      string // as it was given; may hold a password
	endpoint *transport.Endpoint
	user     string // of the URL, for http(s)
	password string
}

// parseLocation reads a URL, user@host:path, or a local path.
func parseLocation(raw string) (location, error) {
	bad := func(why string) (location, error) {
		return location{}, fault.Errorf(fault.BadTicket, "repository %q: %s", bare.ReplaceAllString(wrong.ReplaceAllString(raw, "://***@"), "${1}***@"), why)
	}
	if raw == "" {
		return location{}, fault.Errorf(fault.BadTicket, "no repository is given")
	}
	if strings.ContainsAny(raw, "\x00\n\r") {
		return bad("a control character is in it")
	}
	ep, err := transport.NewEndpoint(raw)
	if err != nil { // which would show the URL as it is
		return bad("not a URL, user@host:path or path")
	}
	l := location{raw: raw, endpoint: ep}
	switch ep.Protocol {
	case "file":
		if ep.Host != "" && ep.Host != "localhost" {
			return bad("a file URL with a host")
		}
		if ep.Path, err = filepath.Abs(ep.Path); err != nil {
			return bad(err.Error())
		}
		if !strings.Contains(raw, "://") {
			l.raw = ep.Path
		}
		return l, nil
	case "http", "https":
		l.user, l.password = ep.User, ep.Password
		// go-git puts what is in the endpoint into errors.
		ep.User, ep.Password = "", ""
	case "ssh":
		if ep.User == "" {
			ep.User = "git"
		}
		l.password, ep.Password = ep.Password, ""
		if strings.HasPrefix(ep.User, "-") || strings.HasPrefix(ep.Host, "-") {
			return bad("not a host name")
		}
	default:
		return bad("unknown scheme " + ep.Protocol + " (known: http, https, ssh, file)")
	}
	if ep.Host == "" {
		return bad("no host is given")
	}
	return l, nil
}

// String is the location for people: without passwords, and for http(s) without
// a user's name, which may be a token.
func (l location) String() string { return bare.ReplaceAllString(maskUserinfo(l.raw), "${1}***@") }

// LogValue keeps passwords out of logs.
func (l location) LogValue() slog.Value { return slog.StringValue(l.String()) }

// clean is the location without passwords, as it may stand in a workspace.
func (l location) clean() string {
	if l.endpoint.Protocol == "file" {
		return l.raw
	}
	u, err := url.Parse(l.raw)
	if err != nil || u.User == nil { // user@host:path has no password
		return l.raw
	}
	if l.endpoint.Protocol == "ssh" {
		u.User = url.User(u.User.Username())
	} else {
		u.User = nil
	}
	return u.String()
}

// secrets are the strings that must not be seen.
func (l location) secrets() []string {
	s := []string{l.password}
	if l.password == "" && l.endpoint.Protocol != "ssh" {
		s = append(s, l.user)
	}
	return s
}

// resolve finds a submodule's location: a URL of its own, or one relative to l,
// by git's rules. A repository from afar cannot name a folder of this machine.
func (l location) resolve(sub string) (location, error) {
	if strings.HasPrefix(sub, "./") || strings.HasPrefix(sub, "../") {
		base, sep := strings.TrimRight(l.raw, "/"), "/"
		for {
			if rest, ok := strings.CutPrefix(sub, "./"); ok {
				sub = rest
				continue
			}
			rest, ok := strings.CutPrefix(sub, "../")
			if !ok {
				break
			}
			i := strings.LastIndexByte(base, '/')
			sep = "/"
			if i < 0 {
				i, sep = strings.LastIndexByte(base, ':'), ":"
			}
			if i < 0 {
				return location{}, fault.Errorf(fault.Unavailable, "its URL leads above the repository's host")
			}
			base, sub = base[:i], rest
		}
		sub = base + sep + sub
	}
	s, err := parseLocation(sub)
	if err != nil {
		return location{}, err
	}
	if s.endpoint.Protocol == "file" && l.endpoint.Protocol != "file" {
		return location{}, fault.Errorf(fault.Denied, "its URL %q names a folder of this machine", s)
	}
	return s, nil
}

// exists finds out whether a local repository is there, for a better error
// than a program that was started for it could give.
func (l location) exists() error {
	if l.endpoint.Protocol != "file" {
		return nil
	}
	_, err := os.Stat(l.endpoint.Path)
	switch {
	case errors.Is(err, os.ErrPermission):
		return fault.Wrap(fault.Denied, err)
	case err != nil:
		return fault.Wrap(fault.Unavailable, err)
	}
	return nil
}

// What may be a password in a location.
var (
	// userinfo is what stands before a URL's host, which may hold more than one @.
	userinfo = regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*)://([^/\s]*)@`)
	// wrong is the same in what is no URL, where it may hold anything.
	wrong = regexp.MustCompile(`(?s)://.*@`)
	// bare is the same where the scheme was left out.
	bare = regexp.MustCompile(`^([^/@:]*:)[^/@]*@`)
)

// maskUserinfo hides passwords in all URLs of a text, and but for ssh the name
// too: hosts take a token in its place.
func maskUserinfo(s string) string {
	return userinfo.ReplaceAllStringFunc(s, func(m string) string {
		p := userinfo.FindStringSubmatch(m)
		user, _, hasPassword := strings.Cut(p[2], ":")
		switch {
		case !strings.EqualFold(p[1], "ssh"):
			return p[1] + "://***@"
		case hasPassword:
			return p[1] + "://" + user + ":***@"
		}
		return m
	})
}
