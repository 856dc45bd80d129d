// Package zk is the coordination service on a ZooKeeper ensemble (3.5 or
// newer), through github.com/go-zookeeper/zk.
//
// The library needs to be held on a short rein; what is odd about it, and the
// remedy, stands where the remedy is. Two rules are the frame: one client of
// the library lives for one session and never longer, and only what a server
// has said counts as an answer, all else leaves the outcome open.
package zk

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

// Options of Open.
type Options struct {
	SessionTimeout time.Duration // asked for; the servers bound it. Default: 10 s
	Logger         *slog.Logger  // default: none
}

var errClosed = fmt.Errorf("coord: %w", coord.ErrClosed)

// conn is a coord.Conn: one session after the other.
type conn struct {
	addr           Address
	tls            *tls.Config
	user, password string
	acl            []zk.ACL
	timeout        time.Duration // as asked for
	log            *slog.Logger
	loss           loss

	mu      sync.Mutex
	cur     *session      // nil: none at the moment
	ready   chan struct{} // closed when there is a current session
	trouble error         // why there is none

	counted atomic.Bool // the counter is there

	once sync.Once
	done chan struct{} // closed by Close
	wait sync.WaitGroup
}

// Open connects to the ensemble, begins a session, and makes the cluster's
// folder if there is none: the first process with a new id forms the cluster.
// It waits for the ensemble at most for the session's time-out. Errors: of kind
// fault.Config for what the operator must correct, fault.Denied, and
// fault.Temporary if no server can be used.
func Open(ctx context.Context, addr Address, o Options) (coord.Conn, error) {
	if o.SessionTimeout == 0 {
		o.SessionTimeout = 10 * time.Second
	}
	if o.SessionTimeout < 0 {
		return nil, fault.Errorf(fault.Config, "coord: session time-out %v is negative", o.SessionTimeout)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &conn{addr: addr, timeout: o.SessionTimeout, log: o.Logger, ready: make(chan struct{}), done: make(chan struct{})}
	c.loss.c = c
	var err error
	if c.tls, err = addr.tls(); err != nil {
		return nil, err
	}
	if c.user, c.password, err = addr.credentials(); err != nil {
		return nil, err
	}
	switch {
	case c.user != "":
		c.acl = zk.DigestACL(zk.PermAll, c.user, c.password)
	case addr.CertFile != "":
		c.acl = zk.AuthACL(zk.PermAll) // whom the certificate names
	default:
		c.acl = zk.WorldACL(zk.PermAll)
	}
	first, err := c.begin()
	if err != nil {
		return nil, fault.Errorf(fault.Config, "coordination %s: %w", addr, err)
	}
	c.wait.Go(func() { c.keep(first) })
	within, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := c.join(within); err != nil {
		if ctx.Err() == nil && within.Err() != nil {
			err = fault.Errorf(fault.Temporary, "coordination %s: no session within %v: %s", addr, c.timeout, first.complaint())
		}
		c.Close()
		return nil, err
	}
	return c, nil
}

// complaint says what is wrong with each server.
func (s *session) complaint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	for server, problem := range s.problems {
		all = append(all, server+": "+problem)
	}
	if len(all) == 0 {
		return "no answer"
	}
	slices.Sort(all)
	return strings.Join(all, "; ")
}

// keep holds one session after the other until Close.
func (c *conn) keep(s *session) {
	for {
		c.keepOne(s)
		c.wait.Go(s.shut)
		var err error
		for s = nil; s == nil; {
			if c.closed() {
				return
			}
			if s, err = c.begin(); err != nil {
				c.set(nil, err) // it was fine for the first session
				select {
				case <-time.After(time.Second):
				case <-c.done:
				}
			}
		}
	}
}

// keepOne sees a session from its beginning to its end.
func (c *conn) keepOne(s *session) {
	for {
		select {
		case <-s.has:
		case <-s.over:
			return
		case <-c.done:
			return
		case <-s.news:
			c.loss.note(s)
			continue
		}
		break
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.granted())
	defer cancel()
	if err := s.prepare(ctx); err != nil {
		c.set(nil, fmt.Errorf("coord: new session: %w", err))
		return
	}
	c.set(s, nil)
	s.tend()
}

// set makes s the current session, or tells why there is none.
func (c *conn) set(s *session, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cur, c.trouble = s, err
	if s == nil {
		return
	}
	select {
	case <-s.over: // meanwhile
		c.cur = nil
	default:
		close(c.ready)
	}
}

// forget makes s no longer the current session.
func (c *conn) forget(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur == s {
		c.cur, c.ready = nil, make(chan struct{})
	}
}

// current waits for a session.
func (c *conn) current(ctx context.Context) (*session, error) {
	for {
		c.mu.Lock()
		s, ready, trouble := c.cur, c.ready, c.trouble
		c.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-ready:
		case <-c.done:
			return nil, errClosed
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), trouble)
		}
	}
}

// join makes the cluster's folder, and sees that it is open to whom it should
// be.
func (c *conn) join(ctx context.Context) error {
	path := ""
	for part := range strings.SplitSeq(c.addr.Path[1:], "/") {
		path += "/" + part
		if err := c.makeRoot(ctx, path); err != nil {
			return err
		}
	}
	acl, err := request(ctx, c, false, func(s *session) ([]zk.ACL, error) {
		acl, _, err := s.zk.GetACL(c.addr.Path)
		return acl, err
	})
	if err != nil {
		return c.explain(c.addr.Path, err)
	}
	open := slices.ContainsFunc(acl, func(a zk.ACL) bool { return a.Scheme == "world" })
	if open && c.acl[0].Scheme != "world" {
		c.log.Warn("the cluster was formed without credentials: anybody who reaches the ensemble can read and change it", "cluster", c.addr.Path)
	}
	return nil
}

func (c *conn) makeRoot(ctx context.Context, path string) error {
	exists, err := request(ctx, c, false, func(s *session) (bool, error) {
		exists, _, err := s.zk.Exists(path)
		return exists, err
	})
	if err != nil {
		return c.explain(path, err)
	}
	if exists {
		return nil
	}
	_, err = request(ctx, c, true, func(s *session) (string, error) { return s.zk.Create(path, nil, 0, c.acl) })
	if errors.Is(err, zk.ErrNodeExists) {
		return nil
	}
	if err == nil && path == c.addr.Path {
		c.log.Info("formed a new cluster", "cluster", c.addr.String())
	}
	return c.explain(path, err)
}

// counter is a node of which nothing but the transactions' numbers is wanted.
// It is made for the first of them.
func (c *conn) counter() string { return c.addr.Path + "/" + counterName }

const counterName = "%zxid" // no name of ours: those with a % continue with two digits

func (c *conn) handshakeLimit() time.Duration {
	return max(min(c.timeout/5, 2*time.Second), 500*time.Millisecond)
}

// Session tells the current session.
func (c *conn) Session() coord.Session {
	c.mu.Lock()
	s := c.cur
	c.mu.Unlock()
	if s == nil {
		return coord.Session{Timeout: c.timeout}
	}
	return s.state()
}

// Close ends the session and frees everything; watches are closed.
func (c *conn) Close() error {
	err := errClosed
	c.once.Do(func() {
		close(c.done)
		c.wait.Wait()
		err = nil
	})
	return err
}

func (c *conn) closed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}
