//go:build ceph && cgo

package rados

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	cephtest "github.com/distci/distci/test/ceph"
	"github.com/distci/distci/test/lab"
)

// TestErrors: what is wrong is said, is of the right kind and comes in time.
func TestErrors(t *testing.T) {
	c := cephtest.Start(t, cephtest.Options{})
	t.Run("Open", func(t *testing.T) { testOpenErrors(t, c) })
	t.Run("OneNamespace", func(t *testing.T) { testOneNamespace(t, c) })
	t.Run("Frozen", func(t *testing.T) { testFrozen(t, c) })
	t.Run("Full", func(t *testing.T) { testFull(t, c) })
	t.Run("Closed", func(t *testing.T) { testClosed(t, c) })
}

func testOpenErrors(t *testing.T, c *cephtest.Cluster) {
	dir := t.TempDir()
	file := func(name, text string) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	wrongKey := file("wrong", "[client.distci]\n\tkey = AQBQ2mNnAAAAABAAZ0fQVn3rDqGyZ0nq1y5hWA==\n")
	noCluster := file("none.conf", "[global]\nmon host = [v2:127.0.0.1:1]\nms bind msgr1 = false\n")
	c.AddKey("reader", "mon", "allow r", "osd", "allow r pool="+cephtest.Pool)
	c.AddKey("plain", "mon", "allow r", "osd", "allow rw pool="+cephtest.Pool)
	c.AddKey("other", "mon", "allow r", "osd", "allow rwx pool=other")
	withID := func(id string) string { return c.Address("x", "id", id, "keyring", c.Keyring(id)) }
	for _, tt := range []struct {
		name, address, says string
		kind                fault.Kind
	}{
		{"wrong key", c.Address("x", "keyring", wrongKey), "refuses client.distci: its key is wrong", fault.Denied},
		{"no keyring", c.Address("x", "keyring", dir+"/none"), "no key for client.distci in " + dir + "/none", fault.Config},
		{"key of another", c.Address("x", "id", "ghost"), "refuses client.ghost: its key is wrong, or not in " + c.Keyring("distci"), fault.Denied},
		{"no configuration", c.Address("x", "conf", dir+"/missing.conf"), "read Ceph's configuration: open " + dir + "/missing.conf", fault.Config},
		{"no such pool", strings.Replace(c.Address("x"), "//"+cephtest.Pool, "//puddle", 1), "open pool puddle: the cluster has no such pool", fault.Config},
		{"may only read", withID("reader"), "Operation not permitted", fault.Denied},
		{"may not call classes", withID("plain") + "&timeout=10s", "Operation not permitted", fault.Denied},
		{"may use another pool", withID("other"), "Operation not permitted", fault.Denied},
		{"no cluster", c.Address("x", "conf", noCluster, "timeout", "2s"), "no answer from Ceph's monitors within 2s", fault.Temporary},
	} {
		from := time.Now()
		s, err := Open(tt.address)
		if err == nil && tt.name == "may not call classes" { // which are called by the first write
			_, err = s.Put(t.Context(), "k", strings.NewReader("x"))
		}
		if s != nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.says) || fault.Of(err) != tt.kind {
			t.Errorf("%s: %v (%s), want %q (%s)", tt.name, err, fault.Of(err), tt.says, tt.kind)
		}
		if took := time.Since(from); took > 30*time.Second {
			t.Errorf("%s: it took %v", tt.name, took)
		}
	}
}

