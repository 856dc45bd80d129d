package zk

import (
	"sync"
	"time"
)

// loss tells the operator once that the service is lost, and once that it is
// back. A change of servers is no news.
type loss struct {
	c *conn

	mu    sync.Mutex
	had   bool      // there was a session: before that, Open tells
	since time.Time // zero: connected
	said  bool
	id    int64 // of the session that was lost
}

// worthSaying is how long a connection is missed before it is said.
func (l *loss) worthSaying() time.Duration { return min(l.c.timeout/3, 2*time.Second) }

// note looks at how session s stands.
func (l *loss) note(s *session) {
	st := s.state()
	s.mu.Lock()
	// A server that accepts us but has lost the others is no service either.
	ok := s.connected && time.Since(st.Renewed) < st.Timeout*2/3
	s.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.had = l.had || st.ID != 0
	switch {
	case !l.had:
	case !ok && l.since.IsZero():
		l.since, l.id = time.Now(), st.ID
	case !ok && !l.said && time.Since(l.since) > l.worthSaying():
		l.said = true
		l.c.log.Warn("lost the coordination service; trying again until it is back", "servers", s.complaint())
	case ok && l.said:
		l.c.log.Info("the coordination service is back", "after", time.Since(l.since).Round(100*time.Millisecond).String(), "same_session", st.ID == l.id)
		l.since, l.said = time.Time{}, false
	case ok:
		l.since = time.Time{}
	}
}
