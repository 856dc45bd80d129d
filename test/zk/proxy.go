package zktest

import (
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// Proxy stands between clients and one server, and does what networks do.
// It needs no privileges. It knows ZooKeeper's framing, and tells transactions
// (multi) from other requests.
//
// A fault concerns all connections that exist and that come, until it is
// taken back; Conns names them one by one.
type Proxy struct {
	target string
	l      net.Listener
	wg     sync.WaitGroup

	mu     sync.Mutex
	cond   *sync.Cond // a rule has changed, or the proxy has ended
	conns  []*Conn
	rule   rule
	closed bool
}

// rule is what happens to the traffic.
type rule struct {
	dropUp, dropDown bool          // frames vanish, towards the server or the client
	delay            time.Duration // each frame waits, in both directions
	refuse           bool          // new connections are closed at once
}

// Conn is one client's connection through a proxy.
type Conn struct {
	p              *Proxy
	client, server net.Conn
	rule           rule
	requests       int           // that came from the client, the first being the handshake
	answers        int           // that came from the server, likewise
	swallow        int           // the number of the answer to swallow; 0: none
	txns           int           // transactions that came from the client
	loseTxn        int           // the number of the transaction to lose; 0: none
	swallowTxn     int           // the number of the transaction whose answer to swallow; 0: none
	xid            uint32        // of that transaction, once it came
	hit            chan struct{} // closed when one of these has happened
	gone           chan struct{} // closed when the connection has ended
	once           sync.Once
}

// What a frame begins with, after its length: a request's number, and in a
// request then the operation.
const opMulti = 14

func xidOf(frame []byte) uint32 {
	if len(frame) < 8 {
		return 0
	}
	return binary.BigEndian.Uint32(frame[4:])
}

func isTxn(frame []byte) bool {
	return len(frame) >= 12 && binary.BigEndian.Uint32(frame[8:]) == opMulti
}

// NewProxy starts a proxy to a server's address; it ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, l: l}
	p.cond = sync.NewCond(&p.mu)
	p.wg.Go(p.accept)
	t.Cleanup(p.Close)
	return p
}

// Addr is where clients connect.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Pass takes back every fault, also those of single connections. What was
// dropped stays lost, as frames within a connection: the next ones do not
// make sense of it, so a connection that lost a frame should be cut.
func (p *Proxy) Pass() {
	p.change(func() {
		p.rule = rule{}
		for _, c := range p.conns {
			c.rule = rule{}
		}
	})
}

// Drop makes frames vanish silently: those to the server, those to the
// client, or both. New connections are accepted and get nothing.
func (p *Proxy) Drop(toServer, toClient bool) {
	p.change(func() {
		p.rule.dropUp, p.rule.dropDown = toServer, toClient
		for _, c := range p.conns {
			c.rule.dropUp, c.rule.dropDown = toServer, toClient
		}
	})
}

// Delay makes every frame wait, in each direction, in order.
func (p *Proxy) Delay(d time.Duration) {
	p.change(func() {
		p.rule.delay = d
		for _, c := range p.conns {
			c.rule.delay = d
		}
	})
}

// Refuse closes new connections at once, or no longer.
func (p *Proxy) Refuse(on bool) { p.change(func() { p.rule.refuse = on }) }

// Cut closes the connections that exist.
func (p *Proxy) Cut() {
	for _, c := range p.Conns() {
		c.Cut()
	}
}

// Conns are the connections that exist, the oldest first.
func (p *Proxy) Conns() []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.conns)
}

// Wait waits until n connections exist whose handshake was answered and that
// were not cut, and returns them; fewer only if the proxy has ended.
func (p *Proxy) Wait(n int) []*Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var list []*Conn
		for _, c := range p.conns {
			if c.answers > 0 {
				list = append(list, c)
			}
		}
		if len(list) >= n || p.closed {
			return list
		}
		p.cond.Wait()
	}
}

