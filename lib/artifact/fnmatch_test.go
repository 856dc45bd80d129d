package artifact

import (
	"os/exec"
	"strings"
	"testing"
)

func TestFnmatch(t *testing.T) {
	for _, tt := range []struct {
		pattern  string
		yes, not []string
	}{
		{"*.jar", []string{"a.jar", "lib/a.jar", ".jar"}, []string{"a.jar2", "a.JAR"}},
		{"bin/*", []string{"bin/a", "bin/sub/b", "bin/"}, []string{"bin", "xbin/a"}},
		{"**/*.xml", []string{"a.xml", "r/a.xml", "r/s/a.xml"}, []string{"a.xm"}},
		{"r/**/a", []string{"r/a", "r/s/a", "r/s/t/a"}, []string{"ra", "x/r/a"}},
		{"a?c", []string{"abc", "a/c", "aéc"}, []string{"ac", "abbc"}},
		{"[a-c]x", []string{"ax", "cx"}, []string{"dx", "-x"}},
		{"[!a-c]x", []string{"dx", "-x", "éx"}, []string{"ax"}},
		{"[^a]x", []string{"^x", "ax"}, []string{"bx"}},
		{"[]]x", []string{"]x"}, []string{"[x"}},
		{"[!]]x", []string{"[x"}, []string{"]x"}},
		{"[a", []string{"[a"}, []string{"a"}},
		{"[", []string{"["}, []string{""}},
		{"[]", []string{"[]"}, nil},
		{"[a-]x", []string{"ax", "-x"}, []string{"bx"}},
		{"[z-a]x", nil, []string{"ax", "zx", "-x", "x"}},
		{"[!z-a]x", []string{"ax"}, []string{"x"}},
		{`[\d]x`, []string{`\x`, "dx"}, []string{"1x"}},
		{"a.b+(c)|$", []string{"a.b+(c)|$"}, []string{"aXb+(c)|$"}},
		{"a\nb*", []string{"a\nb\nc"}, []string{"a\nc"}},
		{"", []string{""}, []string{"a"}},
	} {
		match := Fnmatch(tt.pattern)
		for _, s := range tt.yes {
			if !match(s) {
				t.Errorf("%q does not match %q", tt.pattern, s)
			}
		}
		for _, s := range tt.not {
			if match(s) {
				t.Errorf("%q matches %q", tt.pattern, s)
			}
		}
	}
}

// TestFnmatchIsPythons compares with the real thing where there is one.
func TestFnmatchIsPythons(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3")
	}
	letters := []rune("ab/]-![*?")
	var pairs []string
	state := uint32(1)
	next := func(n int) int { state = state*1664525 + 1013904223; return int(state>>16) % n }
	word := func() string {
		w := make([]rune, next(6))
		for i := range w {
			w[i] = letters[next(len(letters))]
		}
		return string(w)
	}
	for range 20000 {
		if p := word(); !strings.Contains(p, "**/") {
			pairs = append(pairs, p+" "+word())
		}
	}
	cmd := exec.Command(python, "-W", "ignore", "-c", `
import fnmatch, sys
for line in sys.stdin:
    p, s = line.rstrip("\n").split(" ")
    print(int(fnmatch.fnmatchcase(s, p)))`)
	cmd.Stdin = strings.NewReader(strings.Join(pairs, "\n") + "\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	answers := strings.Fields(string(out))
	if len(answers) != len(pairs) {
		t.Fatal(len(answers), "answers to", len(pairs))
	}
	for i, pair := range pairs {
		p, s, _ := strings.Cut(pair, " ")
		if got := Fnmatch(p)(s); got != (answers[i] == "1") {
			t.Errorf("%q with %q: %v", p, s, got)
		}
	}
}

func FuzzFnmatch(f *testing.F) {
	f.Add("**/[!a-b]*?", "x/y")
	f.Fuzz(func(t *testing.T, p, s string) { Fnmatch(p)(s) })
}
