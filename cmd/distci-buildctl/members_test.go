package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/member"
)

// TestRow: what others have named reaches neither the terminal nor the table's
// form.
func TestRow(t *testing.T) {
	var b bytes.Buffer
	row(&b, "a\x1b[31m", "b\tc\nd", "é", "\u202e", "")
	if got, want := b.String(), "a?[31m\tb?c?d\té\t?\t\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 1500 * time.Millisecond: "1s", 61 * time.Second: "1m1s",
		24*time.Hour - 1: "23h59m59s", 49*time.Hour + time.Minute: "2d1h",
	} {
		if got := span(d); got != want {
			t.Errorf("%d: %s, want %s", d, got, want)
		}
	}
}

func TestRunning(t *testing.T) {
	since := time.Now().Add(-90*time.Second - time.Millisecond)
	for _, c := range []struct {
		run  member.Run
		want string
	}{
		{member.Run{Ticket: "T", Type: "odd", Attempt: 1}, "odd T"},
		{member.Run{Ticket: "T", Type: "execute-shell", JobID: "j", Build: 3, Step: "0", Attempt: 1, Since: &since}, "j #3 step 0, for 1m30s"},
		{member.Run{Ticket: "T", Type: "execute-shell", JobID: "j", Build: 3, Step: "0", Name: "compile it", Attempt: 2}, "j #3 step 0 (compile it), attempt 2"},
		{member.Run{Ticket: "T", Type: "build-control", JobID: "j", Build: 3, Attempt: 1}, "j #3 build-control"},
	} {
		if got := running(c.run); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if got := doing(member.Member{Info: member.Info{Listen: "http://x"}}); !strings.Contains(got, "http://x") {
		t.Errorf("a frontend: %q", got)
	}
	if got := doing(member.Member{}); got != "-" {
		t.Errorf("an idle worker: %q", got)
	}
}
