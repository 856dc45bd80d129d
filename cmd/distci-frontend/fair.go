package main

import (
	"net"
	"net/netip"
	"sync"

	"github.com/distci/distci/lib/api"
)

// fair is a listener that has at most so many connections of one address: a
// client that opens them and says nothing leaves the others their part. This
// machine's own and those of the trusted proxies are not counted.
type fair struct {
	net.Listener
	most    int
	trusted *api.Proxies

	mu   sync.Mutex
	open map[netip.Prefix]int
}

func newFair(l net.Listener, most int, trusted *api.Proxies) net.Listener {
	if most == 0 {
		return l
	}
	return &fair{Listener: l, most: most, trusted: trusted, open: map[netip.Prefix]int{}}
}

// Accept closes a connection that is one too many, and waits for the next.
func (f *fair) Accept() (net.Conn, error) {
	for {
		c, err := f.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who, counted := f.who(c)
		if !counted {
			return c, nil
		}
		f.mu.Lock()
		ok := f.open[who] < f.most
		if ok {
			f.open[who]++
		}
		f.mu.Unlock()
		if ok {
			return &countedConn{Conn: c, done: func() { f.release(who) }}, nil
		}
		c.Close()
	}
}

// who is the address that a connection counts for; of IPv6 the network.
func (f *fair) who(c net.Conn) (netip.Prefix, bool) {
	a, err := netip.ParseAddrPort(c.RemoteAddr().String())
	addr := a.Addr().Unmap().WithZone("")
	if err != nil || addr.IsLoopback() || f.trusted.Trusts(addr) {
		return netip.Prefix{}, false
	}
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	p, err := addr.Prefix(bits)
	return p, err == nil
}

func (f *fair) release(who netip.Prefix) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open[who]--; f.open[who] == 0 {
		delete(f.open, who)
	}
}

// countedConn is a connection that is counted until it is closed.
type countedConn struct {
	net.Conn
	once sync.Once
	done func()
}

func (c *countedConn) Close() error {
	c.once.Do(c.done)
	return c.Conn.Close()
}
