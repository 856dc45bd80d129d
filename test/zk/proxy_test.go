package zktest

import (
	"errors"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/distci/distci/test/lab"
)

func TestProxy(t *testing.T) {
	e := Start(t, Options{NoFsync: true})
	p := NewProxy(t, e.Servers()[0])
	c := connect(t, p.Addr())
	direct := connect(t, e.Servers()...)
	create := func(path string) error {
		_, err := c.Create(path, nil, 0, zk.WorldACL(zk.PermAll))
		return err
	}
	txn := func(path string) error {
		_, err := c.Multi(&zk.CreateRequest{Path: path, Acl: zk.WorldACL(zk.PermAll)})
		return err
	}
	exists := func(path string) bool {
		t.Helper()
		ok, _, err := direct.Exists(path)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	if err := create("/pass"); err != nil {
		t.Fatal(err)
	}

	// The answer to a write is lost: the write is not.
	conn := p.Wait(1)[0]
	lost := conn.Swallow(1)
	result := make(chan error, 1)
	go func() { result <- create("/swallowed") }()
	<-lost
	conn.Cut()
	if err := <-result; err == nil || errors.Is(err, zk.ErrNodeExists) {
		t.Errorf("the lost answer: %v", err)
	}
	if !exists("/swallowed") {
		t.Error("the write with the lost answer was not done")
	}

	// The same of a transaction, and of one that never arrives.
	for _, c := range []struct {
		path string
		ask  func(*Conn) <-chan struct{}
		done bool
	}{
		{"/txn-swallowed", func(c *Conn) <-chan struct{} { return c.SwallowTxn(2) }, true},
		{"/txn-lost", func(c *Conn) <-chan struct{} { return c.LoseTxn(2) }, false},
	} {
		conn := p.Wait(1)[0]
		hit := c.ask(conn)
		if err := txn("/first" + c.path[1:]); err != nil {
			t.Errorf("a transaction before: %v", err)
		}
		go func() { result <- txn(c.path) }()
		<-hit
		conn.Cut()
		if err := <-result; err == nil {
			t.Errorf("%s: no error", c.path)
		}
		if exists(c.path) != c.done {
			t.Errorf("%s: done: %v", c.path, !c.done)
		}
	}

	// What goes to the server is dropped: the write never happens.
	conn = p.Wait(1)[0]
	p.Drop(true, false)
	go func() { result <- create("/up") }()
	<-conn.Gone() // the client's own patience ends
	if err := <-result; err == nil {
		t.Error("a dropped write succeeded")
	}
	p.Pass()
	p.Cut()
	lab.Until(t, "a new connection", func() bool { return create("/again") == nil })
	if exists("/up") {
		t.Error("a dropped write was done")
	}

	// What comes back is dropped: the write happens.
	conn = p.Wait(1)[0]
	conn.Drop(false, true)
	go func() { result <- create("/down") }()
	lab.Until(t, "the write", func() bool { return exists("/down") })
	conn.Cut()
	<-result

	// Delay.
	p.Wait(1)
	p.Delay(100 * time.Millisecond)
	start := time.Now()
	lab.Until(t, "a late write", func() bool { err := create("/late"); return err == nil || errors.Is(err, zk.ErrNodeExists) })
	if d := time.Since(start); d < 200*time.Millisecond {
		t.Errorf("the delayed write took %v", d)
	}
	p.Pass()

	p.Refuse(true)
	p.Cut()
	if err := create("/refused"); err == nil {
		t.Error("a write without a connection succeeded")
	}
	if n := len(p.Conns()); n != 0 {
		t.Errorf("%d connections", n)
	}
}
