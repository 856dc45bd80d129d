package lxc

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/sandbox/wire"
	"github.com/distci/distci/test/need"
)

// bridged is a place with a network of its own, in which there is a bridge.
type bridged struct {
	*place
	o Options
}

const (
	bridgeAddress = "192.0.2.1" // from the block reserved for documentation
	bridgeName    = "distci-br"
)

// newBridge makes one. The host there knows only a server of names at its own
// loopback.
func newBridge(t *testing.T) *bridged {
	t.Helper()
	newHost(t)
	need.Programs(t, "lxc", "ip")
	o, err := options()
	if err != nil {
		t.Fatal(err)
	}
	b := &bridged{place: newPlace(t, unix.CLONE_NEWNET), o: o}
	b.o.State = filepath.Join(b.dir, "state")
	b.sys()
	for _, args := range []string{
		"link set lo up", "link add " + bridgeName + " type bridge", "addr add " + bridgeAddress + "/24 dev " + bridgeName, "link set " + bridgeName + " up",
	} {
		if _, errs, status := b.run(exec.Command("ip", strings.Fields(args)...)); status != 0 {
			t.Skipf("no bridge: ip %s: %s", args, errs)
		}
	}
	b.etc(map[string]string{"resolv.conf": "search example.org\nnameserver 127.0.0.53\n"})
	return b
}

