package member

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/coord/zk"
	zktest "github.com/distci/distci/test/zk"
)

// switching is a connection whose session a test can end: it goes on with
// another one. Its transactions are counted and can fail.
type switching struct {
	coord.Conn
	none bool // there is no session at the moment
	txns atomic.Int64
	fail func() error // after the transaction was carried out; nil: it does not
	deny error        // instead of carrying it out
}

func (s *switching) Session() coord.Session {
	if s.none {
		return coord.Session{Timeout: time.Second}
	}
	return s.Conn.Session()
}

func (s *switching) Txn(ctx context.Context, ops ...coord.Op) ([]coord.Stat, error) {
	s.txns.Add(1)
	if s.deny != nil {
		return nil, s.deny
	}
	stats, err := s.Conn.Txn(ctx, ops...)
	if s.fail != nil && err == nil {
		return nil, s.fail()
	}
	return stats, err
}

func open(t *testing.T, file string) coord.Conn {
	t.Helper()
	c, err := local.Open(t.Context(), file, local.Options{SessionTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestKeep: whatever becomes of the node or the session, the node is there
// under the present session with what the member is now; and nothing is written
// without a reason.
func TestKeep(t *testing.T) {
	t.Run("local", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "coord.db")
		keep(t, func() coord.Conn { return open(t, file) })
	})
	t.Run("zk", func(t *testing.T) {
		addr := zk.Address{Servers: zktest.Start(t, zktest.Options{}).Servers(), Path: "/members"}
		keep(t, func() coord.Conn {
			c, err := zk.Open(t.Context(), addr, zk.Options{SessionTimeout: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		})
	})
}

func keep(t *testing.T, open func() coord.Conn) {
	watcher, conn := open(), &switching{Conn: open()}
	info := Info{Kind: Worker, Name: "w", Slots: 1}
	k := &keeper{conn: conn, describe: func() Info { return info }, log: slog.New(slog.DiscardHandler), path: root + "/x", again: time.Hour}
	// tend asserts how many transactions it takes and what is there afterwards.
	tend := func(what string, txns int64, slots int) {
		t.Helper()
		before := conn.txns.Load()
		if err := k.tend(t.Context()); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if n := conn.txns.Load() - before; n != txns {
			t.Errorf("%s: %d transactions, want %d", what, n, txns)
		}
		ms, err := List(t.Context(), watcher)
		if err != nil || len(ms) != 1 || ms[0].ID != "x" || ms[0].Slots != slots || ms[0].Session != conn.Conn.Session().ID {
			t.Errorf("%s: there is %+v, %v", what, ms, err)
		}
	}
	conn.none = true
	if err := k.tend(t.Context()); err != nil || conn.txns.Load() != 0 {
		t.Errorf("without a session: %v, %d transactions", err, conn.txns.Load())
	}
	conn.none = false
	tend("the first member", 3, 1) // the folder is made, too
	tend("nothing is new", 0, 1)
	info.Slots = 2
	tend("it is not asked again yet", 0, 1)
	k.again = 0
	tend("it is another now", 1, 2)
	tend("it is asked, and is the same", 0, 2)

	old := conn.Conn
	conn.Conn = open()
	old.Close()
	if ms, err := List(t.Context(), watcher); err != nil || len(ms) != 0 {
		t.Errorf("after the session: %+v, %v", ms, err)
	}
	k.again = time.Hour
	tend("another session", 1, 2)
	conn.Conn = open() // the node of the session before is still there
	tend("another session, before the end of the last", 2, 2)

	k.again = 0
	if _, err := watcher.Txn(t.Context(), coord.Delete(k.path, coord.AnyVersion)); err != nil {
		t.Fatal(err)
	}
	info.Slots = 3
	tend("somebody had removed it", 2, 3)

	info.Slots = 4
	conn.fail = func() error { return fmt.Errorf("cut off: %w", coord.ErrUnknown) }
	if err := k.tend(t.Context()); !errors.Is(err, coord.ErrUnknown) {
		t.Errorf("a lost answer: %v", err)
	}
	conn.fail = nil
	k.again = time.Hour
	tend("after a lost answer", 2, 4)
	tend("nothing is new at last", 0, 4)
}

// TestJoin: a process becomes a member by itself, and is one no longer when its
// connection is closed. One that ends at once has written nothing.
func TestJoin(t *testing.T) {
	file := filepath.Join(t.TempDir(), "coord.db")
	watcher, conn := open(t, file), &switching{Conn: open(t, file)}
	self := Self(Frontend, "", "1.2.3")
	self.Listen = "http://127.0.0.1:1"
	Join(conn, func() Info { return self }, slog.New(slog.DiscardHandler))()
	if n := conn.txns.Load(); n != 0 {
		t.Errorf("a short life took %d transactions", n)
	}
	if ms, err := List(t.Context(), watcher); err != nil || len(ms) != 0 {
		t.Errorf("there is %+v, %v", ms, err)
	}
	stop := Join(conn, func() Info { return self }, slog.New(slog.DiscardHandler))
	other := Join(watcher, func() Info { return Info{Kind: Frontend, Name: self.Name, Since: self.Since} }, slog.New(slog.DiscardHandler))
	var ms []Member
	for end := time.Now().Add(time.Minute); len(ms) < 2; time.Sleep(5 * time.Millisecond) {
		var err error
		if ms, err = List(t.Context(), watcher); err != nil || time.Now().After(end) {
			t.Fatalf("waited in vain for two members of one name: %+v, %v", ms, err)
		}
	}
	i := 0
	if ms[0].Listen == "" {
		i = 1
	}
	if m := ms[i]; m.Kind != Frontend || m.Name != fmt.Sprintf("%s/%d", m.Host, m.PID) || m.PID == 0 || m.Version != "1.2.3" || m.Since == nil || m.Listen != self.Listen {
		t.Errorf("there is %+v", m)
	}
	other()
	stop()
	conn.Close()
	if ms, err := List(t.Context(), watcher); err != nil || len(ms) != 1 || ms[0].Listen != "" {
		t.Errorf("after one was closed: %+v, %v", ms, err)
	}
}

// TestComplaint: what does not pass by itself is told once.
func TestComplaint(t *testing.T) {
	var log bytes.Buffer
	conn := &switching{Conn: open(t, filepath.Join(t.TempDir(), "coord.db"))}
	k := &keeper{conn: conn, describe: func() Info { return Info{} }, log: slog.New(slog.NewTextHandler(&log, nil)), path: root + "/x"}
	for range 3 {
		conn.deny = coord.ErrUnknown
		k.complain(t.Context(), k.tend(t.Context()))
	}
	if log.Len() > 0 {
		t.Errorf("said of what passes: %s", &log)
	}
	conn.deny = coord.ErrNoAuth
	for range 3 {
		k.complain(t.Context(), k.tend(t.Context()))
	}
	if n := strings.Count(log.String(), "not permitted"); n != 1 {
		t.Errorf("said %d times: %s", n, &log)
	}
}

// TestForeignNodes: what is not ours is shown as such.
func TestForeignNodes(t *testing.T) {
	conn := open(t, filepath.Join(t.TempDir(), "coord.db"))
	_, err := conn.Txn(t.Context(), coord.Create(root, nil),
		coord.Create(root+"/a", []byte("garbage")), coord.Create(root+"/b", nil), coord.Create(root+"/c", []byte(`{"kind": 5}`)),
		coord.Create(root+"/d", []byte(`{"kind": "worker", "name": "later", "mood": "good"}`)))
	if err != nil {
		t.Fatal(err)
	}
	ms, err := List(t.Context(), conn)
	if err != nil || len(ms) != 4 {
		t.Fatalf("%+v, %v", ms, err)
	}
	for i, id := range []string{"a", "b", "c"} {
		if m := ms[i]; m.ID != id || m.Kind != Unknown || m.Name != "" {
			t.Errorf("%s is shown as %+v", id, m)
		}
	}
	if m := ms[3]; m.Kind != Worker || m.Name != "later" {
		t.Errorf("a later version's is shown as %+v", m)
	}
}
