package zktest

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/distci/distci/test/lab"
)

// patience is how long to wait for what is expected, or not.
func patience(expected bool) time.Duration {
	if expected {
		return 20 * time.Second
	}
	return 700 * time.Millisecond
}

// answered tells whether a host gets an answer from a listener on another.
func answered(t *testing.T, from *Host, to net.Listener, patience time.Duration) bool {
	t.Helper()
	to.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := to.Accept(); err == nil {
			c.Write([]byte("x"))
			c.Close()
		}
	}()
	defer func() { <-done }()
	var c net.Conn
	if err := from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", to.Addr().String(), patience)
		return err
	}); err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	n, _ := c.Read(make([]byte, 1))
	return n == 1
}

func TestNetwork(t *testing.T) {
	n := NewNetwork(t)
	a, b := n.Host("a"), n.Host("b")
	listen := func(h *Host) (l net.Listener) {
		t.Helper()
		if err := h.Do(func() (err error) {
			l, err = net.Listen("tcp", h.Addr+":2181")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		return l
	}
	atA, atB := listen(a), listen(b)
	want := func(what string, ok bool) {
		t.Helper()
		if got := answered(t, a, atB, patience(ok)); got != ok {
			t.Errorf("%s: a asks b: answered %v", what, got)
		}
		if got := answered(t, b, atA, patience(ok)); got != ok {
			t.Errorf("%s: b asks a: answered %v", what, got)
		}
	}
	want("at first", true)
	n.Split([]string{"a"}, []string{"b"})
	want("cut", false)
	n.Heal()
	want("healed", true)

	// One direction: a connection that exists still carries the other one.
	atB.(*net.TCPListener).SetDeadline(time.Time{})
	client, err := a.Dial(atB.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := atB.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	n.Drop([]string{"a"}, []string{"b"})
	arrives := func(from, to net.Conn, expected bool) bool {
		from.Write([]byte("x"))
		to.SetReadDeadline(time.Now().Add(patience(expected)))
		k, _ := to.Read(make([]byte, 1))
		return k == 1
	}
	if !arrives(server, client, true) {
		t.Error("b → a is lost, only a → b should be")
	}
	if arrives(client, server, false) {
		t.Error("a → b is not lost")
	}

	// Nothing of it can be reached from the machine's own network.
	if c, err := net.DialTimeout("tcp", atB.Addr().String(), 300*time.Millisecond); err == nil {
		c.Close()
		t.Error("the network can be reached from outside")
	}
}

// TestNetworkLeftovers: the network of a process that was killed is removed by
// the next one, that of a living one is not.
func TestNetworkLeftovers(t *testing.T) {
	n := NewNetwork(t)
	n.Host("a")
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	left := fmt.Sprintf("distci-%d-1-hub", dead.Process.Pid)
	if out, err := exec.Command("ip", "netns", "add", left).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	NewNetwork(t)
	if _, err := os.Stat(filepath.Join(namespaces, left)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dead process's network: %v", err)
	}
	if _, err := os.Stat(filepath.Join(namespaces, n.name("a"))); err != nil {
		t.Errorf("a living process's network: %v", err)
	}
	n.Close()
	if left, _ := filepath.Glob(filepath.Join(namespaces, n.prefix+"*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestHosts runs an ensemble with a host for each node, and cuts its leader
// off.
func TestHosts(t *testing.T) {
	n := NewNetwork(t)
	e := StartOn(t, n, Options{Nodes: 3})
	leader := e.Leader()
	if leader == 0 {
		t.Fatal("no leader")
	}
	var rest []string
	for i := range 3 {
		if i+1 != leader {
			rest = append(rest, NodeHost(i+1))
		}
	}
	n.Split([]string{NodeHost(leader)}, rest)
	lab.Until(t, "the leader that was cut off gives up", func() bool { return e.Mode(leader) == "" })
	lab.Until(t, "another leads", func() bool { l := e.Leader(); return l != 0 && l != leader })
	n.Heal()
	if err := e.Await(leader); err != nil {
		t.Fatal(err)
	}
	if m := e.Mode(leader); m != "follower" {
		t.Errorf("the old leader is %q now", m)
	}
}