// testOneNamespace: a key may be limited to one store of the pool.
func testOneNamespace(t *testing.T, c *cephtest.Cluster) {
	c.AddKey("one", "mon", "allow r", "osd", "allow rwx pool="+cephtest.Pool+" namespace=one.*")
	with := func(namespace string) string {
		return c.Address(namespace, "id", "one", "keyring", c.Keyring("one"))
	}
	s, err := Open(with("one"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Put(t.Context(), "k", strings.NewReader("x")); err != nil {
		t.Error(err)
	}
	if _, err := s.(store.Sweeper).Sweep(t.Context(), 0, false); err != nil {
		t.Error(err)
	}
	if _, err := Open(with("two")); fault.Of(err) != fault.Denied {
		t.Errorf("another store: %v", err)
	}
}

// testFrozen: with the only OSD frozen nothing hangs, and what was not
// answered is not taken for failed.
func testFrozen(t *testing.T, c *cephtest.Cluster) {
	s, err := Open(c.Address("frozen", "timeout", "2s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := s.Append(ctx, "log", 0, []byte("one ")); err != nil {
		t.Fatal(err)
	}
	c.Pause("osd.0")
	from := time.Now()
	err = s.Append(ctx, "log", 4, []byte("two "))
	if !errors.Is(err, store.ErrUnknown) || fault.Of(err) != fault.Temporary {
		t.Errorf("append: %v (%s), want %v", err, fault.Of(err), store.ErrUnknown)
	}
	for name, op := range map[string]func() error{
		"put":    func() error { _, err := s.Put(ctx, "k", strings.NewReader("x")); return err },
		"get":    func() error { _, _, err := s.Get(ctx, "log", 0, -1); return err },
		"list":   func() error { _, err := s.List(ctx, "", "", 0); return err },
		"delete": func() error { return s.Delete(ctx, "log") },
	} {
		if err := op(); fault.Of(err) != fault.Temporary || errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v (%s)", name, err, fault.Of(err))
		}
	}
	if took := time.Since(from); took > time.Minute {
		t.Errorf("five operations with a time-out of 2s took %v", took)
	}

	// A caller who gives up does not wait for the time-out.
	cancelable, cancel := context.WithCancel(ctx)
	ended := make(chan error, 2)
	go func() { _, err := s.Stat(cancelable, "log"); ended <- err }()
	go func() { _, err := s.Put(cancelable, "k", bytes.NewReader(large("x", several))); ended <- err }()
	cancel()
	for range 2 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
	}

	c.Resume("osd.0")
	if err := c.Await(); err != nil {
		t.Fatal(err)
	}
	// Its time-out is shorter than what an OSD may need that has slept.
	lab.Until(t, "the append again", func() bool {
		err = s.Append(ctx, "log", 4, []byte("two "))
		return fault.Of(err) != fault.Temporary
	})
	if b, _, readErr := store.ReadAll(ctx, s, "log"); err != nil || readErr != nil || string(b) != "one two " {
		t.Errorf("the log is %q, %v", b, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// testFull: in a full pool writes fail and say so, deletes work, and it can be
// written to when there is room again.
func testFull(t *testing.T, c *cephtest.Cluster) {
	s, err := Open(c.Address("full", "timeout", "10s"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx := t.Context()
	if _, err := s.Put(ctx, "old", bytes.NewReader(large("o", several))); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(ctx, "log", 0, []byte("one ")); err != nil {
		t.Fatal(err)
	}
	ratios := func(nearly, full string) {
		c.Ceph("osd", "set-nearfull-ratio", nearly)
		c.Ceph("osd", "set-backfillfull-ratio", nearly)
		c.Ceph("osd", "set-full-ratio", full)
	}
	ratios("0.00001", "0.00002")
	put := func() error { _, err := s.Put(ctx, "new", strings.NewReader("new")); return err }
	lab.Until(t, "a put into a full pool fails", func() bool { err = put(); return err != nil })
	if !errors.Is(err, store.ErrFull) || fault.Of(err) != fault.Temporary {
		t.Errorf("put: %v (%s), want %v", err, fault.Of(err), store.ErrFull)
	}
	if err := s.Append(ctx, "log", 4, []byte("two ")); !errors.Is(err, store.ErrFull) {
		t.Errorf("append: %v", err)
	}
	if b, _, err := store.ReadAll(ctx, s, "log"); err != nil || string(b) != "one " {
		t.Errorf("the log is %q, %v", b, err)
	}
	if err := s.Delete(ctx, "old"); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := s.Stat(ctx, "old"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("after the delete: %v", err)
	}
	if _, err := s.(store.Sweeper).Sweep(ctx, 0, false); err != nil {
		t.Errorf("sweep: %v", err)
	}
	ratios("0.85", "0.95")
	lab.Until(t, "the pool can be written to again", func() bool { return put() == nil })
	if err := s.Append(ctx, "log", 4, []byte("two ")); err != nil {
		t.Errorf("append: %v", err)
	}
}

func testClosed(t *testing.T, c *cephtest.Cluster) {
	s, err := Open(c.Address("closed"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Stat(t.Context(), "k"); fault.Of(err) != fault.Internal {
		t.Errorf("after close: %v", err)
	}
	if _, err := s.Put(t.Context(), "k", strings.NewReader("x")); fault.Of(err) != fault.Internal {
		t.Errorf("after close: %v", err)
	}
}
