package source

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/config"
)

// TestNoSecrets: however a location is written, or miswritten, nobody sees its
// password.
func TestNoSecrets(t *testing.T) {
	for raw, want := range map[string]string{
		"https://ada:geheim@host/o/r.git":        "https://***@host/o/r.git",
		"https://geheim@host/o/r.git":            "https://***@host/o/r.git",
		"HTTPS://ada:ge@heim@host/o/r.git":       "HTTPS://***@host/o/r.git",
		"https://host/@scope/r.git":              "https://host/@scope/r.git",
		"ssh://ada:geheim@host/r":                "ssh://ada:***@host/r",
		"ssh://git@host/r":                       "ssh://git@host/r",
		"git@host:team/r@v1":                     "git@host:team/r@v1",
		"x-access-token:geheim@host/o/r.git":     "x-access-token:***@host/o/r.git",
		"htps://ada:geheim@host/r":               `repository "htps://***@host/r": unknown scheme htps`,
		"https://ada:ge/heim@host/r":             `repository "https://***@host/r": not a URL`,
		"https://ada:ge heim@host/r":             `repository "https://***@host/r": not a URL`,
		"https://ada:ge#heim@host/r":             `repository "https://***@host/r": not a URL`,
		"https://ada:ge%heim@host/r":             `repository "https://***@host/r": not a URL`,
		"https://ada:geheim\n@host/r":            `repository "https://***@host/r": a control character`,
		"https://ada:geheim@/r":                  `repository "https://***@/r": no host`,
		"file://ada:geheim@elsewhere/srv/r":      `repository "file://***@elsewhere/srv/r": a file URL with a host`,
		"https://ada:geheim@host:no/r and more@": `repository "https://***@": not a URL`,
	} {
		l, err := parseLocation(raw)
		got := fmt.Sprint(l)
		if err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, want) || err == nil && got != want {
			t.Errorf("%q: %s, want %s", raw, got, want)
		}
	}
	if got, want := maskUserinfo("cannot read 'https://a:b@c@host/x', http://t@h, ssh://git@h/x; mail ada@example.org"), "cannot read 'https://***@host/x', http://***@h, ssh://git@h/x; mail ada@example.org"; got != want {
		t.Errorf("in a text: %s", got)
	}
}

// FuzzLocation: no password is seen in a location, an error or a workspace.
func FuzzLocation(f *testing.F) {
	f.Add("https", "ada", "@", "host/o/r.git")
	f.Add("ssh", "git", "", "[::1]:22/~/r")
	f.Add("git+ssh", "", ":", "host:o/r?x#y")
	f.Add("file", "a", "%41", "/srv/r")
	f.Fuzz(func(t *testing.T, scheme, user, more, rest string) {
		const secret = "Geheim3Nis"
		raw := scheme + "://" + user + ":" + more + secret + "@" + rest
		l, err := parseLocation(raw)
		if err != nil {
			if strings.Contains(err.Error(), secret) {
				t.Errorf("%q: %v", raw, err)
			}
			return
		}
		if l.password == "" { // it is part of a path, or of a file's name
			return
		}
		for _, s := range []string{l.String(), l.clean(), l.LogValue().String()} {
			if strings.Contains(s, secret) {
				t.Errorf("%q: %s", raw, s)
			}
		}
	})
}

// FuzzModules: a repository's .gitmodules names no folder of this machine, and
// git's configuration says of them what they say.
func FuzzModules(f *testing.F) {
	f.Add("[submodule \"a\"]\n\tpath = b\n\turl = ../c.git\n")
	f.Add("[submodule \"a \\\" b\"]\n\tpath = ../b\n\turl = \"https://host/c;d#e\"\n[submodule]\nurl=/etc\n")
	f.Add("[submodule \"a\\\nb\"]\n\tpath = b\n\turl = ../c.git\n")
	f.Add("[submodule \"-\"]\n\tpath = -\n\turl = ../../../../..:x\n[core]\n\tx\n")
	base, err := parseLocation("https://ada:geheim@host/o/r.git")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, content string) {
		modules, err := parseModules([]byte(content))
		if err != nil {
			return
		}
		for _, m := range modules {
			where, err := base.resolve(m.URL)
			if err != nil {
				continue
			}
			if where.endpoint.Protocol == "file" || where.password == "geheim" && where.endpoint.Host != "host" {
				t.Errorf("%q leads to %s", m.URL, where)
			}
			section := moduleSection(m.Name, where)
			back := config.NewModules()
			if err := back.Unmarshal([]byte(section)); err != nil || len(back.Submodules) != 1 || back.Submodules[m.Name] == nil || back.Submodules[m.Name].URL != where.clean() || strings.Contains(section, "geheim") {
				t.Errorf("%q: %v, %+v", section, err, back.Submodules)
			}
		}
	})
}
