package faults

import (
	"slices"
	"testing"
	"time"

	"github.com/distci/distci/test/lab"
	zktest "github.com/distci/distci/test/zk"
)

// clients are the hosts of begin's processes.
var clients = []string{"f1", "f2", "w1", "w2", "w3"}

// nodes are the hosts of the ensemble's leader and of the other two.
func nodes(t *testing.T, e *zktest.Ensemble) (leader string, others []string) {
	t.Helper()
	lab.Until(t, "a leader", func() bool { return e.Leader() != 0 })
	n := e.Leader()
	for node := 1; node <= 3; node++ {
		if node != n {
			others = append(others, zktest.NodeHost(node))
		}
	}
	return zktest.NodeHost(n), others
}

// hold waits until the sessions of before are over for those who are cut off.
func hold() { time.Sleep(session*3/2 + tick) }

// TestNetwork: what happens to the network. Each server and each process is on
// a host of its own, and packets between them are lost.
func TestNetwork(t *testing.T) {
	net := zktest.NewNetwork(t)
	e := zktest.StartOn(t, net, zktest.Options{Nodes: 3, TickTime: tick})
	run := func(name, id string, hurt func(t *testing.T, s *site, l *load)) {
		t.Run(name, func(t *testing.T) {
			s, l := begin(t, e, net, id)
			t.Cleanup(net.Heal) // before the processes are asked to end
			finished := s.long("w1")
			hurt(t, s, l)
			net.Heal()
			await(t, e)
			l.progress(5)
			finished()
			l.settle(true)
		})
	}

	// The leader is alone with a worker and a frontend. The others go on.
	run("a minority is cut off", "minority", func(t *testing.T, s *site, l *load) {
		leader, others := nodes(t, e)
		inside := []string{leader, "w1", "f1"}
		net.Split(inside, append(others, "f2", "w2", "w3"))
		s.only("f2", func() { l.progress(8) })
		hold()
		if e.Mode(zktest.Node(leader)) == "leader" {
			t.Error("the leader without a majority still leads")
		}
	})
	// Nobody can do anything but the servers of the majority, and they end
	// everybody's session.
	run("the majority is cut off from everybody", "majority", func(t *testing.T, s *site, l *load) {
		leader, others := nodes(t, e)
		majority := []string{leader, others[0]}
		net.Split(majority, append(slices.Clone(clients), others[1]))
		hold()
		if now, _ := nodes(t, e); !slices.Contains(majority, now) {
			t.Errorf("%s leads, which is not of the majority", now)
		}
	})
	// What a worker says arrives, and it hears nothing.
	run("a worker is deaf", "deaf", func(t *testing.T, s *site, l *load) {
		net.Drop([]string{"n1", "n2", "n3"}, []string{"w1"})
		l.progress(5)
		hold()
	})
	// What it says is lost, and it hears everything.
	run("a worker is mute", "mute", func(t *testing.T, s *site, l *load) {
		net.Drop([]string{"w1"}, []string{"n1", "n2", "n3"})
		l.progress(5)
		hold()
	})
	run("the leader is not heard by the servers", "unheard", func(t *testing.T, s *site, l *load) {
		leader, others := nodes(t, e)
		net.Drop([]string{leader}, others)
		hold()
	})
	run("the leader does not hear the servers", "unhearing", func(t *testing.T, s *site, l *load) {
		leader, others := nodes(t, e)
		net.Drop(others, []string{leader})
		hold()
	})
	// The leader accepts what clients say, and they do not hear it.
	run("the leader's answers are lost", "answers", func(t *testing.T, s *site, l *load) {
		leader, _ := nodes(t, e)
		net.Drop([]string{leader}, clients)
		l.progress(5)
		hold()
	})
}

// only asks no frontend but one meanwhile: the others may be cut off.
func (s *site) only(name string, f func()) {
	all := s.fronts
	defer func() { s.fronts = all }()
	s.fronts = slices.DeleteFunc(slices.Clone(all), func(f front) bool { return f.name != name })
	f()
}
