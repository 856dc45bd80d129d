package zk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	testlab "github.com/distci/distci/test/lab"
	zktest "github.com/distci/distci/test/zk"
)

// session is short enough for a test to see its end.
const short = 2 * time.Second

// lab is a service, and a connection to it through a proxy.
type lab struct {
	t     *testing.T
	e     *zktest.Ensemble
	proxy *zktest.Proxy
	c     *conn // through the proxy
	sure  *conn // without
	log   *testlab.Buffer
}

func connect(t *testing.T, timeout time.Duration, log io.Writer, servers ...string) *conn {
	t.Helper()
	c, err := Open(t.Context(), Address{Servers: servers, Path: "/test"}, Options{SessionTimeout: timeout, Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*conn)
}

func newLab(t *testing.T, timeout time.Duration) *lab {
	zktest.Require(t)
	e := zktest.Start(t, zktest.Options{})
	l := &lab{t: t, e: e, proxy: zktest.NewProxy(t, e.Servers()[0]), log: &testlab.Buffer{}}
	l.sure = connect(t, time.Minute, io.Discard, e.Servers()...)
	l.c = connect(t, timeout, l.log, l.proxy.Addr())
	return l
}

func (l *lab) exists(path string) bool {
	l.t.Helper()
	_, _, err := l.sure.Get(context.Background(), path)
	if err != nil && !errors.Is(err, coord.ErrNoNode) {
		l.t.Fatal(err)
	}
	return err == nil
}

// TestLostAnswer: a transaction that was carried out and whose answer was lost
// has an unknown outcome, and so has one that was lost itself. The session goes
// on.
func TestLostAnswer(t *testing.T) {
	l := newLab(t, time.Minute)
	id := l.c.Session().ID
	for i, lose := range []func(*zktest.Conn) <-chan struct{}{
		func(c *zktest.Conn) <-chan struct{} { return c.SwallowTxn(1) },
		func(c *zktest.Conn) <-chan struct{} { return c.LoseTxn(1) },
	} {
		path := fmt.Sprintf("/n%d", i)
		if _, err := l.c.Txn(t.Context(), coord.Create("/before"+path[1:], nil)); err != nil {
			t.Fatal(err)
		}
		network := l.proxy.Wait(1)[0]
		lost := lose(network)
		done := make(chan error)
		go func() {
			_, err := l.c.Txn(context.Background(), coord.Create(path, nil))
			done <- err
		}()
		<-lost
		network.Cut()
		if err := <-done; !errors.Is(err, coord.ErrUnknown) || fault.Of(err) != fault.Temporary {
			t.Errorf("case %d: %v", i, err)
		}
		if made := l.exists(path); made != (i == 0) {
			t.Errorf("case %d: carried out: %v", i, made)
		}
	}
	if l.c.Session().ID != id {
		t.Error("another session")
	}
}

// TestNeverSent: what never left is sent when there is a server again.
func TestNeverSent(t *testing.T) {
	l := newLab(t, time.Minute)
	l.proxy.Refuse(true)
	l.proxy.Cut()
	testlab.Until(t, "the loss", func() bool { return l.c.cur.zk.State() != zk.StateHasSession })
	done := make(chan error, 2)
	go func() {
		_, err := l.c.Txn(context.Background(), coord.Create("/n", nil))
		done <- err
	}()
	go func() {
		_, err := l.c.Children(context.Background(), "/")
		done <- err
	}()
	testlab.Until(t, "two rounds of refusals", func() bool { // the library then says that it has not sent what waits
		l.c.cur.mu.Lock()
		defer l.c.cur.mu.Unlock()
		return len(l.c.cur.problems) > 0
	})
	l.proxy.Refuse(false)
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if !l.exists("/n") {
		t.Error("it was not done")
	}
}

// TestExpiry: a silent network ends the session. The claim is known to be
// unsafe before it goes, what was meant for the old session is never done in
// the new one, watches tell, and both are said once.
func TestExpiry(t *testing.T) {
	l := newLab(t, short)
	if _, err := l.c.Txn(t.Context(), coord.CreateEphemeral("/claim", nil)); err != nil {
		t.Fatal(err)
	}
	node, err := l.c.WatchNode(t.Context(), "/claim")
	if err != nil {
		t.Fatal(err)
	}
	old := l.c.Session()
	l.proxy.Drop(true, true)
	late := make(chan error)
	go func() {
		_, err := l.c.Txn(context.Background(), coord.CreateEphemeral("/late", nil))
		late <- err
	}()
	for l.exists("/claim") {
		safe := time.Now().Before(l.c.Session().SafeUntil())
		if safe && l.c.Session().ID == old.ID && !l.exists("/claim") {
			t.Fatal("the claim went while it was taken for safe")
		}
	}
	if time.Now().Before(l.c.Session().SafeUntil()) {
		t.Error("the session is over and taken for safe")
	}
	if err := <-late; !errors.Is(err, coord.ErrUnknown) {
		t.Errorf("a transaction into the silence: %v", err)
	}
	if _, _, err := l.c.Get(t.Context(), "/"); fault.Of(err) != fault.Temporary {
		t.Errorf("a read in the silence: %v", err)
	}
	l.proxy.Pass()
	l.proxy.Cut()
	testlab.Until(t, "a new session", func() bool { id := l.c.Session().ID; return id != 0 && id != old.ID })
	select {
	case <-node.C():
	case <-time.After(time.Minute):
		t.Error("a watch of the old session says nothing")
	}
	if _, err := l.c.Txn(t.Context(), coord.Create("/after", nil)); err != nil {
		t.Fatal(err)
	}
	if l.exists("/late") {
		t.Error("a transaction of the old session was done in the new one")
	}
	testlab.Until(t, "the news", func() bool { return strings.Contains(l.log.String(), "service is back") })
	for _, text := range []string{"lost the coordination service", "service is back"} {
		if n := strings.Count(l.log.String(), text); n != 1 {
			t.Errorf("%q is said %d times:\n%s", text, n, l.log)
		}
	}
}

// TestCut: a connection that breaks is no news, and loses no watch.
func TestCut(t *testing.T) {
	l := newLab(t, time.Minute)
	if _, err := l.c.Txn(t.Context(), coord.Create("/d", nil), coord.CreateEphemeral("/e", nil)); err != nil {
		t.Fatal(err)
	}
	id := l.c.Session().ID
	for i := range 3 {
		node, err := l.c.WatchNode(t.Context(), "/d")
		if err != nil {
			t.Fatal(err)
		}
		children, err := l.c.WatchChildren(t.Context(), "/d")
		if err != nil {
			t.Fatal(err)
		}
		l.proxy.Refuse(true)
		l.proxy.Cut()
		if _, err := l.sure.Txn(t.Context(), coord.Set("/d", nil, coord.AnyVersion), coord.Create(fmt.Sprintf("/d/%d", i), nil)); err != nil {
			t.Fatal(err)
		}
		l.proxy.Refuse(false)
		<-node.C()
		<-children.C()
		if names, err := l.c.Children(t.Context(), "/d"); err != nil || len(names) != i+1 {
			t.Errorf("after the news: %q, %v", names, err)
		}
	}
	if l.c.Session().ID != id || !l.exists("/e") || l.log.String() != "time=" && strings.Contains(l.log.String(), "lost") {
		t.Errorf("the session ended, or a cut was news: %s", l.log)
	}
}

// TestFrozen: a server that accepts and says nothing holds nobody up for long,
// neither at the start nor later.
func TestFrozen(t *testing.T) {
	zktest.Require(t)
	e := zktest.Start(t, zktest.Options{})
	frozen := zktest.NewProxy(t, e.Servers()[0])
	frozen.Drop(true, true)
	_, err := Open(t.Context(), Address{Servers: []string{frozen.Addr()}, Path: "/x"}, Options{SessionTimeout: short})
	if fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), frozen.Addr()+": it accepted the connection and did not answer") {
		t.Errorf("open: %v", err)
	}
	for range 4 { // whichever comes first
		c := connect(t, short, io.Discard, frozen.Addr(), e.Servers()[0])
		if _, err := c.Txn(t.Context(), coord.Set("/", nil, coord.AnyVersion)); err != nil {
			t.Error(err)
		}
	}
}