// Close ends the proxy and its connections.
func (p *Proxy) Close() {
	p.change(func() { p.closed = true })
	p.l.Close()
	p.Cut()
	p.wg.Wait()
}

func (p *Proxy) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.cond.Broadcast()
}

func (p *Proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer server.Close()
	c := &Conn{p: p, client: client, server: server, hit: make(chan struct{}), gone: make(chan struct{})}
	refused := false
	p.change(func() {
		if refused = p.rule.refuse || p.closed; !refused {
			c.rule = p.rule
			p.conns = append(p.conns, c)
		}
	})
	if refused {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { c.pump(server, client, c.up) })
	wg.Go(func() { c.pump(client, server, c.down) })
	wg.Wait()
}

// pump moves frames until the connection ends: four bytes of length, then
// that many.
func (c *Conn) pump(to, from net.Conn, verdict func(frame []byte) (time.Duration, bool)) {
	defer c.Cut()
	var size [4]byte
	for {
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return
		}
		frame := make([]byte, 4+binary.BigEndian.Uint32(size[:]))
		copy(frame, size[:])
		if _, err := io.ReadFull(from, frame[4:]); err != nil {
			return
		}
		delay, pass := verdict(frame)
		if delay > 0 {
			select {
			case <-time.After(delay):
			case <-c.gone:
				return
			}
		}
		if !pass {
			continue
		}
		if _, err := to.Write(frame); err != nil {
			return
		}
	}
}

// up decides on a frame to the server.
func (c *Conn) up(frame []byte) (time.Duration, bool) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	pass := !c.rule.dropUp
	if c.requests++; c.requests > 1 && isTxn(frame) {
		switch c.txns++; c.txns {
		case c.loseTxn:
			close(c.hit)
			pass = false
		case c.swallowTxn:
			c.xid = xidOf(frame)
		}
	}
	return c.rule.delay, pass
}

// down decides on a frame to the client.
func (c *Conn) down(frame []byte) (time.Duration, bool) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.answers++
	c.p.cond.Broadcast()
	pass := !c.rule.dropDown
	if c.answers == c.swallow || c.answers > 1 && c.xid != 0 && c.xid == xidOf(frame) {
		close(c.hit)
		c.xid = 0
		pass = false
	}
	return c.rule.delay, pass
}

// Swallow makes the n-th answer from now on vanish, and everything after it
// pass: the server has done what was asked, and the client never learns. The
// channel is closed when it has happened; cut the connection then, as a
// network would. Of Swallow, SwallowTxn and LoseTxn, one can be asked of a
// connection, once.
func (c *Conn) Swallow(n int) <-chan struct{} {
	c.p.change(func() { c.swallow = c.answers + n })
	return c.hit
}

// SwallowTxn is Swallow for the answer to the n-th transaction from now on.
func (c *Conn) SwallowTxn(n int) <-chan struct{} {
	c.p.change(func() { c.swallowTxn = c.txns + n })
	return c.hit
}

// LoseTxn makes the n-th transaction from now on vanish before it reaches the
// server.
func (c *Conn) LoseTxn(n int) <-chan struct{} {
	c.p.change(func() { c.loseTxn = c.txns + n })
	return c.hit
}

// Drop makes this connection's frames vanish silently.
func (c *Conn) Drop(toServer, toClient bool) {
	c.p.change(func() { c.rule.dropUp, c.rule.dropDown = toServer, toClient })
}

// Delay makes this connection's frames wait, in each direction.
func (c *Conn) Delay(d time.Duration) { c.p.change(func() { c.rule.delay = d }) }

// Cut closes the connection.
func (c *Conn) Cut() {
	c.once.Do(func() {
		close(c.gone)
		c.client.Close()
		c.server.Close()
		c.p.change(func() {
			c.p.conns = slices.DeleteFunc(c.p.conns, func(o *Conn) bool { return o == c })
		})
	})
}

// Gone is closed when the connection has ended.
func (c *Conn) Gone() <-chan struct{} { return c.gone }
