package fault

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

func TestStatus(t *testing.T) {
	for _, c := range []struct {
		err    error
		status int
		kind   Kind
		result string
		retry  bool
	}{
		{nil, 0, None, "success", false},
		{Errorf(Verdict, "tests failed"), 1, Verdict, "failure", false},
		{Errorf(Usage, "x"), 64, Usage, "error", false},
		{Errorf(BadTicket, "x"), 65, BadTicket, "error", false},
		{Errorf(Unavailable, "x"), 69, Unavailable, "error", false},
		{errors.New("nobody gave it a kind"), 70, Internal, "error", false},
		{Errorf(Temporary, "x"), 75, Temporary, "error", true},
		{context.Canceled, 75, Interrupted, "error", true},
		{context.DeadlineExceeded, 75, Temporary, "error", true},
		{Errorf(Denied, "x"), 77, Denied, "error", false},
		{Errorf(Config, "x"), 78, Config, "error", false},
		{Errorf(MissingTool, "x"), 127, MissingTool, "error", true},
		{Killed(9, "killed"), 137, Lost, "error", true},
		{fmt.Errorf("step: %w", Errorf(Denied, "x")), 77, Denied, "error", false},
		{Wrap(Internal, Errorf(Denied, "x")), 77, Denied, "error", false},
		{Wrap(Denied, errors.New("x")), 77, Denied, "error", false},
	} {
		k := Of(c.err)
		if got := Status(c.err); got != c.status || k != c.kind || k.Result() != c.result || k.Retry() != c.retry {
			t.Errorf("%v: status %d, kind %q, result %q, retry %v; want %d, %q, %q, %v",
				c.err, got, k, k.Result(), k.Retry(), c.status, c.kind, c.result, c.retry)
		}
	}
}

// TestFromStatus asserts that the way back from a status finds the same
// consequence, also where two kinds share a number.
func TestFromStatus(t *testing.T) {
	for _, i := range table {
		if k := FromStatus(i.status); k.Result() != i.kind.Result() || k.Retry() != i.kind.Retry() {
			t.Errorf("%q: status %d reads as %q", i.kind, i.status, k)
		}
	}
	for status, want := range map[int]Kind{1: Verdict, 2: Verdict, 63: Verdict, 126: MissingTool, 127: MissingTool, 137: Lost} {
		if k := FromStatus(status); k != want {
			t.Errorf("status %d is %q, want %q", status, k, want)
		}
	}
}
