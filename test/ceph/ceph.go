// Package cephtest starts real Ceph clusters for tests, and hurts them.
//
// A cluster lives in a temporary folder and listens on loopback. It needs no
// root and no systemd. It ends with its test, and with the test's process,
// however that ends.
package cephtest

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/distci/distci/test/lab"
	"github.com/distci/distci/test/need"
)

//go:embed cluster.sh
var script []byte

// programs are what a cluster is made of.
var programs = []string{"ceph-mon", "ceph-osd", "ceph", "rados", "ceph-authtool", "monmaptool"}

// Require skips a test where Ceph's servers are not installed; where
// DISTCI_REQUIRE names ceph, the test fails instead.
func Require(t testing.TB) {
	t.Helper()
	need.Programs(t, "ceph", programs...)
}

// Pool is the name of the pool that a cluster has.
const Pool = "distci"

// Options say what cluster to start.
type Options struct {
	OSDs int // 1 unless given; with 3, a pool has 3 copies and works with 2
	Mons int // 1 unless given
}

// Cluster is a running Ceph. Its daemons are named as Ceph does: "mon.a",
// "osd.0".
type Cluster struct {
	t     testing.TB
	dir   string
	o     Options
	spawn *lab.Spawner

	mu      sync.Mutex
	daemons map[string]*daemon
}

