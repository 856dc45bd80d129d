package faults

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/test/lab"
	zktest "github.com/distci/distci/test/zk"
)

// proxies stand between one process and the servers.
type proxies []*zktest.Proxy

func (s *site) through(names ...string) {
	s.t.Helper()
	s.proxies = map[string]proxies{}
	for _, name := range names {
		for _, addr := range s.e.Servers() {
			s.proxies[name] = append(s.proxies[name], zktest.NewProxy(s.t, addr))
		}
	}
}

func (ps proxies) addrs() (list []string) {
	for _, p := range ps {
		list = append(list, p.Addr())
	}
	return list
}

// conn is the process's connection; nil if there is none at the moment.
func (ps proxies) conn() *zktest.Conn {
	for _, p := range ps {
		if list := p.Conns(); len(list) > 0 {
			return list[len(list)-1]
		}
	}
	return nil
}

func (ps proxies) all(f func(*zktest.Proxy)) {
	for _, p := range ps {
		f(p)
	}
}

// TestLostAnswers: again and again a transaction of each process gets no
// answer, because the connection ends: some were carried out, some were not.
func TestLostAnswers(t *testing.T) {
	e := zktest.Start(t, zktest.Options{Nodes: 3, TickTime: tick})
	s := newSite(t, e, nil, "answers")
	names := []string{"f1", "f2", "w1", "w2", "w3"}
	s.through(names...)
	_, l := s.begin()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var mu sync.Mutex
	lost := map[bool]int{} // by whether they were carried out
	for i, name := range names {
		rng := rand.New(rand.NewPCG(1, uint64(i)))
		wg.Go(func() {
			for ended := false; !ended; {
				c := s.proxies[name].conn()
				if c == nil {
					ended = sleep(stop, 10*time.Millisecond)
					continue
				}
				done := rng.IntN(2) == 0
				hit := c.LoseTxn
				if done {
					hit = c.SwallowTxn
				}
				select {
				case <-hit(1 + rng.IntN(8)):
					c.Cut()
					mu.Lock()
					lost[done]++
					mu.Unlock()
				case <-c.Gone():
				case <-stop:
					ended = true
				}
			}
		})
	}
	l.progress(40)
	close(stop)
	wg.Wait()
	for _, name := range names {
		s.proxies[name].all((*zktest.Proxy).Cut) // a connection may have been asked already
	}
	l.settle(true)
	t.Logf("transactions without an answer: %d carried out, %d not", lost[true], lost[false])
	if lost[true] < 10 || lost[false] < 10 {
		t.Error("too few to mean anything")
	}
}

// sleep returns true at once when stop is closed.
func sleep(stop <-chan struct{}, d time.Duration) bool {
	select {
	case <-stop:
		return true
	case <-time.After(d):
		return false
	}
}

// TestExpiryDuringTransaction: the answer to a worker's transaction is lost,
// and before it can ask again its session is over.
func TestExpiryDuringTransaction(t *testing.T) {
	e := zktest.Start(t, zktest.Options{Nodes: 3, TickTime: tick})
	s := newSite(t, e, nil, "expiry")
	s.through("w1", "w2")
	_, l := s.begin()
	c := s.open()
	there := func() (n int) {
		members, err := c.Repo.Members(t.Context())
		if err != nil {
			return -1
		}
		for _, m := range members {
			if s.proxies[m.Name] != nil {
				n++
			}
		}
		return n
	}
	for round := range 2 {
		var hits []<-chan struct{}
		for i, name := range []string{"w1", "w2"} {
			var conn *zktest.Conn
			lab.Until(t, name+" is connected", func() bool {
				conn = s.proxies[name].conn()
				return conn != nil
			})
			// Carried out, or not; the one after the other, to meet claims and commits.
			hit := conn.SwallowTxn
			if (round+i)%2 == 1 {
				hit = conn.LoseTxn
			}
			wait := hit(1 + 2*round + i)
			done := make(chan struct{})
			hits = append(hits, done)
			go func() {
				defer close(done)
				select {
				case <-wait:
				case <-conn.Gone(): // it was not a good moment
				}
				s.proxies[name].all(func(p *zktest.Proxy) { p.Refuse(true) })
				s.proxies[name].all((*zktest.Proxy).Cut)
			}()
		}
		for _, hit := range hits {
			<-hit
		}
		lab.Until(t, "the sessions are over", func() bool { return there() == 0 })
		s.proxies["w1"].all((*zktest.Proxy).Pass)
		s.proxies["w2"].all((*zktest.Proxy).Pass)
		l.progress(2)
		lab.Until(t, "the workers are back", func() bool { return there() == 2 })
	}
	l.settle(true)
}