// TestNotZooKeeper: what answers in another language is told.
func TestNotZooKeeper(t *testing.T) {
	for _, words := range []string{"HTTP/1.1 400 Bad Request\r\n\r\n", "\x00\x00\x00\x03abc", "\xff\xff\xff\xff"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				io.WriteString(c, words)
				go func() { io.Copy(io.Discard, c); c.Close() }()
			}
		}()
		_, err = Open(t.Context(), Address{Servers: []string{l.Addr().String()}, Path: "/x"}, Options{SessionTimeout: time.Second})
		if fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), "it is not a ZooKeeper server") {
			t.Errorf("%q: %v", words, err)
		}
	}
}

// TestMinority: a server that has lost the others answers reads for a while;
// nobody may take that for a proof of the session.
func TestMinority(t *testing.T) {
	zktest.Require(t)
	e := zktest.Start(t, zktest.Options{Nodes: 3})
	follower := e.Leader()%3 + 1
	c := connect(t, short, io.Discard, e.Servers()[follower-1])
	if _, err := c.Txn(t.Context(), coord.CreateEphemeral("/e", nil)); err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= 3; n++ {
		if n != follower {
			e.Pause(n)
		}
	}
	paused := time.Now()
	reads := 0
	testlab.Until(t, "the session to be taken for unsafe", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := c.Children(ctx, "/"); err == nil {
			reads++
		}
		return time.Now().After(c.Session().SafeUntil())
	})
	t.Logf("unsafe %v after the others stopped; the server had answered %d reads", time.Since(paused).Round(time.Millisecond), reads)
	if reads == 0 {
		t.Error("it answered no read: this test shows nothing")
	}
	if renewed := c.Session().Renewed; renewed.Sub(paused) > short/10 {
		t.Errorf("renewed %v after the leader stopped", renewed.Sub(paused))
	}
	for n := 1; n <= 3; n++ {
		if n != follower {
			e.Resume(n)
		}
	}
	testlab.Until(t, "the service to be back", func() bool {
		s := c.Session()
		return s.ID != 0 && time.Now().Before(s.SafeUntil())
	})
}