// daemon is a process, or what it was.
type daemon struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Start starts a cluster with a pool, and waits until that can be written to.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	Require(t)
	o.OSDs, o.Mons = max(o.OSDs, 1), max(o.Mons, 1)
	// A short name: the path of a unix socket has 107 bytes.
	dir, err := os.MkdirTemp("/tmp", "distci-ceph-")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{t: t, dir: dir, o: o, spawn: lab.NewSpawner(t), daemons: map[string]*daemon{}}
	t.Cleanup(func() {
		if t.Failed() {
			c.logs()
		}
		c.Stop()
	})
	for try := 1; ; try++ {
		err := c.create()
		if err == nil {
			return c
		}
		if try == 3 || !c.portTaken() {
			t.Fatal(err)
		}
		c.Kill(c.names()...)
		os.RemoveAll(dir)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// portTaken tells whether a daemon could not listen, as another process was
// faster.
func (c *Cluster) portTaken() bool {
	logs, _ := filepath.Glob(c.path("log/*.log"))
	return slices.ContainsFunc(logs, func(name string) bool {
		b, _ := os.ReadFile(name)
		return strings.Contains(string(b), "Address already in use")
	})
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// create makes the cluster's folder and starts its daemons.
func (c *Cluster) create() error {
	if err := os.WriteFile(c.path("cluster.sh"), script, 0o600); err != nil {
		return err
	}
	if err := c.script("config", strconv.Itoa(c.o.OSDs), strconv.Itoa(c.o.Mons)); err != nil {
		return err
	}
	for _, name := range c.names() {
		c.launch(name)
	}
	return c.script("pool")
}

// script runs a verb of cluster.sh.
func (c *Cluster) script(verb string, args ...string) error {
	cmd := exec.Command("bash", append([]string{c.path("cluster.sh"), verb, c.dir}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cephtest: %s: %w: %s", verb, err, out)
	}
	return nil
}

// mons are the ids of the monitors.
func (c *Cluster) mons() (ids []string) {
	for i := range c.o.Mons {
		ids = append(ids, string(rune('a'+i)))
	}
	return ids
}

// names are those of all daemons, monitors first.
func (c *Cluster) names() (names []string) {
	for _, id := range c.mons() {
		names = append(names, "mon."+id)
	}
	for i := range c.o.OSDs {
		names = append(names, fmt.Sprintf("osd.%d", i))
	}
	return names
}

func (c *Cluster) env() []string { return append(os.Environ(), "CEPH_ARGS=", "CEPH_CONF="+c.Conf()) }

// Ceph runs the administrator's command, and returns what it prints.
func (c *Cluster) Ceph(args ...string) string {
	c.t.Helper()
	out, err := c.ceph(time.Minute, args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// Rados runs Ceph's command for objects, and returns what it prints.
func (c *Cluster) Rados(args ...string) (string, error) {
	return c.command(10*time.Minute, "rados", args...)
}

func (c *Cluster) ceph(limit time.Duration, args ...string) (string, error) {
	return c.command(limit, "ceph", args...)
}

func (c *Cluster) command(limit time.Duration, program string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	cmd := exec.CommandContext(ctx, program, append([]string{"-c", c.Conf()}, args...)...)
	cmd.Env = c.env()
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		err = fmt.Errorf("cephtest: %s %s: %w", program, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), err
}

// launch starts a daemon.
func (c *Cluster) launch(name string) {
	c.t.Helper()
	cmd := exec.Command("bash", c.path("cluster.sh"), "run", c.dir, name) // it becomes the daemon
	if name == gatewayName {
		cmd = exec.Command("radosgw", "-f", "-c", c.Conf(), "-n", name)
	}
	cmd.Env = c.env()
	out, err := os.OpenFile(c.path("log/"+name+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := c.spawn.Start(cmd); err != nil {
		c.t.Fatal(err)
	}
	d := &daemon{cmd: cmd, done: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(d.done)
	}()
	c.mu.Lock()
	c.daemons[name] = d
	c.mu.Unlock()
}

// Conf is the configuration file.
func (c *Cluster) Conf() string { return c.path("ceph.conf") }

// Keyring is the file with a client's key. There are "admin", and "distci",
// which may use the pool and nothing else.
func (c *Cluster) Keyring(id string) string { return c.path("client." + id + ".keyring") }

// AddKey makes a key for a client with the given permissions, pairs of a
// service and what is allowed there.
func (c *Cluster) AddKey(id string, permissions ...string) {
	c.t.Helper()
	c.Ceph(append([]string{"auth", "get-or-create", "client." + id, "-o", c.Keyring(id)}, permissions...)...)
}

// Address is that of a store in the cluster's pool, for the client distci.
// More are keys and values.
func (c *Cluster) Address(namespace string, more ...string) string {
	values := url.Values{"conf": {c.Conf()}, "id": {"distci"}, "keyring": {c.Keyring("distci")}, "namespace": {namespace}}
	for kv := range slices.Chunk(more, 2) {
		values.Set(kv[0], kv[1])
	}
	return "ceph://" + Pool + "?" + values.Encode()
}

// Await waits until the pool can be written to.
func (c *Cluster) Await() error {
	probe := c.path("run/probe")
	if err := os.WriteFile(probe, []byte("x"), 0o600); err != nil {
		return err
	}
	_, err := c.command(2*time.Minute, "rados", "-p", Pool, "-N", "probe", "put", "probe", probe)
	return err
}

// Leader is the monitor that leads, as "mon.a".
func (c *Cluster) Leader() string {
	c.t.Helper()
	var status struct {
		Leader string `json:"quorum_leader_name"`
	}
	if err := json.Unmarshal([]byte(c.Ceph("quorum_status", "-f", "json")), &status); err != nil {
		c.t.Fatal(err)
	}
	return "mon." + status.Leader
}

func (c *Cluster) daemon(name string) *daemon {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.daemons[name]
}

// Runs tells whether a daemon's process exists, be it paused.
func (c *Cluster) Runs(name string) bool {
	d := c.daemon(name)
	if d == nil {
		return false
	}
	select {
	case <-d.done:
		return false
	default:
		return true
	}
}

// PID is a daemon's process.
func (c *Cluster) PID(name string) int { return c.daemon(name).cmd.Process.Pid }

// Kill ends daemons as a power cut would, several at once; without names all.
func (c *Cluster) Kill(names ...string) {
	if len(names) == 0 {
		names = c.names()
	}
	for _, n := range names {
		c.signal(n, syscall.SIGKILL)
	}
	for _, n := range names {
		if d := c.daemon(n); d != nil {
			<-d.done
		}
	}
}

// StartDaemon starts daemons that were killed; without names all. It does not
// wait until they serve; see Await.
func (c *Cluster) StartDaemon(names ...string) {
	c.t.Helper()
	if len(names) == 0 {
		names = c.names()
	}
	for _, n := range names {
		if c.Runs(n) {
			c.t.Fatalf("cephtest: %s runs", n)
		}
		c.launch(n)
	}
}

// Pause stops a daemon without its connections' ends learning of it.
func (c *Cluster) Pause(name string) { c.signal(name, syscall.SIGSTOP) }

// Resume lets a paused daemon go on. Nobody has missed an OSD that is alone,
// and Ceph 16 leaves what it was asked while its lease was over waiting for a
// replica's answer, for ever (https://tracker.ceph.com/issues/61650): so the
// monitors tell it what its peers would have told them, that it was away.
func (c *Cluster) Resume(name string) {
	c.t.Helper()
	c.signal(name, syscall.SIGCONT)
	if c.o.OSDs == 1 && strings.HasPrefix(name, "osd.") {
		c.Ceph("osd", "down", name)
	}
}

func (c *Cluster) signal(name string, s syscall.Signal) {
	if c.Runs(name) {
		c.daemon(name).cmd.Process.Signal(s)
	}
}

// Stop ends all daemons and removes what they wrote; a test's end does it too.
func (c *Cluster) Stop() {
	c.mu.Lock()
	var names []string
	for n := range c.daemons {
		names = append(names, n)
	}
	c.mu.Unlock()
	if len(names) > 0 {
		c.Kill(names...)
	}
	c.spawn.Stop()
	os.RemoveAll(c.dir)
}

// logs shows what the daemons said, the end of it.
func (c *Cluster) logs() {
	logs, _ := filepath.Glob(c.path("log/*"))
	for _, name := range logs {
		b, _ := os.ReadFile(name)
		if len(b) > 1500 {
			b = b[len(b)-1500:]
		}
		if len(b) > 0 && !strings.HasSuffix(name, "cluster.log") {
			c.t.Logf("%s:\n%s", filepath.Base(name), b)
		}
	}
}

// freePort returns a port of loopback on which nobody listens, below those
// that the system gives to outgoing connections.
func freePort() int {
	for {
		port := 15000 + mathrand.IntN(17000)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			l.Close()
			return port
		}
	}
}
