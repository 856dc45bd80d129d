// Package coordtest is the contract of coord.Conn as a test, which every
// adapter must pass.
//
// The adapter's test has a TestMain that calls Main, so that the test binary
// can be run again as another process of the same service:
//
//	func TestMain(m *testing.M)        { coordtest.Main(m, open) }
//	func TestContract(t *testing.T)    { coordtest.Run(t, coordtest.Harness{Open: open, Fresh: fresh}) }
package coordtest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
)

// Open opens a connection of its own session to the service that spec names: a
// file, an address with a chroot. A timeout of 0 is the adapter's default.
type Open func(ctx context.Context, spec string, timeout time.Duration) (coord.Conn, error)

// Harness is what the test needs of an adapter.
type Harness struct {
	Open Open
	// Fresh names a service, or a part of one, in which there is no node yet.
	Fresh func(t *testing.T) (spec string)
	// Timeout is the shortest session that is worth testing with; default 1 s.
	Timeout time.Duration
	// Alone leaves out what needs other processes: for a service in memory.
	Alone bool
}

// long is a session that does not end during a test.
const long = time.Minute

// Run runs all tests.
func Run(t *testing.T, h Harness) {
	if h.Timeout == 0 {
		h.Timeout = time.Second
	}
	for _, c := range []struct {
		name   string
		test   func(*testing.T, *service)
		others bool // needs other processes
	}{
		{"Nodes", testNodes, false},
		{"Paths", testPaths, false},
		{"Size", testSize, false},
		{"Txn", testTxn, false},
		{"Order", testOrder, false},
		{"Stat", testStat, false},
		{"EnsurePath", testEnsurePath, false},
		{"Goroutines", testGoroutines, false},
		{"Canceled", testCanceled, false},
		{"Closed", testClosed, false},
		{"EphemeralClose", testEphemeralClose, false},
		{"EphemeralParent", testEphemeralParent, false},
		{"EphemeralKilled", testEphemeralKilled, true},
		{"SessionKept", testSessionKept, false},
		{"Fencing", testFencing, false},
		{"Paused", testPaused, true},
		{"WatchNode", testWatchNode, false},
		{"WatchChildren", testWatchChildren, false},
		{"WatchAbsent", testWatchAbsent, false},
		{"WatchStop", testWatchStop, false},
		{"WatchExpiry", testWatchExpiry, true},
		{"WatchProcess", testWatchProcess, true},
		{"WatchNoneMissed", testWatchNoneMissed, false},
		{"Counter", testCounter, true},
		{"KillMinusNine", testKillMinusNine, true},
	} {
		if c.others && h.Alone {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			c.test(t, &service{t: t, Harness: h, spec: h.Fresh(t)})
		})
	}
}

// service is a fresh service for one test.
type service struct {
	Harness
	t    *testing.T
	spec string
}

// open opens a connection that is closed at the end of the test.
func (s *service) open(timeout time.Duration) client {
	s.t.Helper()
	c, err := s.Open(s.t.Context(), s.spec, timeout)
	if err != nil {
		s.t.Fatalf("open: %v", err)
	}
	s.t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, coord.ErrClosed) {
			s.t.Errorf("close: %v", err)
		}
	})
	return client{c, s.t}
}

// client is a connection with the test's way to complain.
type client struct {
	coord.Conn
	t *testing.T
}

// do runs a transaction that must succeed.
func (c client) do(ops ...coord.Op) []coord.Stat {
	c.t.Helper()
	stats, err := c.Txn(context.Background(), ops...)
	if err != nil {
		c.t.Fatalf("txn: %v", err)
	}
	if len(stats) != len(ops) {
		c.t.Fatalf("txn: %d stats for %d operations", len(stats), len(ops))
	}
	return stats
}

// refused runs a transaction that must be refused at operation index.
func (c client) refused(index int, want error, ops ...coord.Op) {
	c.t.Helper()
	_, err := c.Txn(context.Background(), ops...)
	if !errors.Is(err, want) || !coord.Refused(err, index) {
		c.t.Errorf("txn: %v; want %q for operation %d", err, want, index)
	}
}

func (c client) get(path string) (string, coord.Stat) {
	c.t.Helper()
	data, stat, err := c.Get(context.Background(), path)
	if err != nil {
		c.t.Fatalf("get %s: %v", path, err)
	}
	return string(data), stat
}

// exists tells whether there is such a node.
func (c client) exists(path string) bool {
	c.t.Helper()
	_, _, err := c.Get(context.Background(), path)
	if err != nil && !errors.Is(err, coord.ErrNoNode) {
		c.t.Fatalf("get %s: %v", path, err)
	}
	return err == nil
}

func (c client) children(path string) []string {
	c.t.Helper()
	names, err := c.Children(context.Background(), path)
	if err != nil {
		c.t.Fatalf("children of %s: %v", path, err)
	}
	return names
}
