package zk

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/distci/distci/lib/fault"
)

func TestParseAddress(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Address
	}{
		{"zk://h/ci", Address{Servers: []string{"h:2181"}, Path: "/ci"}},
		{"zk://h1:1,h2,[::1]:3,[::2]/a/b-1.x", Address{Servers: []string{"h1:1", "h2:2181", "[::1]:3", "[::2]:2181"}, Path: "/a/b-1.x"}},
		{"zk://h,g:9/ci?ca=/c&auth=a%20b", Address{Servers: []string{"h:2281", "g:9"}, Path: "/ci", CAFile: "/c", AuthFile: "a b"}},
	} {
		got, err := ParseAddress(c.in)
		if err != nil || !slices.Equal(got.Servers, c.want.Servers) || got.Path != c.want.Path || got.CAFile != c.want.CAFile || got.AuthFile != c.want.AuthFile {
			t.Errorf("%s: %+v, %v", c.in, got, err)
		}
	}
	for in, want := range map[string]string{
		"":                         "expected zk://",
		"zk:h/ci":                  "expected zk://",
		"zk:///ci":                 `"" is not a host`,
		"zk://h,,g/ci":             `"" is not a host`,
		"zk://h":                   "which cluster?",
		"zk://h/":                  "which cluster?",
		"zk://h/a//b":              `cluster id ""`,
		"zk://h/a b":               `cluster id "a b"`,
		"zk://h/..":                `cluster id ".."`,
		"zk://h/ci/":               `cluster id ""`,
		"zk://h/zookeeper":         "ZooKeeper's own",
		"zk://h:0/ci":              `"0" is not a port`,
		"zk://h:x/ci":              `"x" is not a port`,
		"zk://::1/ci":              "too many colons",
		"zk://user:secret@h:1/ci":  "credentials do not belong",
		"zk://h:1,h:1/ci":          "twice",
		"zk://h/ci?user=x":         `unknown option "user"`,
		"zk://h/ci?auth=":          "expected one file",
		"zk://h/ci?auth=a&auth=b":  "expected one file",
		"zk://h/ci?ca=a&cert=b":    "both cert and key",
		"zk://h/ci?cert=a&key=b":   "TLS needs ca",
		"zk://h/ci?auth=%zz":       "invalid URL escape",
		"zk://h\x00/ci":            "is not a host",
		"zk://h/ci?auth=a;auth=bb": "invalid semicolon",
	} {
		_, err := ParseAddress(in)
		if err == nil || strings.Contains(err.Error(), "secret") || fault.Of(err) != fault.Config || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v (%s), want %q", in, err, fault.Of(err), want)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	user, password, err := Address{AuthFile: write("good", "ci:se:cret\n")}.credentials()
	if user != "ci" || password != "se:cret" || err != nil {
		t.Errorf("%q, %q, %v", user, password, err)
	}
	for _, text := range []string{"", "ci", ":x", "ci:", "ci:x\nci:y\n"} {
		_, _, err := Address{AuthFile: write("bad", text)}.credentials()
		if fault.Of(err) != fault.Config || strings.Contains(err.Error(), "ci:") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, a := range []Address{{CAFile: dir + "/none"}, {CAFile: write("ca", "x")}} {
		if _, err := a.tls(); fault.Of(err) != fault.Config {
			t.Errorf("%+v: %v", a, err)
		}
	}
}

// FuzzEscape: every name comes back, and holds nothing that ZooKeeper refuses.
func FuzzEscape(f *testing.F) {
	for _, s := range []string{"a", "ä€😀", "%", "%41", "\x7f\xff\u0085\ue000\uffff", counterName} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		e := escape(name)
		if unescape(e) != name {
			t.Errorf("%q becomes %q, then %q", name, e, unescape(e))
		}
		if e == counterName {
			t.Errorf("%q is the counter", name)
		}
		for _, u := range utf16.Encode([]rune(e)) {
			if u >= 0x7f && u <= 0x9f || u >= 0xd800 {
				t.Errorf("%q holds %U", e, u)
			}
		}
		if plain := strings.IndexFunc(name, func(r rune) bool { return r == '%' || r < 0x20 || r > 0x7e }) < 0; plain && e != name {
			t.Errorf("%q became %q without need", name, e)
		}
		if _, err := url.PathUnescape(e); err != nil {
			t.Error(err)
		}
	})
}
