// Package zktest starts real ZooKeeper ensembles for tests, and hurts them.
//
// An ensemble lives in a temporary folder and listens on loopback, or in
// network namespaces of its own. It ends with its test, and with the test's
// process, however that ends.
package zktest

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/distci/distci/test/lab"
	"github.com/distci/distci/test/need"
)

// script is what configures and becomes a server: the same that people use.
//
//go:embed ensemble.sh
var script []byte

const jar = "/usr/share/java/zookeeper.jar"

// Require skips a test where ZooKeeper is not installed; where DISTCI_REQUIRE
// names zk, the test fails instead.
func Require(t testing.TB) {
	t.Helper()
	_, err := os.Stat(jar)
	if err == nil {
		_, err = exec.LookPath("java")
	}
	if err != nil {
		need.Missing(t, "zk", "no ZooKeeper on this machine: "+err.Error())
	}
}

// Options say what ensemble to start.
type Options struct {
	Nodes    int           // 1 unless given
	TickTime time.Duration // ZooKeeper's unit of time; a session lasts at least two, and ends up to one late; 500ms unless given
	Heap     string        // a node's: 256m unless given
	JVM      string        // more flags; those for a short life unless given
	Config   string        // more lines for zoo.cfg
	NoFsync  bool          // answer before the data is on the disk
	TLS      bool          // a second client port, with TLS and client certificates; see Keys
	Hosts    []string      // the nodes' addresses; loopback unless given
	// On makes a command line run on a node's host; used with Hosts.
	On func(node int, args ...string) []string
}

// Ensemble is a running ZooKeeper. Nodes are numbered from 1.
type Ensemble struct {
	t       testing.TB
	dir     string
	o       Options
	env     []string
	spawn   *lab.Spawner
	nodes   []*node
	clients []string // the addresses for clients
	secure  []string
}

