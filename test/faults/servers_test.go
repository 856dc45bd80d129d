package faults

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/distci/distci/test/lab"
	zktest "github.com/distci/distci/test/zk"
)

// begin starts two frontends, three workers that work on two tickets each, and
// the load, and waits until builds come to their end.
func begin(t *testing.T, e *zktest.Ensemble, net *zktest.Network, id string) (*site, *load) {
	t.Helper()
	return newSite(t, e, net, id).begin()
}

func (s *site) begin() (*site, *load) {
	s.t.Helper()
	s.frontend("f1")
	s.frontend("f2")
	for i := range 3 {
		s.worker(fmt.Sprintf("w%d", i+1), "--jobs", "2")
	}
	l := s.load()
	l.progress(3)
	return s, l
}

// await waits until all nodes of an ensemble serve.
func await(t *testing.T, e *zktest.Ensemble) {
	t.Helper()
	for node := 1; node <= 3; node++ {
		if err := e.Await(node); err != nil {
			t.Fatal(err)
		}
	}
}

// TestServers: what happens to the servers.
func TestServers(t *testing.T) {
	e := zktest.Start(t, zktest.Options{Nodes: 3, TickTime: tick})

	t.Run("leader killed", func(t *testing.T) {
		_, l := begin(t, e, nil, "leader")
		leader := e.Leader()
		e.Kill(leader)
		l.progress(5) // two are enough
		e.StartNode(leader)
		await(t, e)
		l.progress(2)
		l.settle(true)
	})
	t.Run("one after the other", func(t *testing.T) {
		_, l := begin(t, e, nil, "rolling")
		for node := 1; node <= 3; node++ {
			e.Kill(node)
			e.StartNode(node)
			await(t, e)
			l.progress(2)
		}
		l.settle(true)
	})
	t.Run("two at once", func(t *testing.T) {
		s, l := begin(t, e, nil, "two")
		finished := s.long("w1")
		leader := e.Leader()
		other := leader%3 + 1
		e.Kill(leader, other)
		// Longer than the workers may rely on their claims.
		time.Sleep(session)
		e.StartNode(leader, other)
		await(t, e)
		l.progress(5)
		finished()
		l.settle(true)
	})
	t.Run("all at once", func(t *testing.T) {
		_, l := begin(t, e, nil, "all")
		e.Kill(1, 2, 3)
		e.StartNode(1, 2, 3)
		await(t, e)
		l.progress(5)
		l.settle(true)
	})
}

// TestPausedWorker: a worker that is stopped for longer than its session wakes
// up to find that its tickets are somebody else's.
func TestPausedWorker(t *testing.T) {
	e := zktest.Start(t, zktest.Options{Nodes: 3, TickTime: tick})
	s, l := begin(t, e, nil, "paused")
	p := s.workers["w1"]
	p.Process.Signal(syscall.SIGSTOP)
	paused := time.Now()
	c := s.open()
	lab.Until(t, "its session is over", func() bool {
		members, err := c.Repo.Members(t.Context())
		if err != nil {
			return false
		}
		for _, m := range members {
			if m.Name == "w1" {
				return false
			}
		}
		return true
	})
	t.Logf("the paused worker's session ended after %v", time.Since(paused).Round(10*time.Millisecond))
	l.progress(4)
	p.Process.Signal(syscall.SIGCONT)
	l.progress(4)
	l.settle(false)
}
