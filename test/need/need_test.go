package need

import (
	"runtime"
	"testing"
)

func TestRequired(t *testing.T) {
	t.Setenv("DISTCI_REQUIRE", "zk,ceph, lxc s3")
	for part, want := range map[string]bool{"zk": true, "ceph": true, "lxc": true, "s3": true, "": false, "c": false, "rest": false} {
		if got := Required(part); got != want {
			t.Errorf("%q: %t", part, got)
		}
	}
}

// TestMissing: a test that lacks something goes no further, whether it is
// skipped or fails.
func TestMissing(t *testing.T) {
	t.Setenv("DISTCI_REQUIRE", "zk")
	for _, c := range []struct {
		what            string
		do              func(testing.TB)
		skipped, failed bool
	}{
		{"what is not required", func(t testing.TB) { Missing(t, "ceph", "no cluster") }, true, false},
		{"what is required", func(t testing.TB) { Missing(t, "zk", "no server") }, false, true},
		{"a program that is not required", func(t testing.TB) { Programs(t, "ceph", "sh", "distci-no-such-program") }, true, false},
		{"a program that is required", func(t testing.TB) { Programs(t, "zk", "sh", "distci-no-such-program") }, false, true},
	} {
		r := &recorder{TB: t}
		done := make(chan bool)
		go func() {
			defer close(done)
			c.do(r)
			t.Errorf("%s: the test goes on", c.what)
		}()
		<-done
		if r.skipped != c.skipped || r.failed != c.failed {
			t.Errorf("%s: skipped %t, failed %t", c.what, r.skipped, r.failed)
		}
	}
	r := &recorder{TB: t}
	if Programs(r, "zk", "sh"); r.skipped || r.failed {
		t.Error("sh is missing")
	}
}

// recorder is a test of which only the end is seen.
type recorder struct {
	testing.TB
	skipped, failed bool
}

func (r *recorder) Helper()               {}
func (r *recorder) Skip(...any)           { r.skipped = true; runtime.Goexit() }
func (r *recorder) Fatalf(string, ...any) { r.failed = true; runtime.Goexit() }