// sys mounts the /sys of the new network, in which LXC looks for the bridge,
// with the control groups of the old.
func (b *bridged) sys() {
	dir := filepath.Join(b.dir, "sys")
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	b.do(func() error {
		if err := unix.Mount("sysfs", dir, "sysfs", 0, ""); err != nil {
			return err
		}
		if err := unix.Mount("/sys/fs/cgroup", dir+"/fs/cgroup", "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
		return unix.Mount(dir, "/sys", "", unix.MS_MOVE, "")
	})
}

// lxc is distci-lxc with a network and a script.
func (b *bridged) lxc(network, script string, args ...string) *exec.Cmd {
	return exec.Command(b.o.Program, append([]string{"--init", b.o.Init, "--state", b.o.State, "--rootfs", b.o.Root, "--network", network,
		"--", "sh", "-c", script, "sh"}, args...)...)
}

// listen listens at the bridge's address there.
func (b *bridged) listen() (l *net.TCPListener) {
	b.t.Helper()
	b.do(func() (err error) {
		l, err = net.ListenTCP("tcp", &net.TCPAddr{IP: net.ParseIP(bridgeAddress)})
		if err == nil {
			err = l.SetDeadline(time.Now().Add(20 * time.Second)) // so that a test that fails ends
		}
		return err
	})
	b.t.Cleanup(func() { l.Close() })
	return l
}

// interfaces are the names of those that are there.
func (b *bridged) interfaces() (names []string) {
	b.do(func() error {
		all, err := net.Interfaces()
		for _, i := range all {
			names = append(names, i.Name)
		}
		return err
	})
	return names
}

// gone waits until there is nothing of containers.
func (b *bridged) gone() {
	b.t.Helper()
	eventually(b.t, "the containers' interfaces and folders are gone", func() string {
		left, _ := filepath.Glob(filepath.Join(b.o.State, "*"))
		for _, name := range b.interfaces() {
			if strings.HasPrefix(name, "veth") {
				left = append(left, name)
			}
		}
		return strings.Join(left, " ")
	})
}

// TestBridge has two containers at a bridge at the same time. Their addresses
// are counted from the network's end by their numbers, which they have on this
// machine, where others may run.
func TestBridge(t *testing.T) {
	b := newBridge(t)
	l := b.listen()
	const containers = 2
	var pipes []io.WriteCloser
	var running []*exec.Cmd
	stats := func(i int) string { return filepath.Join(b.dir, fmt.Sprintf("stats%d", i)) }
	for i := range containers {
		cmd := b.lxc("bridge:"+bridgeName, `probe connect tcp "$1" && read -r go`, l.Addr().String())
		cmd.Args = slices.Insert(cmd.Args, 1, "--stats", stats(i))
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		b.start(cmd)
		pipes, running = append(pipes, in), append(running, cmd)
	}
	callers := map[string]bool{}
	for range containers {
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		callers[c.RemoteAddr().(*net.TCPAddr).IP.String()] = true
		c.Close()
	}
	if len(callers) != containers || callers[bridgeAddress] {
		t.Errorf("the containers' addresses: %v", callers)
	}
	if n := strings.Count(strings.Join(b.interfaces(), " "), "veth"); n != containers {
		t.Errorf("interfaces: %v", b.interfaces())
	}
	for i, cmd := range running {
		io.WriteString(pipes[i], "go\n")
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
		var s wire.Stats
		said, err := os.ReadFile(stats(i))
		if err == nil {
			err = json.Unmarshal(said, &s)
		}
		var number int
		if err == nil {
			_, err = fmt.Sscanf(s.Container, "distci.0.%d", &number)
		}
		if want := fmt.Sprintf("192.0.2.%d", 254-number); err != nil || !callers[want] {
			t.Errorf("%v: the address of %q is not %s: %v", err, s.Container, want, callers)
		}
	}
	b.gone()
}

// TestBridgeInside looks at the network from inside.
func TestBridgeInside(t *testing.T) {
	b := newBridge(t)
	out, errs, status := b.run(b.lxc("bridge:"+bridgeName, "cat /proc/net/route; ls /sys/class/net; cat /etc/resolv.conf"))
	if status != 0 {
		t.Fatal(errs)
	}
	t.Run("Gateway", func(t *testing.T) { // in the kernel's own notation
		if !strings.Contains(strings.Join(strings.Fields(out), " "), "eth0 00000000 010200C0 ") {
			t.Errorf("routes: %s", out)
		}
	})
	t.Run("Interfaces", func(t *testing.T) {
		if !strings.Contains(out, "eth0\nlo\n") {
			t.Error(out)
		}
	})
	t.Run("Resolver", func(t *testing.T) { // the host's is at the host's loopback
		if !strings.HasSuffix(out, "search example.org\nnameserver "+bridgeAddress) {
			t.Errorf("resolv.conf: %s", out)
		}
	})
	t.Run("ResolverOfHost", func(t *testing.T) { // with the host's network its loopback is there, too
		if out, errs, _ := b.run(b.lxc("host", "cat /etc/resolv.conf")); out != "search example.org\nnameserver 127.0.0.53" {
			t.Errorf("%s%s", out, errs)
		}
	})
	t.Run("NoResolverWithoutNetwork", func(t *testing.T) {
		if out, errs, status := b.run(b.lxc("none", "cat /etc/resolv.conf")); status == 0 {
			t.Errorf("%s%s", out, errs)
		}
	})
	t.Run("OnlyRootOfTheHostConfigures", func(t *testing.T) {
		if out, errs, _ := b.run(b.lxc("bridge:"+bridgeName, "probe socket raw; probe socket packet")); out != "EPERM\nEAFNOSUPPORT" {
			t.Errorf("%s%s", out, errs)
		}
	})
	t.Run("NoBridge", func(t *testing.T) {
		if _, errs, status := b.run(b.lxc("bridge:none0", "true")); status != 78 || !strings.Contains(errs, "there is no bridge none0 here") {
			t.Errorf("status %d: %s", status, errs)
		}
	})
	t.Run("NotABridge", func(t *testing.T) {
		if _, errs, status := b.run(b.lxc("bridge:lo", "true")); status != 78 || !strings.Contains(errs, "lo is no bridge") {
			t.Errorf("status %d: %s", status, errs)
		}
	})
	b.gone()
}

// TestBridgeImageResolver has an image whose resolv.conf leads to nowhere, as
// those of systems with systemd-resolved do, and a mount that takes its place.
func TestBridgeImageResolver(t *testing.T) {
	b := newBridge(t)
	root := filepath.Join(b.dir, "root")
	if out, err := exec.Command("cp", "-a", b.o.Root, root).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	if err := unix.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(root, "etc", "resolv.conf")); err != nil {
		t.Fatal(err)
	}
	b.o.Root = root
	for _, flags := range [][]string{nil, {"--read-only"}} {
		cmd := b.lxc("bridge:"+bridgeName, "cat /etc/resolv.conf; ls -ln /etc/resolv.conf")
		cmd.Args = append(append([]string{cmd.Args[0]}, flags...), cmd.Args[1:]...)
		out, errs, status := b.run(cmd)
		if status != 0 || !strings.HasPrefix(out, "search example.org\nnameserver "+bridgeAddress+"\n-rw-r--r-- 1 0 0 ") {
			t.Errorf("%v: status %d: %s%s", flags, status, out, errs)
		}
	}
}

// TestBridgeKilled kills the worker, the engine and the monitor of containers
// at a bridge.
func TestBridgeKilled(t *testing.T) {
	b := newBridge(t)
	l := b.listen()
	for i, victim := range []string{"Worker", "Engine", "Monitor", "Engine"} {
		word := fmt.Sprintf("%d.%d", 600_000, i)
		cmd := b.lxc("bridge:"+bridgeName, `probe connect tcp "$1"; sleep "$2"`, l.Addr().String(), word)
		cmd.Stderr = os.Stderr
		b.start(cmd)
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		pid := cmd.Process.Pid
		if victim != "Worker" {
			pid = child(pid, func(c string) bool { return strings.HasSuffix(c, "engine\x00") })
		}
		if victim == "Monitor" {
			pid = monitorOf(pid)
		}
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatalf("%s: %v", victim, err)
		}
		_ = cmd.Wait()
		b.gone()
		if left := processes(word); len(left) > 0 {
			t.Errorf("%s: left: %q", victim, left)
		}
	}
}