// node is one server's process, or what it was.
type node struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// Start starts an ensemble and waits until every node serves.
func Start(t testing.TB, o Options) *Ensemble {
	t.Helper()
	Require(t)
	if o.Nodes == 0 {
		o.Nodes = 1
	}
	if o.TickTime == 0 {
		o.TickTime = 500 * time.Millisecond
	}
	if o.Heap == "" {
		o.Heap = "256m"
	}
	if o.JVM == "" {
		o.JVM = "-XX:TieredStopAtLevel=1" // what the better compiler costs, a test does not earn back
	}
	dir, err := os.MkdirTemp("", "distci-zk-")
	if err != nil {
		t.Fatal(err)
	}
	e := &Ensemble{t: t, dir: dir, o: o, spawn: lab.NewSpawner(t), nodes: make([]*node, o.Nodes)}
	e.env = append(os.Environ(),
		"ZK_TICK="+strconv.FormatInt(o.TickTime.Milliseconds(), 10), "ZK_HEAP="+o.Heap,
		"ZK_JVM="+o.JVM, "ZK_CONFIG="+o.Config, "ZK_FSYNC="+yes(!o.NoFsync), "ZK_TLS="+yes(o.TLS), "ZK_HOSTS="+strings.Join(o.Hosts, ","))
	t.Cleanup(func() {
		if t.Failed() {
			e.logs()
		}
		e.Stop()
	})
	if err := os.WriteFile(e.path("ensemble.sh"), script, 0o600); err != nil {
		t.Fatal(err)
	}
	for try := 1; ; try++ {
		e.sh("config", dir, strconv.Itoa(o.Nodes))
		e.clients = strings.Split(e.sh("servers", dir), ",")
		if o.TLS {
			e.secure = strings.Split(e.sh("secure", dir), ",")
		}
		for i := range e.nodes {
			e.launch(i + 1)
		}
		err := e.serving()
		if err == nil {
			return e
		}
		if try == 5 || !errors.Is(err, errTaken) {
			t.Fatal(err)
		}
		e.killAll()
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func (e *Ensemble) path(name string) string { return filepath.Join(e.dir, name) }

func (e *Ensemble) file(node int, name string) string {
	return filepath.Join(e.dir, fmt.Sprintf("n%d", node), name)
}

// sh runs the script, and returns what it prints.
func (e *Ensemble) sh(args ...string) string {
	e.t.Helper()
	cmd := exec.Command("bash", append([]string{e.path("ensemble.sh")}, args...)...)
	cmd.Env = e.env
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		e.t.Fatalf("ensemble.sh %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out))
}

// launch starts a node's process.
func (e *Ensemble) launch(i int) {
	e.t.Helper()
	args := []string{"bash", e.path("ensemble.sh"), "run", e.dir, strconv.Itoa(i)}
	if e.o.On != nil {
		args = e.o.On(i, args...)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = e.env
	if err := e.spawn.Start(cmd); err != nil {
		e.t.Fatal(err)
	}
	n := &node{cmd: cmd, done: make(chan struct{})}
	go func() {
		n.cmd.Wait()
		close(n.done)
	}()
	e.nodes[i-1] = n
}

var errTaken = errors.New("zktest: a port was taken meanwhile")

// serving waits until every node that runs serves.
func (e *Ensemble) serving() error {
	for i := range e.nodes {
		if !e.Runs(i + 1) {
			continue
		}
		if err := e.Await(i + 1); err != nil {
			return err
		}
	}
	return nil
}

// Await waits until a node serves: it has a part in a quorum, and says so.
func (e *Ensemble) Await(node int) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if e.Mode(node) != "" && e.listens(node) {
			return nil
		}
		log, _ := os.ReadFile(e.file(node, "log"))
		if strings.Contains(string(log), "Address already in use") {
			return errTaken
		}
		if !e.Runs(node) {
			return fmt.Errorf("zktest: node %d has ended: %s", node, log)
		}
		if time.Now().After(end) {
			return fmt.Errorf("zktest: node %d does not serve: %s", node, log)
		}
	}
}

// listens tells whether a node has its second port, if it is to have one, which
// is opened after the first.
func (e *Ensemble) listens(node int) bool {
	if !e.o.TLS {
		return true
	}
	c, err := net.DialTimeout("tcp", e.secure[node-1], time.Second)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// Servers are the addresses for clients, host:port.
func (e *Ensemble) Servers() []string { return slices.Clone(e.clients) }

// Secure are the addresses for clients with TLS.
func (e *Ensemble) Secure() []string { return slices.Clone(e.secure) }

// Keys is the folder with the PEM files of an ensemble with TLS: ca.pem, whom
// to trust; client.pem and client.key, a client that the servers trust;
// intruder.pem and intruder.key, one that they do not.
func (e *Ensemble) Keys() string { return e.path("tls") }

// Runs tells whether a node's process exists, be it paused.
func (e *Ensemble) Runs(node int) bool {
	n := e.nodes[node-1]
	if n == nil {
		return false
	}
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// Kill ends nodes as a power cut would; several at once.
func (e *Ensemble) Kill(nodes ...int) {
	for _, i := range nodes {
		e.signal(i, syscall.SIGKILL)
	}
	for _, i := range nodes {
		if n := e.nodes[i-1]; n != nil {
			<-n.done
		}
	}
}

func (e *Ensemble) killAll() {
	for i := range e.nodes {
		e.Kill(i + 1)
	}
}

// StartNode starts nodes that were killed. It does not wait until they serve:
// that may need others. See Await.
func (e *Ensemble) StartNode(nodes ...int) {
	e.t.Helper()
	for _, i := range nodes {
		if e.Runs(i) {
			e.t.Fatalf("zktest: node %d runs", i)
		}
		e.launch(i)
	}
}

// Pause stops a node without its connections' ends learning of it.
func (e *Ensemble) Pause(node int) { e.signal(node, syscall.SIGSTOP) }

// Resume lets a paused node go on.
func (e *Ensemble) Resume(node int) { e.signal(node, syscall.SIGCONT) }

func (e *Ensemble) signal(node int, s syscall.Signal) {
	if e.Runs(node) {
		e.nodes[node-1].cmd.Process.Signal(s)
	}
}

// Stop ends all nodes and removes what they wrote; a test's end does it too.
func (e *Ensemble) Stop() {
	e.killAll()
	e.spawn.Stop()
	os.RemoveAll(e.dir)
}

// PID is a node's process.
func (e *Ensemble) PID(node int) int { return e.nodes[node-1].cmd.Process.Pid }

// Leader is the node that leads, the only node, or 0.
func (e *Ensemble) Leader() int {
	for i := range e.nodes {
		if m := e.Mode(i + 1); m == "leader" || m == "standalone" {
			return i + 1
		}
	}
	return 0
}

// Mode is what a node says that it is: leader, follower, standalone, or
// nothing if it does not serve.
func (e *Ensemble) Mode(node int) string {
	if !e.Runs(node) {
		return ""
	}
	for line := range strings.Lines(e.Ask(node, "srvr")) {
		if mode, ok := strings.CutPrefix(line, "Mode: "); ok {
			return strings.TrimSpace(mode)
		}
	}
	return ""
}

// Mntr is what a node tells of itself; empty if it does not serve.
func (e *Ensemble) Mntr(node int) map[string]string {
	m := make(map[string]string)
	for line := range strings.Lines(e.Ask(node, "mntr")) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "\t"); ok {
			m[name] = value
		}
	}
	return m
}

// Ask sends a four-letter word; a node that does not answer gives nothing.
func (e *Ensemble) Ask(node int, word string) string {
	if e.o.On != nil {
		// Asked from the node's own host: the answer says how the node is, not the network.
		cmd := e.o.On(node, "bash", e.path("ensemble.sh"), "ask", e.dir, strconv.Itoa(node), word)
		out, _ := exec.Command(cmd[0], cmd[1:]...).Output()
		return string(out)
	}
	c, err := net.DialTimeout("tcp", e.clients[node-1], time.Second)
	if err != nil {
		return ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := io.WriteString(c, word); err != nil {
		return ""
	}
	b, _ := io.ReadAll(c)
	return string(b)
}

// RSS is a node's resident memory in bytes.
func (e *Ensemble) RSS(node int) int64 {
	e.t.Helper()
	pages, err := strconv.ParseInt(e.proc(node, "statm")[1], 10, 64)
	if err != nil {
		e.t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// CPU is the processor time that a node has used since it started.
func (e *Ensemble) CPU(node int) time.Duration {
	e.t.Helper()
	// Field 14 and 15 of stat(5), in hundredths of a second; the program's
	// name, the second, has no space: java.
	f := e.proc(node, "stat")
	user, err1 := strconv.ParseInt(f[13], 10, 64)
	system, err2 := strconv.ParseInt(f[14], 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		e.t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

func (e *Ensemble) proc(node int, file string) []string {
	e.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", e.PID(node), file))
	if err != nil {
		e.t.Fatal(err)
	}
	return strings.Fields(string(b))
}

// logs shows what the nodes said, the end of it.
func (e *Ensemble) logs() {
	for i := range e.nodes {
		b, _ := os.ReadFile(e.file(i+1, "log"))
		if len(b) > 4000 {
			b = b[len(b)-4000:]
		}
		e.t.Logf("ZooKeeper node %d:\n%s", i+1, b)
	}
}
