package zktest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/distci/distci/test/lab"
)

func connect(t *testing.T, servers ...string) *zk.Conn {
	t.Helper()
	c, _, err := zk.Connect(servers, 4*time.Second, zk.WithLogInfo(false), zk.WithLogger(silent{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

type silent struct{}

func (silent) Printf(string, ...any) {}

func TestEnsemble(t *testing.T) {
	e := Start(t, Options{Nodes: 3})
	c := connect(t, e.Servers()...)
	create := func(path string) {
		t.Helper()
		lab.Until(t, "a write", func() bool {
			_, err := c.Create(path, nil, 0, zk.WorldACL(zk.PermAll))
			return err == nil || errors.Is(err, zk.ErrNodeExists)
		})
	}
	create("/a")
	was := e.Leader()
	e.Kill(was)
	create("/b")
	leader := e.Leader()
	if leader == 0 || leader == was {
		t.Errorf("leader %d after %d was killed", leader, was)
	}
	e.StartNode(was)
	if err := e.Await(was); err != nil {
		t.Fatal(err)
	}
	if m := e.Mntr(was); m["zk_znode_count"] != "7" {
		t.Errorf("the node that came back has %s nodes, want 7", m["zk_znode_count"])
	}
	e.Pause(was)
	e.Resume(was)
	if rss := e.RSS(was); rss < 16<<20 || rss > 1<<30 {
		t.Errorf("resident %d bytes", rss)
	}
	if cpu := e.CPU(was); cpu < 50*time.Millisecond || cpu > time.Minute {
		t.Errorf("used %v", cpu)
	}
	e.Kill(1, 2, 3)
	e.StartNode(1, 2, 3)
	for i := range 3 {
		if err := e.Await(i + 1); err != nil {
			t.Fatal(err)
		}
	}
	create("/c")
}

// TestTLS: who has no certificate that the servers trust does not get in.
func TestTLS(t *testing.T) {
	e := Start(t, Options{TLS: true, NoFsync: true})
	trusted := x509.NewCertPool()
	ca, err := os.ReadFile(e.Keys() + "/ca.pem")
	if err != nil || !trusted.AppendCertsFromPEM(ca) {
		t.Fatal(err)
	}
	for _, who := range []string{"client", "intruder", ""} {
		config := &tls.Config{RootCAs: trusted}
		if who != "" {
			pair, err := tls.LoadX509KeyPair(e.Keys()+"/"+who+".pem", e.Keys()+"/"+who+".key")
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{pair}
		}
		// The handshake of ZooKeeper is the first that a refused client notices.
		dialed := make(chan error, 1)
		dial := func(network, addr string, _ time.Duration) (net.Conn, error) {
			c, err := tls.DialWithDialer(&net.Dialer{Timeout: time.Minute}, network, addr, config) // the library's second is short on a busy machine
			if err != nil {
				select {
				case dialed <- err:
				default: // a later try
				}
				return nil, err
			}
			return &firstRead{Conn: c, result: dialed}, nil
		}
		c, _, err := zk.Connect(e.Secure(), 4*time.Second, zk.WithLogInfo(false), zk.WithLogger(silent{}), zk.WithDialer(dial))
		if err != nil {
			t.Fatal(err)
		}
		err = <-dialed
		c.Close()
		if (err == nil) != (who == "client") {
			t.Errorf("%q: %v", who, err)
		}
	}
}

// firstRead reports how the first read of a connection ended.
type firstRead struct {
	net.Conn
	result chan<- error
	once   sync.Once
}

func (c *firstRead) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.once.Do(func() {
		select {
		case c.result <- err:
		default: // a later try
		}
	})
	return n, err
}

// TestOrphans kills a process that runs an ensemble: nothing of it remains.
func TestOrphans(t *testing.T) {
	Require(t)
	if os.Getenv("ZKTEST_ORPHANS") != "" {
		e := Start(t, Options{Nodes: 3})
		fmt.Printf("\npids %d %d %d %s\n", e.PID(1), e.PID(2), e.PID(3), e.dir)
		time.Sleep(time.Minute)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestOrphans$")
	cmd.Env = append(os.Environ(), "ZKTEST_ORPHANS=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	var dir string
	var pids [3]int
	for b := make([]byte, 512); dir == ""; {
		n, err := out.Read(b)
		if err != nil {
			t.Fatal(err, text.String())
		}
		text.Write(b[:n])
		if _, line, ok := strings.Cut(text.String(), "\npids "); ok && strings.Contains(line, "\n") {
			fmt.Sscan(line, &pids[0], &pids[1], &pids[2], &dir)
		}
	}
	defer os.RemoveAll(dir)
	for _, p := range pids {
		if !java(p) {
			t.Errorf("process %d is no server", p)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	for _, p := range pids {
		lab.Until(t, "the server ends", func() bool { return !java(p) })
	}
}

func java(pid int) bool {
	b, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	return strings.HasPrefix(string(b), "java")
}

// TestScript uses the script as people do.
func TestScript(t *testing.T) {
	Require(t)
	dir := t.TempDir() + "/a folder"
	sh := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("bash", append([]string{"ensemble.sh", args[0], dir}, args[1:]...)...)
		cmd.Env = append(os.Environ(), "ZK_TICK=300")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	defer sh("down")
	if out := sh("up", "3"); out != "" {
		t.Errorf("up says %q", out)
	}
	if n := len(strings.Split(sh("servers"), ",")); n != 3 {
		t.Errorf("%d servers", n)
	}
	leader := sh("leader")
	sh("pause", leader)
	sh("resume", leader)
	sh("kill", leader)
	lab.Until(t, "another leads", func() bool { l := sh("leader"); return l != "" && l != leader })
	sh("start")
	if out := sh("ask", leader, "ruok"); out != "imok" {
		t.Errorf("ruok: %q", out)
	}
	sh("down", leader)
	sh("down")
	files, _ := os.ReadDir("/proc")
	for _, f := range files {
		b, _ := os.ReadFile("/proc/" + f.Name() + "/cmdline")
		if strings.Contains(string(b), dir) {
			t.Errorf("left behind: %s", strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
}
