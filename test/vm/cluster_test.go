package vm

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/lab"
	zktest "github.com/distci/distci/test/zk"
)

// cluster is what stays on while machines come and go: ZooKeeper, a store that
// they mount, a frontend, and a worker for control tickets.
type cluster struct {
	t     *testing.T
	image image
	dir   string
	port  string // ZooKeeper's
	spawn *lab.Spawner
	*client.Client
	machines int
}

func newCluster(t *testing.T) *cluster {
	needMachines(t)
	t.Parallel()
	im, err := makeImage()
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, image: im, dir: lab.Dir(t), spawn: lab.NewSpawner(t)}
	_, c.port, _ = strings.Cut(zktest.Start(t, zktest.Options{}).Servers()[0], ":")
	c.write("share/none", "")
	c.write("zookeeper.auth", "user:password\n") // as in user-data.yaml
	port := c.path("port")
	c.start("distci-frontend", "--listen", "127.0.0.1:0", "--port-file", port)
	lab.Until(t, "the frontend listens", func() bool {
		b, err := os.ReadFile(port)
		if err != nil {
			return false
		}
		c.Client, err = client.New("http://127.0.0.1:"+strings.TrimSpace(string(b)), client.Options{})
		return err == nil
	})
	control := c.path("control")
	if err := os.Mkdir(control, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(im.bin, "distci-buildctl"), filepath.Join(control, "distci-buildctl")); err != nil {
		t.Fatal(err)
	}
	c.start("distci-claim", "--loop", "--state", c.path("state"))
	return c
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) write(name, text string) {
	c.t.Helper()
	err := os.MkdirAll(filepath.Dir(c.path(name)), 0o755)
	if err == nil {
		err = os.WriteFile(c.path(name), []byte(text), 0o600)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// start starts a program of the cluster on this machine.
func (c *cluster) start(program string, args ...string) *lab.Proc {
	c.t.Helper()
	cmd := exec.Command(filepath.Join(c.image.bin, program), args...)
	cmd.Env = lab.Env(c.image.bin, c.dir, "DISTCI_PATH="+c.path("control"), "DISTCI_SANDBOX=plain", "DISTCI_STORE=dir:"+c.path("share/store"),
		"DISTCI_COORD=zk://127.0.0.1:"+c.port+"/main?auth="+c.path("zookeeper.auth"))
	return lab.Start(c.t, c.spawn, c.dir, program, cmd)
}

// step sets and triggers a job of one step, a script for these machines.
func (c *cluster) step(job, script string) ticket.Number {
	c.t.Helper()
	config := fmt.Sprintf(`{"job_id": %q, "tasks": [{"type": "execute-shell", "labels": ["big"], "params": {"script": %q}}]}`, job, script)
	if err := c.PutJob(c.t.Context(), job, []byte(config)); err != nil {
		c.t.Fatal(err)
	}
	n, err := c.Trigger(c.t.Context(), job)
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// until waits for something that machines do. The limit is for a test that
// hangs: an emulated machine takes minutes to start.
func (c *cluster) until(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(10 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
	}
	c.t.Fatalf("waited in vain: %s", what)
}

func (c *cluster) state(job string, n ticket.Number) *build.State {
	c.t.Helper()
	s, err := c.Build(c.t.Context(), job, n)
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

func (c *cluster) console(job string, n ticket.Number) string {
	c.t.Helper()
	var b bytes.Buffer
	if err := c.Console(context.Background(), job, n, &b); err != nil {
		c.t.Fatal(err)
	}
	return b.String()
}

// finished waits for a build's end.
func (c *cluster) finished(job string, n ticket.Number) *build.State {
	c.t.Helper()
	var s *build.State
	c.until(fmt.Sprintf("%s #%d is finished", job, n), func() bool {
		s = c.state(job, n)
		return s.Status == build.Complete
	})
	return s
}

// machine is one that was started, with its name.
type machine struct {
	*lab.Proc
	c     *cluster
	name  string
	began time.Time
}

// boot starts a machine with the example's user-data, in which the addresses
// are this cluster's, and with more options.
func (c *cluster) boot(options string) *machine {
	c.t.Helper()
	c.machines++
	m := &machine{c: c, name: fmt.Sprintf("machine%d", c.machines), began: time.Now()}
	c.write(m.name+"/user-data", c.userData(options))
	c.write(m.name+"/meta-data", "instance-id: "+m.name+"\nlocal-hostname: "+m.name+"\n")
	seed, socket := c.path(m.name+".iso"), c.path(m.name+".sock")
	if err := command("genisoimage", "-quiet", "-output", seed, "-volid", "cidata", "-joliet", "-rock", c.path(m.name)); err != nil {
		c.t.Fatal(err)
	}
	// With "flock" its locks are this machine's, and so count for all.
	lab.Start(c.t, c.spawn, c.dir, "virtiofsd", exec.Command(virtiofsd, "--socket-path="+socket, "-o", "source="+c.path("share")+",flock,cache=none"))
	lab.Until(c.t, "the store is served", func() bool { _, err := os.Stat(socket); return err == nil })
	args := []string{"-accel", "kvm"}
	if !hardware() {
		args[1] = "tcg,thread=multi"
	}
	args = append(args, "-m", "1G", "-smp", "2", "-display", "none", "-snapshot", "-nodefaults",
		"-kernel", filepath.Join(c.image.dir, "vmlinuz"), "-initrd", filepath.Join(c.image.dir, "initrd.img"),
		"-append", "root=/dev/vda rw console=ttyS0 systemd.journald.forward_to_console=1",
		"-drive", "file="+filepath.Join(c.image.dir, "root.img")+",if=virtio,format=raw",
		"-drive", "file="+seed+",if=virtio,format=raw,readonly=on",
		"-nic", "user,model=virtio-net-pci",
		"-serial", "file:"+c.path(m.name+".console.log"),
		"-object", "memory-backend-memfd,id=memory,size=1G,share=on", "-numa", "node,memdev=memory",
		"-chardev", "socket,id=store,path="+socket, "-device", "vhost-user-fs-pci,chardev=store,tag=store")
	m.Proc = lab.Start(c.t, c.spawn, c.dir, m.name, exec.Command("qemu-system-x86_64", args...))
	return m
}

var mounts = regexp.MustCompile(`(?m)^  - \[store\.example\.org:/distci, .*$`)

// userData is the example's for this cluster.
func (c *cluster) userData(options string) string {
	c.t.Helper()
	b, err := os.ReadFile(filepath.Join(examples, "user-data.yaml"))
	if err != nil {
		c.t.Fatal(err)
	}
	text := string(b)
	for _, r := range []struct{ old, new string }{
		{"h1.example.org:2181,h2.example.org:2181,h3.example.org:2181", "10.0.2.2:" + c.port}, // of the host
		{mounts.FindString(text), `  - [store, /srv/distci, virtiofs, "nofail", "0", "0"]`},
		{`--label big"`, `--label big ` + options + `"`},
	} {
		if r.old == "" || strings.Count(text, r.old) != 1 {
			c.t.Fatalf("user-data.yaml has %q not once", r.old)
		}
		text = strings.Replace(text, r.old, r.new, 1)
	}
	return text
}

// off waits until the machine has powered itself off, and nothing else has
// ended it.
func (m *machine) off() {
	m.c.t.Helper()
	m.c.until(m.name+" is off", func() bool {
		select {
		case <-m.Done:
			return true
		default:
			return false
		}
	})
	if m.Status() != 0 || !strings.Contains(m.said(), "reboot: Power down") {
		m.c.t.Errorf("%s has ended with status %d", m.name, m.Status())
	}
	m.c.t.Logf("%s was on for %s", m.name, time.Since(m.began).Round(time.Second))
}

// said is what was on the machine's console.
func (m *machine) said() string {
	b, _ := os.ReadFile(m.c.path(m.name + ".console.log"))
	return string(b)
}
