package cephtest

import (
	"net/http"
	"os"
	"strings"
	"testing"
)

func TestGateway(t *testing.T) {
	c, g := StartGateway(t)
	r, err := http.Get(g.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		t.Errorf("the gateway answers %s", r.Status)
	}
	dir := c.dir
	c.Stop()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("%s is left: %v", dir, err)
	}
	if c.Runs("osd.0") || c.Runs("mon.a") || c.Runs(gatewayName) {
		t.Error("a daemon runs after Stop")
	}
}

// TestRestart: what was written is there after a power cut.
func TestRestart(t *testing.T) {
	c := Start(t, Options{})
	c.Kill()
	c.StartDaemon()
	if err := c.Await(); err != nil {
		t.Fatal(err)
	}
	if got := c.Ceph("osd", "pool", "ls"); !strings.Contains(got, Pool) {
		t.Errorf("the pools are %q", got)
	}
	if got := c.Leader(); got != "mon.a" {
		t.Errorf("the leader is %q", got)
	}
}
