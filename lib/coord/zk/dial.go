package zk

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"
)

// hosts hands out the servers in turn, by the names that the operator gave
// them: TLS needs them, and a name may get another address while we run.
type hosts struct {
	servers []string
	next    int // of servers
	tried   int // since the last connection
}

func (h *hosts) Init(servers []string) error {
	h.servers = servers
	return nil
}

func (h *hosts) Len() int { return len(h.servers) }

// Next is the next server to try; again, when all have been tried in vain.
func (h *hosts) Next() (server string, again bool) {
	again = h.tried > 0 && h.tried%len(h.servers) == 0
	server = h.servers[h.next]
	h.next = (h.next + 1) % len(h.servers)
	h.tried++
	return server, again
}

func (h *hosts) Connected() { h.tried = 0 }

var errOver = errors.New("the session is over")

// dial connects to a server on behalf of the client library. A session that is
// over gets no connection any more: the library would begin another one on it,
// and send requests in it that were meant for the old one.
func (s *session) dial(network, address string) (net.Conn, error) {
	select {
	case <-s.over:
		return nil, errOver
	default:
	}
	c, err := s.connect(network, address)
	if err != nil {
		s.failed(address, err)
		return nil, err
	}
	h := &handshake{Conn: c, limit: s.c.handshakeLimit(), heard: s.heard}
	h.failed = func(err error) { s.failed(address, err) }
	s.mu.Lock()
	s.dialed, s.net = time.Now(), h
	s.mu.Unlock()
	return h, nil
}

func (s *session) connect(network, address string) (net.Conn, error) {
	d := &net.Dialer{Timeout: s.c.handshakeLimit()} // of TLS, too
	if s.c.tls == nil {
		return d.Dial(network, address)
	}
	config := s.c.tls.Clone()
	config.ServerName, _, _ = net.SplitHostPort(address)
	return tls.DialWithDialer(d, network, address, config)
}

// handshake is a connection that watches over its first reply, the answer to
// the library's connect request. For that the library waits nearly seven times
// the session's time-out, believes any length, and tells nobody the time-out
// that the server granted.
type handshake struct {
	net.Conn
	limit  time.Duration
	heard  func(id int64, timeout time.Duration)
	failed func(error)

	done atomic.Bool
	seen []byte // of the reply
}

// replyLen is how much of the reply is looked at: its length, the protocol's
// version, the time-out in milliseconds, the session's id.
const replyLen = 4 + 4 + 4 + 8

// SetReadDeadline bounds the whole handshake, whatever the library says.
func (h *handshake) SetReadDeadline(t time.Time) error {
	if h.done.Load() {
		return h.Conn.SetReadDeadline(t)
	}
	if t.IsZero() {
		return nil
	}
	return h.Conn.SetReadDeadline(time.Now().Add(h.limit))
}

func (h *handshake) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if h.done.Load() {
		return n, err
	}
	h.seen = append(h.seen, p[:n]...)
	size := uint32(replyLen)
	if len(h.seen) >= 4 {
		if size = binary.BigEndian.Uint32(h.seen); size < replyLen-4 || size > 256 {
			err = fmt.Errorf("it is not a ZooKeeper server; it says %q", bytes.ToValidUTF8(h.seen, []byte("?")))
			h.failed(err)
			return 0, err
		}
	}
	if err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			err = fmt.Errorf("it accepted the connection and did not answer within %v", h.limit)
		} else {
			err = fmt.Errorf("it ended the connection without an answer (%w); it may be without a leader, refuse plain or encrypted connections, or have too many", err)
		}
		h.failed(err)
		return n, err
	}
	if len(h.seen) >= replyLen && len(h.seen) >= 4+int(size) {
		h.done.Store(true)
		h.heard(int64(binary.BigEndian.Uint64(h.seen[12:])), time.Duration(binary.BigEndian.Uint32(h.seen[8:]))*time.Millisecond)
		h.seen = nil
		return n, h.Conn.SetReadDeadline(time.Time{})
	}
	return n, nil
}
