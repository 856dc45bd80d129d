// Package faults does to a cluster of real programs what networks and machines
// do, and then looks at everything that must hold: every build that was posted
// ends well, each step is committed once, and nothing is left behind.
package faults

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/test/lab"
	zktest "github.com/distci/distci/test/zk"
)

// bin is the folder with the programs under test.
var bin string

func TestMain(m *testing.M) { lab.Main(m, &bin) }

// tick is ZooKeeper's unit of time, and session the time-out of the workers:
// short, so that much can happen in a test.
const (
	tick    = 500 * time.Millisecond
	session = 3 * time.Second
)

// site is one cluster: an ensemble, a store folder and processes.
type site struct {
	t       *testing.T
	e       *zktest.Ensemble
	net     *zktest.Network    // nil: everybody is on loopback
	id      string             // of the cluster
	proxies map[string]proxies // between a process and the servers; none unless given
	dir     string
	spawn   *lab.Spawner
	procs   []*lab.Proc
	workers map[string]*lab.Proc
	fronts  []front
	killed  []string // workers that may not have written their last event
}

// front is a frontend.
type front struct {
	name string
	*client.Client
}

func newSite(t *testing.T, e *zktest.Ensemble, net *zktest.Network, id string) *site {
	t.Helper()
	s := &site{t: t, e: e, net: net, id: id, dir: lab.Dir(t), workers: map[string]*lab.Proc{}}
	s.spawn = lab.NewSpawner(t)
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

// start starts a program, on a host of its own if there is a network.
func (s *site) start(name, program string, args ...string) *lab.Proc {
	s.t.Helper()
	line := append([]string{filepath.Join(bin, program)}, args...)
	if s.net != nil {
		line = s.net.Host(name).Command(line...)
	}
	cmd := exec.Command(line[0], line[1:]...)
	servers := s.e.Servers()
	if p := s.proxies[name]; p != nil {
		servers = p.addrs()
	}
	cmd.Env = lab.Env(bin, s.dir, "DISTCI_COORD="+s.url(servers), "DISTCI_STORE=dir:"+s.path("store"),
		"DISTCI_HISTORY="+s.path(name+".history"))
	p := lab.Start(s.t, s.spawn, s.dir, name, cmd)
	s.procs = append(s.procs, p)
	return p
}

func (s *site) url(servers []string) string { return "zk://" + strings.Join(servers, ",") + "/" + s.id }

// worker starts a worker. A name is used once: it tells the histories apart.
func (s *site) worker(name string, args ...string) *lab.Proc {
	s.t.Helper()
	p := s.start(name, "distci-claim", append([]string{"--loop", "--name", name, "--state", s.path(name),
		"--session-timeout", session.String()}, args...)...)
	s.workers[name] = p
	return p
}

// frontend starts a frontend and waits until it serves. Its socket is a file,
// which can be reached from every network.
func (s *site) frontend(name string) {
	s.t.Helper()
	socket := "unix:" + s.path(name+".sock")
	s.start(name, "distci-frontend", "--listen", socket)
	c, err := client.New(socket, client.Options{})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	lab.Until(s.t, name+" serves", func() bool {
		_, err := c.Jobs(s.t.Context(), "", 1)
		return err == nil
	})
	s.fronts = append(s.fronts, front{name, c})
}

// open opens the cluster as one of its programs would, but from everywhere and
// without a part in its faults.
func (s *site) open() *cluster.Cluster {
	s.t.Helper()
	servers := s.e.Servers()
	if s.net != nil {
		for i, addr := range servers {
			servers[i] = s.net.Host(zktest.NodeHost(i + 1)).Forward(addr)
		}
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	c, err := cluster.Open(ctx, cluster.Options{Coord: s.url(servers), Store: "dir:" + s.path("store"), Session: session})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// setJob sets a job of scripts, one a step.
func (s *site) setJob(id string, scripts ...string) {
	s.t.Helper()
	var tasks []string
	for _, script := range scripts {
		tasks = append(tasks, fmt.Sprintf(`{"type":"execute-shell","params":{"script":%q}}`, script))
	}
	config := fmt.Sprintf(`{"job_id":%q,"tasks":[%s]}`, id, strings.Join(tasks, ","))
	if err := s.fronts[0].PutJob(s.t.Context(), id, []byte(config)); err != nil {
		s.t.Fatal(err)
	}
}
