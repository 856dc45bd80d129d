package artifact

import (
	"fmt"
	"regexp"
	"strings"
)

// Fnmatch returns a function that tells whether a whole path matches the
// pattern. It is Python's fnmatch, which the 2013 original used: * stands for
// any characters, the slash included, ? for one, [seq] and [!seq] for one that
// is or is not listed; every pattern is valid. Besides, **/ also stands for
// nothing, so that a pattern of distci-publish means the same here.
func Fnmatch(pattern string) func(string) bool {
	var re strings.Builder
	re.WriteString(`(?s)\A`)
	p := []rune(pattern)
	for i := 0; i < len(p); i++ {
		switch c := p[i]; c {
		case '*':
			if rest := string(p[i:]); strings.HasPrefix(rest, "**/") && (i == 0 || p[i-1] == '/') {
				re.WriteString(`(?:.*/)?`)
				i += 2
			} else {
				re.WriteString(`.*`)
			}
		case '?':
			re.WriteByte('.')
		case '[':
			if end := classEnd(p, i); end > 0 {
				re.WriteString(class(p[i+1 : end]))
				i = end
			} else {
				re.WriteString(`\[`)
			}
		default:
			re.WriteString(regexp.QuoteMeta(string(c)))
		}
	}
	re.WriteString(`\z`)
	return regexp.MustCompile(re.String()).MatchString // nothing but what is made here
}

// classEnd finds the bracket that closes the one at i; 0 if there is none.
func classEnd(p []rune, i int) int {
	j := i + 1
	if j < len(p) && p[j] == '!' {
		j++
	}
	if j < len(p) && p[j] == ']' { // the first one is listed
		j++
	}
	for ; j < len(p); j++ {
		if p[j] == ']' {
			return j
		}
	}
	return 0
}

// class makes a regular expression of what is between brackets.
func class(set []rune) string {
	open := "["
	if set[0] == '!' {
		open, set = "[^", set[1:]
	}
	var b strings.Builder
	for i := 0; i < len(set); i++ {
		lo, hi := set[i], set[i]
		if i+2 < len(set) && set[i+1] == '-' {
			hi = set[i+2]
			i += 2
		}
		if lo <= hi { // an empty range lists nothing
			fmt.Fprintf(&b, `\x{%x}-\x{%x}`, lo, hi)
		}
	}
	switch {
	case b.Len() > 0:
		return open + b.String() + "]"
	case open == "[^":
		return "."
	}
	return `[^\x{0}-\x{10FFFF}]`
}
