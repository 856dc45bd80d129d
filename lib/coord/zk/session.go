package zk

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/distci/distci/lib/coord"
)

// session is one session, and the one client of the library that it lives in.
// The library would silently go on with a new session after an expiry; ours
// ends with it, so that nothing that was meant for a session is ever done in
// another one.
type session struct {
	c  *conn
	zk *zk.Conn

	has  chan struct{} // closed when the ensemble has granted the session
	over chan struct{} // closed when it has expired, or was given up
	news chan struct{} // something below has changed

	mu        sync.Mutex
	dialed    time.Time // the latest connection
	net       net.Conn  // the same
	id        int64
	timeout   time.Duration // as granted
	renewed   time.Time
	connected bool
	problems  map[string]string // by server, since the last success
	watches   map[watched]*watch
}

// begin starts a session; the library connects in the background.
func (c *conn) begin() (*session, error) {
	s := &session{c: c, has: make(chan struct{}), over: make(chan struct{}), news: make(chan struct{}, 1),
		problems: map[string]string{}, watches: map[watched]*watch{}}
	made := make(chan struct{})
	var err error
	s.zk, _, err = zk.Connect(c.addr.Servers, c.timeout,
		zk.WithDialer(func(network, address string, _ time.Duration) (net.Conn, error) {
			<-made // no session before s.zk is set
			return s.dial(network, address)
		}),
		zk.WithHostProvider(&hosts{}),
		zk.WithEventCallback(s.event), // the library's channel drops events
		zk.WithLogger(nolog{}), zk.WithLogInfo(false),
		zk.WithMaxConnBufferSize(sendBuffer), zk.WithMaxBufferSize(receiveBuffer))
	close(made)
	return s, err
}

const (
	sendBuffer    = 1<<20 + 64<<10
	receiveBuffer = 64 << 20 // a listing of a million names
)

type nolog struct{}

func (nolog) Printf(string, ...any) {}

// event is called by the library, which waits for it.
func (s *session) event(e zk.Event) {
	if e.Type != zk.EventSession {
		return
	}
	s.mu.Lock()
	switch e.State {
	case zk.StateHasSession:
		s.connected = true
		clear(s.problems)
		// That the ensemble has taken us on is as good as an answer to a request
		// sent when we began to ask.
		s.renewed = s.dialed
		closeOnce(s.has)
	case zk.StateDisconnected:
		s.connected = false
	}
	s.mu.Unlock()
	if e.State == zk.StateExpired {
		s.end()
	}
	s.tell()
}

// heard is told what the ensemble has granted. An id of 0 means that the old
// session has expired.
func (s *session) heard(id int64, timeout time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if id != 0 {
		s.id, s.timeout = id, timeout
	}
}

// failed remembers why a server cannot be used.
func (s *session) failed(server string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems[server] = reason(err)
}

// reason is an error of a connection without the address in front.
func reason(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		return op.Err.Error()
	}
	return err.Error()
}

func (s *session) tell() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}

// end makes the session one that is over.
func (s *session) end() {
	s.c.forget(s)
	s.mu.Lock()
	closeOnce(s.over)
	watches := s.watches
	s.watches = map[watched]*watch{}
	s.mu.Unlock()
	for _, w := range watches {
		w.fire()
	}
}

// shut ends the session for good, and on the servers, too, if they can be
// reached. It returns after a few seconds at most.
func (s *session) shut() {
	s.zk.Close()
	s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.net != nil {
		s.net.Close() // the library leaves it open after an expiry
	}
}

// prepare makes a session that was granted usable.
func (s *session) prepare(ctx context.Context) error {
	if s.c.user != "" {
		if _, err := ask(ctx, s, func(s *session) (any, error) {
			return nil, s.zk.AddAuth("digest", []byte(s.c.user+":"+s.c.password))
		}); err != nil {
			return err
		}
	}
	// What this process saw in its last session is there in this one, too,
	// whichever server it is on.
	_, err := ask(ctx, s, func(s *session) (string, error) { return s.zk.Sync(s.c.addr.Path) })
	return err
}

// tend keeps the proof that the session lives fresh, until the session is
// over, and tells when the service is lost and back.
//
// The proof is the answer to a write or, if there was none lately, to a sync.
// Pings and reads prove nothing: a server that has lost the rest of the
// ensemble answers them for a while, and the ensemble knows nothing of it. A
// sync is answered by the leader.
func (s *session) tend() {
	every := s.granted() / 5
	tick := time.NewTicker(every)
	defer tick.Stop()
	proving := make(chan struct{}, 1) // holds the one attempt at a time
	for {
		select {
		case <-s.over:
			return
		case <-s.c.done:
			return
		case <-s.news:
			s.c.loss.note(s)
		case <-tick.C:
			s.c.loss.note(s)
			s.mu.Lock()
			due := s.connected && time.Since(s.renewed) > every/2
			s.mu.Unlock()
			if !due {
				continue
			}
			select {
			case proving <- struct{}{}:
				go func() {
					defer func() { <-proving }()
					ctx, cancel := context.WithTimeout(context.Background(), s.granted())
					defer cancel()
					sent := time.Now()
					if _, err := ask(ctx, s, func(s *session) (string, error) { return s.zk.Sync(s.c.addr.Path) }); err == nil {
						s.renew(sent)
					}
				}()
			default:
			}
		}
	}
}

// renew notes that a request that was sent at that time has been answered by
// the ensemble.
func (s *session) renew(sent time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sent.After(s.renewed) {
		s.renewed = sent
	}
}

func (s *session) granted() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.timeout
}

func (s *session) state() coord.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return coord.Session{ID: s.id, Timeout: s.timeout, Renewed: s.renewed}
}

// ask sends a request in session s and waits for its answer, or until the
// session is over or ctx ends. A request may still be carried out after that.
func ask[T any](ctx context.Context, s *session, fn func(*session) (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		v, err := fn(s)
		answers <- answer{v, err}
	}()
	var none T
	select {
	case a := <-answers:
		return a.value, a.err
	case <-s.over:
		// The answer may be there already: the library ends what is pending.
		select {
		case a := <-answers:
			return a.value, a.err
		default:
			return none, errOver
		}
	case <-ctx.Done():
		return none, ctx.Err()
	}
}
