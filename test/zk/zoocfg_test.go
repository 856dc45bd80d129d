package zktest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	coordzk "github.com/distci/distci/lib/coord/zk"
	"github.com/distci/distci/test/lab"
)

const example = "../../examples/zoo.cfg"

// TestExample starts three nodes with examples/zoo.cfg as it is, but for hosts,
// ports and paths, and with TLS as it says.
func TestExample(t *testing.T) {
	for _, tls := range []bool{false, true} {
		t.Run(map[bool]string{false: "plain", true: "tls"}[tls], func(t *testing.T) { testExample(t, tls) })
	}
}

func testExample(t *testing.T, tls bool) {
	e := startExample(t, tls)
	if e.Leader() == 0 {
		t.Error("nobody leads")
	}

	// More connections from one address than ZooKeeper's default allows.
	for range 70 {
		c, err := net.Dial("tcp", e.clients[0])
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if e.Ask(1, "ruok") != "imok" || e.Mntr(1)["zk_server_state"] == "" {
		t.Error("node 1 does not tell how it is")
	}
	if answer := e.Ask(1, "dump"); !strings.Contains(answer, "not in the whitelist") {
		t.Errorf("dump says %q", answer)
	}

	address := "zk://" + strings.Join(e.clients, ",") + "/x"
	if tls {
		address = fmt.Sprintf("zk://%s/x?ca=%[2]s/ca.pem&cert=%[2]s/client.pem&key=%[2]s/client.key", strings.Join(e.secure, ","), e.Keys())
	}
	for asked, granted := range map[time.Duration]time.Duration{
		4 * time.Second: 9 * time.Second, 10 * time.Second: 10 * time.Second, time.Hour: time.Minute,
	} {
		if got := session(t, address, asked); got != granted {
			t.Errorf("asked for a session of %v: granted %v, want %v", asked, got, granted)
		}
	}
	if logs, err := filepath.Glob(e.file(1, "log.d/version-2/log.*")); err != nil || len(logs) == 0 {
		t.Errorf("no log of transactions in dataLogDir: %v", err)
	}
}

// session tells what time-out is granted to one of our programs that asks.
func session(t *testing.T, address string, asked time.Duration) time.Duration {
	t.Helper()
	a, err := coordzk.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	// The time-out asked for is also for how long a server is waited for.
	for {
		c, err := coordzk.Open(ctx, a, coordzk.Options{SessionTimeout: asked})
		if err == nil {
			defer c.Close()
			return c.Session().Timeout
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}
}

// startExample is Start with the example's configuration.
func startExample(t *testing.T, tls bool) *Ensemble {
	t.Helper()
	Require(t)
	dir, err := os.MkdirTemp("", "distci-zk-")
	if err != nil {
		t.Fatal(err)
	}
	e := &Ensemble{t: t, dir: dir, o: Options{Nodes: 3, TLS: tls}, spawn: lab.NewSpawner(t), nodes: make([]*node, 3)}
	e.env = append(os.Environ(), "ZK_TLS="+yes(tls))
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
		e.sh("config", dir, "3") // free ports, keys, myid
		e.clients = strings.Split(e.sh("servers", dir), ",")
		if tls {
			e.secure = strings.Split(e.sh("secure", dir), ",")
		}
		for i := range e.nodes {
			e.useExample(i+1, tls)
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

var (
	setting = regexp.MustCompile(`(?m)^(#?)([A-Za-z0-9_.]+)=(.*)$`)
	// What differs from node to node and from site to site.
	sites = regexp.MustCompile(`^(dataDir|dataLogDir|clientPort|server\..|secureClientPort|secureClientPortAddress|ssl\.(key|trust)Store\.location)$`)
)

// useExample puts the example in the place of a node's configuration. The
// values of this machine are taken from what was there.
func (e *Ensemble) useExample(node int, tls bool) {
	e.t.Helper()
	generated, err := os.ReadFile(e.file(node, "zoo.cfg"))
	if err != nil {
		e.t.Fatal(err)
	}
	here := map[string]string{"dataLogDir": e.file(node, "log.d")}
	for _, m := range setting.FindAllStringSubmatch(string(generated), -1) {
		here[m[2]] = m[3]
	}
	text, err := os.ReadFile(filepath.FromSlash(example))
	if err != nil {
		e.t.Fatal(err)
	}
	config := setting.ReplaceAllStringFunc(string(text), func(line string) string {
		m := setting.FindStringSubmatch(line)
		switch {
		case m[1] == "#" && !tls:
			return line
		case sites.MatchString(m[2]):
			if here[m[2]] == "" {
				e.t.Fatalf("%s: nothing here for %s", example, m[2])
			}
			return m[2] + "=" + here[m[2]]
		}
		return m[2] + "=" + m[3]
	})
	// So that nobody else reaches a test's nodes.
	config += "\nclientPortAddress=" + here["clientPortAddress"] + "\n"
	if err := os.WriteFile(e.file(node, "zoo.cfg"), []byte(config), 0o600); err != nil {
		e.t.Fatal(err)
	}
}
