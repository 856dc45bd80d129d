package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
	cephtest "github.com/distci/distci/test/ceph"
	testlab "github.com/distci/distci/test/lab"
	s3test "github.com/distci/distci/test/s3"
	zktest "github.com/distci/distci/test/zk"
)

// TestBuildsOnCeph: builds go on by themselves while Ceph is hurt.
func TestBuildsOnCeph(t *testing.T) {
	needCeph(t)
	ceph := cephtest.Start(t, cephtest.Options{})
	zk := zktest.Start(t, zktest.Options{})
	testBuilds(t, newCluster(t, "zk://"+strings.Join(zk.Servers(), ",")+"/builds", ceph.Address("builds", "timeout", "3s")), cephFaults(t, ceph))
}

// TestBuildsOnCephS3 is the same through Ceph's gateway.
func TestBuildsOnCephS3(t *testing.T) {
	server := s3test.Ceph(t)
	testBuilds(t, newCluster(t, "", server.Fresh("&timeout=3s")), cephFaults(t, server.Cluster)[1:])
}

// outage is a time without a store: it begins, and ends.
type outage struct {
	name       string
	begin, end func()
}

func cephFaults(t *testing.T, c *cephtest.Cluster) []outage {
	await := func() {
		if err := c.Await(); err != nil {
			t.Error(err)
		}
	}
	return []outage{
		{"an OSD killed", func() { c.Kill("osd.0") }, func() { c.StartDaemon("osd.0"); await() }},
		{"an OSD frozen", func() { c.Pause("osd.0") }, func() { c.Resume("osd.0"); await() }},
		{"a power cut of the cluster", func() { c.Kill() }, func() { c.StartDaemon(); await() }},
	}
}

// frontend starts a frontend and returns a client of it.
func (c *cluster) frontend() *client.Client {
	c.t.Helper()
	port := c.path("port")
	c.start("distci-frontend", "--listen", "127.0.0.1:0", "--port-file", port)
	var api *client.Client
	testlab.Until(c.t, "the frontend listens", func() bool {
		b, err := os.ReadFile(port)
		if err == nil {
			api, err = client.New("http://127.0.0.1:"+strings.TrimSpace(string(b)), client.Options{})
		}
		return err == nil
	})
	return api
}

// testBuilds runs builds that check out, execute, publish and copy, while each
// outage begins and ends: all of them succeed, with the right artefacts.
func testBuilds(t *testing.T, c *cluster, outages []outage) {
	c.job(maker(repository(t)))
	c.job(taker)
	api := c.frontend()
	for i := range 2 {
		c.worker(fmt.Sprint("w", i))
	}
	begin := func(job string) ticket.Number {
		var n ticket.Number
		testlab.Until(t, "a build of "+job+" is begun", func() (ok bool) {
			var err error
			n, err = api.Trigger(t.Context(), job)
			return err == nil
		})
		return n
	}
	// ended waits for a build; who asks meanwhile may be told to come again.
	ended := func(job string, n ticket.Number) {
		t.Helper()
		var s *build.State
		testlab.Until(t, fmt.Sprintf("%s #%d is finished", job, n), func() bool {
			now, err := api.Build(t.Context(), job, n)
			if err == nil {
				s = now
			}
			return s != nil && s.Status == build.Complete
		})
		if s.Result != ticket.Success {
			t.Errorf("%s #%d: %s: %+v", job, n, s.Result, s.Error)
		}
	}
	ended("maker", begin("maker"))
	last := ticket.Number(1)
	for _, o := range outages {
		makers := []ticket.Number{begin("maker"), begin("maker")}
		takers := []ticket.Number{begin("taker")}
		testlab.Until(t, "a build is at work", func() bool {
			s, err := api.Build(t.Context(), "maker", makers[0])
			return err == nil && s.Status != build.Preparing
		})
		o.begin()
		if out, status := c.try("list"); status != 75 {
			t.Errorf("%s: list has status %d: %s", o.name, status, out)
		}
		o.end()
		for _, n := range makers {
			ended("maker", n)
		}
		ended("taker", takers[0])
		last = makers[1]
		t.Log(o.name)
	}
	for n := range last {
		dir := c.path(fmt.Sprint("download", n+1))
		c.run("download", "maker", fmt.Sprint(n+1), "--output", dir)
		b, err := os.ReadFile(filepath.Join(dir, "out/lines"))
		if want := fmt.Sprintf("build %d line 20000\n", n+1); err != nil || !strings.HasSuffix(string(b), want) || strings.Count(string(b), "\n") != 20000 {
			t.Errorf("the artefact of build %d: %d bytes, %v", n+1, len(b), err)
		}
	}
	c.fsck()
}
