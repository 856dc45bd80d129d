package repo

import (
	"slices"
	"testing"
)

// TestLogNames: they are in the order of the attempts, and are read again, as
// are those that were given before.
func TestLogNames(t *testing.T) {
	var names []string
	for _, attempt := range []int{1, 2, 9, 10, 98, 99, 100, 101, 999, 1000, 9999, 10_000, 123_456} {
		name := LogName("7", attempt)[len(DirLogs):]
		names = append(names, name, name+indexSuffix)
		if step, n, ok := splitLogName(name); !ok || step != stepKey("7") || n != attempt {
			t.Errorf("%s is %s, %d, %t; want attempt %d", name, step, n, ok, attempt)
		}
		if !ValidLog(name) {
			t.Errorf("%s is not valid", name)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("not in order: %q", names)
	}
	if got := []string{LogName("7", 3), LogName("7", 100)}; got[0] != DirLogs+"0007.03" || got[1] != DirLogs+"0007.a100" {
		t.Errorf("%q", got)
	}
	if _, n, ok := splitLogName("0007.100"); !ok || n != 100 {
		t.Error("the name of before is not read")
	}
	for _, bad := range []string{"", "0007", "0007.", ".01", "0007.a", "0007.a10", "0007.b100", "0007.a1000", "0007.00", "0007.-1"} {
		if ValidLog(bad) {
			t.Errorf("%q is valid", bad)
		}
	}
}
