package zktest

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/test/need"
)

// Network is a set of hosts: network namespaces, each with an address, joined
// by a bridge in a namespace of its own. Nothing of it is in the machine's
// own network, and nothing leads out of it. Packets between hosts can be
// dropped, in each direction.
type Network struct {
	t      testing.TB
	prefix string // of the namespaces' names: distci-<pid>-<number>-

	mu    sync.Mutex
	hosts map[string]*Host
}

// Host is one network namespace.
type Host struct {
	Name string
	Addr string // its IPv4 address, from the block reserved for documentation
	n    *Network
}

// networks numbers the networks of this process: their names are the
// machine's.
var networks atomic.Int64

const namespaces = "/run/netns"

// NewNetwork makes a network, which goes with the test. The test is skipped
// where that is not permitted or possible, or fails if DISTCI_REQUIRE names
// zk.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	if os.Getuid() != 0 {
		need.Missing(t, "zk", "only root can make network namespaces")
	}
	need.Programs(t, "zk", "ip", "nft")
	sweepNetworks()
	n := &Network{t: t, prefix: fmt.Sprintf("distci-%d-%d-", os.Getpid(), networks.Add(1)), hosts: map[string]*Host{}}
	t.Cleanup(n.Close)
	if out, err := exec.Command("ip", "netns", "add", n.name("hub")).CombinedOutput(); err != nil {
		need.Missing(t, "zk", fmt.Sprintf("no network namespaces: %v: %s", err, out))
	}
	n.ip("-n", n.name("hub"), "link", "add", "bridge", "type", "bridge")
	n.ip("-n", n.name("hub"), "link", "set", "bridge", "up")
	return n
}

// sweepNetworks removes the networks of processes that are gone: one that was
// killed could not.
func sweepNetworks() {
	names, _ := filepath.Glob(namespaces + "/distci-*-*")
	for _, name := range names {
		name = filepath.Base(name)
		pid, err := strconv.Atoi(strings.Split(name, "-")[1])
		if err == nil && unix.Kill(pid, 0) == unix.ESRCH {
			exec.Command("ip", "netns", "del", name).Run() // or another test does it
		}
	}
}

func (n *Network) name(host string) string { return n.prefix + host }

func (n *Network) ip(args ...string) { n.run(append([]string{"ip"}, args...)...) }

func (n *Network) run(args ...string) {
	n.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Host returns the host of that name, of at most 8 letters and digits, and
// makes it if there is none.
func (n *Network) Host(name string) *Host {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.hosts[name]; h != nil {
		return h
	}
	h := &Host{Name: name, Addr: fmt.Sprintf("192.0.2.%d", len(n.hosts)+1), n: n}
	ns, hub := n.name(name), n.name("hub")
	n.ip("netns", "add", ns)
	n.ip("-n", hub, "link", "add", "to-"+name, "type", "veth", "peer", "name", "net", "netns", ns)
	n.ip("-n", hub, "link", "set", "to-"+name, "master", "bridge", "up")
	n.ip("-n", ns, "addr", "add", h.Addr+"/24", "dev", "net")
	n.ip("-n", ns, "link", "set", "net", "up")
	n.ip("-n", ns, "link", "set", "lo", "up")
	n.run(h.Command("nft", "add table inet lost; add set inet lost from { type ipv4_addr; };"+
		"add chain inet lost in { type filter hook input priority 0; }; add rule inet lost in ip saddr @from drop")...)
	n.hosts[name] = h
	return h
}

// NodeHost is the name of the host of an ensemble's node.
func NodeHost(node int) string { return fmt.Sprintf("n%d", node) }

// Node is the way back from NodeHost.
func Node(host string) int {
	node, _ := strconv.Atoi(strings.TrimPrefix(host, "n"))
	return node
}

// StartOn starts an ensemble with a host of a network for each node; see
// NodeHost.
func StartOn(t testing.TB, n *Network, o Options) *Ensemble {
	t.Helper()
	for i := range max(o.Nodes, 1) {
		o.Hosts = append(o.Hosts, n.Host(NodeHost(i+1)).Addr)
	}
	o.On = func(node int, args ...string) []string { return n.Host(NodeHost(node)).Command(args...) }
	return Start(t, o)
}

// Command is a command line that runs another on the host. The process it
// starts becomes that other one.
func (h *Host) Command(args ...string) []string {
	return append([]string{"ip", "netns", "exec", h.n.name(h.Name)}, args...)
}

// Do runs f in the host's network, for making sockets; they stay there. f must
// not hand that to other goroutines.
func (h *Host) Do(f func() error) error {
	result := make(chan error)
	go func() {
		// Never unlocked: the thread, which is now elsewhere, ends with the goroutine.
		runtime.LockOSThread()
		result <- func() error {
			ns, err := os.Open(filepath.Join(namespaces, h.n.name(h.Name)))
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("zktest: host %s: %w", h.Name, err)
			}
			return f()
		}()
	}()
	return <-result
}

// Dial connects from the host.
func (h *Host) Dial(addr string) (c net.Conn, err error) {
	err = h.Do(func() error {
		c, err = net.DialTimeout("tcp", addr, 5*time.Second)
		return err
	})
	return c, err
}

// Forward listens on the machine's own loopback and passes connections on to
// an address, from the host. It ends with the test.
func (h *Host) Forward(addr string) string {
	h.n.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.n.t.Fatal(err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { h.forward(c, addr, done) })
		}
	})
	h.n.t.Cleanup(func() {
		l.Close()
		close(done)
		wg.Wait()
	})
	return l.Addr().String()
}

// forward passes one connection on, until one end closes it or done is closed.
func (h *Host) forward(near net.Conn, addr string, done <-chan struct{}) {
	defer near.Close()
	far, err := h.Dial(addr)
	if err != nil {
		return
	}
	defer far.Close()
	ended := make(chan struct{}, 2)
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		wg.Go(func() {
			io.Copy(way[0], way[1])
			ended <- struct{}{}
		})
	}
	select {
	case <-ended:
	case <-done:
	}
	near.Close()
	far.Close()
	wg.Wait()
}

// Drop loses the packets from one set of hosts to another; not the answers.
func (n *Network) Drop(from, to []string) {
	n.t.Helper()
	var addrs []string
	for _, name := range from {
		addrs = append(addrs, n.Host(name).Addr)
	}
	for _, name := range to {
		n.run(n.Host(name).Command("nft", "add element inet lost from { "+strings.Join(addrs, ", ")+" }")...)
	}
}

// Split loses all packets between two sets of hosts.
func (n *Network) Split(a, b []string) {
	n.t.Helper()
	n.Drop(a, b)
	n.Drop(b, a)
}

// Heal loses no packets any more.
func (n *Network) Heal() {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, h := range n.hosts {
		n.run(h.Command("nft", "flush set inet lost from")...)
	}
}

// Close removes the network. What still runs in it has no connections left.
func (n *Network) Close() {
	names, _ := filepath.Glob(filepath.Join(namespaces, n.prefix+"*"))
	for _, name := range names {
		if out, err := exec.Command("ip", "netns", "del", filepath.Base(name)).CombinedOutput(); err != nil {
			n.t.Errorf("zktest: %v: %s", err, out)
		}
	}
}
