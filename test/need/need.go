// Package need says what becomes of a test that the machine lacks something
// for: it is skipped, or fails where DISTCI_REQUIRE names the part.
package need

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Required tells whether DISTCI_REQUIRE, words with commas or spaces between
// them, names the part.
func Required(part string) bool {
	return slices.Contains(strings.FieldsFunc(os.Getenv("DISTCI_REQUIRE"), func(r rune) bool { return r == ',' || r == ' ' }), part)
}

// Missing skips the test for want of something that belongs to the part, or
// fails it where the part is required.
func Missing(t testing.TB, part, why string) {
	t.Helper()
	if Required(part) {
		t.Fatalf("%s; DISTCI_REQUIRE names %s", why, part)
	}
	t.Skip(why)
}

// Programs are Missing where one of them is not in the PATH.
func Programs(t testing.TB, part string, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			Missing(t, part, err.Error())
		}
	}
}
