package worker_test

import (
	"bytes"
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/lab"
)

// outage is a connection to the coordination service that goes away at a chosen
// moment for as long as a test wants, and comes back when its session is over.
type outage struct {
	s *site

	mu     sync.Mutex
	conn   coord.Conn
	claims int // that were made through it

	// at is asked before each call; a call for which it is true waits, as all do
	// without a connection, until back is closed.
	at   func(method, path string) bool
	once sync.Once
	gone chan struct{} // closed at the first call that waits
	back chan struct{}
}

func (s *site) outage() *outage {
	return &outage{s: s, conn: s.connect(), gone: make(chan struct{}), back: make(chan struct{})}
}

// expire ends the session, as the service does with one that is silent.
func (o *outage) expire() {
	conn := o.s.connect()
	o.mu.Lock()
	old := o.conn
	o.conn = conn
	o.mu.Unlock()
	old.Close()
}

func (o *outage) present() coord.Conn {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.conn
}

// call waits if this is the moment.
func (o *outage) call(ctx context.Context, method, path string) (coord.Conn, error) {
	if o.at(method, path) {
		o.once.Do(func() { close(o.gone) })
		select {
		case <-o.back:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return o.present(), nil
}

// goes waits for the first call that waits.
func (o *outage) goes() {
	o.s.Helper()
	lab.Until(o.s, "the connection is away", func() bool {
		select {
		case <-o.gone:
			return true
		default:
			return false
		}
	})
}

// claimed is how many claims were made.
func (o *outage) claimed() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.claims
}

func (o *outage) Get(ctx context.Context, path string) ([]byte, coord.Stat, error) {
	c, err := o.call(ctx, "Get", path)
	if err != nil {
		return nil, coord.Stat{}, err
	}
	return c.Get(ctx, path)
}

func (o *outage) WatchNode(ctx context.Context, path string) (coord.Watch, error) {
	c, err := o.call(ctx, "WatchNode", path)
	if err != nil {
		return nil, err
	}
	return c.WatchNode(ctx, path)
}

func (o *outage) Txn(ctx context.Context, ops ...coord.Op) ([]coord.Stat, error) {
	stats, err := o.present().Txn(ctx, ops...)
	if err == nil && slices.ContainsFunc(ops, func(op coord.Op) bool { return op.Ephemeral && strings.HasPrefix(op.Path, "/c/") }) {
		o.mu.Lock()
		o.claims++
		o.mu.Unlock()
	}
	return stats, err
}

func (o *outage) Children(ctx context.Context, path string) ([]string, error) {
	return o.present().Children(ctx, path)
}

func (o *outage) WatchChildren(ctx context.Context, path string) (coord.Watch, error) {
	return o.present().WatchChildren(ctx, path)
}

func (o *outage) Session() coord.Session { return o.present().Session() }
func (o *outage) Close() error           { return o.present().Close() }

const stopped = "can no longer be relied on"

// TestClaimLostBeforeStep: a worker that has claimed a step loses the
// coordination service before it starts it, until the claim is somebody
// else's. It does not start it any more.
func TestClaimLostBeforeStep(t *testing.T) {
	s := newSite(t)
	other := s.repo(s.connect())
	ran := s.path("ran")
	s.putJob(other, "job", `echo ran >>`+ran+`
until test -e `+s.path("go")+`; do sleep 0.01; done`)
	o := s.outage()
	// The build's second claim is that of its step; then the worker asks whether
	// it was canceled.
	o.at = func(method, path string) bool { return o.claimed() == 2 && method == "Get" }
	r := s.repo(o)
	var log lab.Buffer
	s.work("first", r, time.Second, &log)
	s.trigger(other, "job")
	o.goes()
	o.expire()
	s.work("second", other, time.Second, t.Output())
	lab.Until(t, "another worker has begun the step", func() bool { return s.lines(ran) > 0 })
	close(o.back)
	lab.Until(t, "the first worker has given up", func() bool { return strings.Contains(log.String(), stopped) })
	s.touch("go")
	s.succeeds(other, "job")
	if n := s.lines(ran); n != 1 {
		t.Errorf("the step was begun %d times", n)
	}
}

// TestClaimLostWhileAsking: what guards a step does not wait for an answer of
// the coordination service that does not come.
func TestClaimLostWhileAsking(t *testing.T) {
	s := newSite(t)
	other := s.repo(s.connect())
	o, log := s.lost(other, time.Second)
	lab.Until(t, "the step is stopped", func() bool { return strings.Contains(log.String(), stopped) })
	close(o.back)
	s.succeeds(other, "job")
}

// TestClaimLostAndBuildOver: a build that others have brought to its end in the
// meantime is not taken for canceled.
func TestClaimLostAndBuildOver(t *testing.T) {
	s := newSite(t)
	other := s.repo(s.connect())
	o, log := s.lost(other, 10*time.Minute) // it looks after its claim every 30 s
	s.work("second", other, time.Second, t.Output())
	s.succeeds(other, "job")
	close(o.back)
	lab.Until(t, "the step is stopped", func() bool { return strings.Contains(log.String(), "ticket") })
	if !strings.Contains(log.String(), stopped) {
		t.Errorf("it says:\n%s", log.String())
	}
}

// lost starts a worker on a job whose step comes to its end only when it runs
// again, and ends its session while the step runs and it asks whether the build
// was canceled.
func (s *site) lost(other *repo.Repo, pace time.Duration) (*outage, *lab.Buffer) {
	s.Helper()
	first := s.path("first")
	s.putJob(other, "job", "mkdir "+first+" 2>/dev/null || exit 0\nexec sleep 600")
	o, log := s.outage(), &lab.Buffer{}
	o.at = func(method, path string) bool {
		return method == "WatchNode" && strings.HasPrefix(path, "/builds/")
	}
	s.work("first", s.repo(o), pace, log)
	s.trigger(other, "job")
	o.goes()
	lab.Until(s, "the step runs", func() bool {
		_, err := os.Stat(first)
		return err == nil
	})
	o.expire()
	return o, log
}

func (s *site) trigger(r *repo.Repo, job string) {
	s.Helper()
	if _, err := r.Trigger(s.Context(), job, nil); err != nil {
		s.Fatal(err)
	}
}

// succeeds waits for the end of a job's first build.
func (s *site) succeeds(r *repo.Repo, job string) {
	s.Helper()
	lab.Until(s, "the build ends", func() bool {
		b, err := r.Build(s.Context(), job, 1)
		if err != nil {
			s.Fatal(err)
		}
		if b.State.Status == ticket.Complete && b.State.Result != ticket.Success {
			s.Fatalf("%s: %s", b.State.Result, b.State.Error)
		}
		return b.State.Status == ticket.Complete
	})
}

// lines counts those of a file, which need not be there.
func (s *site) lines(path string) int {
	b, _ := os.ReadFile(path)
	return bytes.Count(b, []byte("\n"))
}

func (s *site) touch(name string) {
	s.Helper()
	if err := os.WriteFile(s.path(name), nil, 0o600); err != nil {
		s.Fatal(err)
	}
}