// TestGranted: the time-out is the one that the servers grant, whatever was
// asked for.
func TestGranted(t *testing.T) {
	zktest.Require(t)
	e := zktest.Start(t, zktest.Options{Config: "minSessionTimeout=1500\nmaxSessionTimeout=3000"})
	for ask, want := range map[time.Duration]time.Duration{time.Minute: 3 * time.Second, 2 * time.Second: 2 * time.Second, time.Second: 1500 * time.Millisecond} {
		if got := connect(t, ask, io.Discard, e.Servers()...).Session().Timeout; got != want {
			t.Errorf("asked for %v: %v, want %v", ask, got, want)
		}
	}
}

// TestTooMany: a transaction that the servers would drop is refused before,
// and the session does not notice.
func TestTooMany(t *testing.T) {
	l := newLab(t, time.Minute)
	id := l.c.Session().ID
	var ops []coord.Op
	for i := range 20000 {
		ops = append(ops, coord.Create(fmt.Sprintf("/n%d", i), nil))
	}
	_, err := l.c.Txn(t.Context(), ops...)
	var te *coord.TxnError
	if !errors.As(err, &te) || !errors.Is(err, coord.ErrTooLarge) {
		t.Fatalf("20,000 operations: %v", err)
	}
	if _, err := l.c.Txn(t.Context(), ops[:te.Index]...); err != nil {
		t.Errorf("one less than too many (%d): %v", te.Index, err)
	}
	if l.c.Session().ID != id || !l.exists("/n0") {
		t.Error("the session ended")
	}
	if names, err := l.c.Children(t.Context(), "/"); err != nil || len(names) != te.Index {
		t.Errorf("a long listing: %d names, %v", len(names), err)
	}
	if _, err := l.sure.Txn(t.Context(), coord.Delete("/n1", 0)); err != nil {
		t.Error(err)
	}
}

// TestNoCounter: somebody has tidied up what is not his.
func TestNoCounter(t *testing.T) {
	l := newLab(t, time.Minute)
	for i := range 2 {
		stats, err := l.c.Txn(t.Context(), coord.Create(fmt.Sprintf("/n%d", i), nil))
		if err != nil || stats[0].Czxid == 0 {
			t.Fatalf("%+v, %v", stats, err)
		}
		if err := l.sure.cur.zk.Delete(l.c.counter(), -1); err != nil {
			t.Fatal(err)
		}
	}
}
