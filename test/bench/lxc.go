package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/lxc"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/rootfs"
)

// contender is one way to run /bin/true somewhere.
type contender struct {
	name  string
	run   func() error
	times []float64 // ms
}

// containers measures fresh containers against other ways to confine a
// program.
func containers(b *bench) error {
	if why := rootfs.Missing(); why != "" {
		return errors.New("no containers here: " + why)
	}
	if err := os.Chmod(b.dir, 0o755); err != nil { // containers' users pass through it
		return err
	}
	kit, err := rootfs.Make(b.dir + "/kit")
	if err != nil {
		return err
	}
	if err := os.Chmod(b.dir+"/kit", 0o755); err != nil {
		return err
	}
	sb, err := lxc.New(lxc.Options{Program: kit.Program, Init: kit.Init, Root: kit.Root, State: b.dir + "/state"})
	if err != nil {
		return err
	}
	defer sb.Close()
	ours := func(limits sandbox.Limits) error {
		r, err := sb.Run(context.Background(), sandbox.Spec{Args: []string{"/bin/true"}, Dir: "/", Limits: limits})
		if err == nil && r.Status != 0 {
			err = fmt.Errorf("status %d", r.Status)
		}
		return err
	}
	peers, err := b.peers(kit)
	if err != nil {
		return err
	}
	all := append([]*contender{
		{name: "container", run: func() error { return ours(sandbox.Limits{}) }},
		{name: "container with limits", run: func() error {
			return ours(sandbox.Limits{Memory: 1 << 30, Processes: 100, CPUs: 1})
		}},
		{name: "distci-lxc by hand", run: quietly(kit.Program, "--init", kit.Init, "--state", b.dir+"/state", "--rootfs", kit.Root, "--", "/bin/true")},
	}, peers...)
	// By turns, so that a noisy moment is everybody's.
	for i := range 43 {
		for _, c := range all {
			from := time.Now()
			if err := c.run(); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			if i >= 3 {
				c.times = append(c.times, ms(from, time.Now()))
			}
		}
	}
	for _, c := range all[:3] {
		for _, p := range peers {
			var bar string
			var met func(_, ratio float64) bool
			if c == all[0] && strings.HasPrefix(p.name, "lxc-execute") {
				bar, met = "<= 1.3 x", func(_, ratio float64) bool { return ratio <= 1.3 }
			}
			b.print("fresh "+c.name+", true, gone, p50", quantile(c.times, 0.5), "ms", p.name+", p50", quantile(p.times, 0.5), bar, met)
		}
		b.print("fresh "+c.name+", true, gone, p95", quantile(c.times, 0.95), "ms", "lxc-execute, p95", quantile(find(peers, "lxc-execute").times, 0.95), "", nil)
	}
	if err := b.manyContainers(func() error { return ours(sandbox.Limits{}) }, find(peers, "lxc-execute")); err != nil {
		return err
	}
	if err := b.containerMemory(sb); err != nil {
		return err
	}
	return b.containerBuilds(kit)
}

func find(list []*contender, name string) *contender {
	for _, c := range list {
		if c.name == name {
			return c
		}
	}
	panic("no " + name)
}

// quietly runs a program, with nothing in its environment.
func quietly(path string, args ...string) func() error {
	return func() error {
		cmd := exec.Command(path, args...)
		// With newuidmap in the PATH, LXC asks it, and it /etc/subuid.
		cmd.Env = []string{"PATH=/nonexistent"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
}

// peers are those that are installed; lxc-execute is, with LXC.
func (b *bench) peers(kit rootfs.Kit) ([]*contender, error) {
	// Its root must be the container's, as it maps no mounts.
	mapped := b.dir + "/mapped"
	if out, err := exec.Command("cp", "-a", kit.Root, mapped).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	if out, err := exec.Command("chown", "-R", "1000000:1000000", mapped).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	execute := func(name, config string) (func() error, error) {
		file := filepath.Join(b.dir, name+".conf")
		if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
			return nil, err
		}
		path, err := exec.LookPath("lxc-execute")
		if err != nil {
			return nil, err
		}
		if err := os.MkdirAll(b.dir+"/lxc", 0o755); err != nil {
			return nil, err
		}
		n := 0
		var mu sync.Mutex
		return func() error {
			mu.Lock()
			n++
			id := fmt.Sprintf("bench%d-%s-%d", os.Getpid(), name, n)
			mu.Unlock()
			return quietly(path, "-P", b.dir+"/lxc", "-n", id, "-f", file, "--", "/bin/true")()
		}, nil
	}
	bare := "lxc.idmap = u 0 1000000 65536\nlxc.idmap = g 0 1000000 65536\nlxc.net.0.type = empty\n" +
		"lxc.mount.auto = proc:mixed sys:ro\nlxc.uts.name = bench\n"
	simple, err := execute("bare", bare+"lxc.rootfs.path = dir:"+mapped+"\n")
	if err != nil {
		return nil, err
	}
	// The same walls as ours, as far as its configuration can say them.
	walls := bare + "lxc.rootfs.path = overlay:" + mapped + ":" + b.dir + "/over/upper\nlxc.rootfs.options = userxattr,nosuid,nodev\n" +
		"lxc.no_new_privs = 1\nlxc.cap.keep = none\nlxc.prlimit.core = 0\nlxc.net.0.flags = up\n" +
		"lxc.mount.entry = tmpfs tmp tmpfs rw,nosuid,nodev,mode=1777 0 0\nlxc.mount.entry = tmpfs dev/shm tmpfs rw,nosuid,nodev,create=dir 0 0\n"
	for _, path := range []string{"acpi", "bus", "fs", "irq"} {
		walls += "lxc.mount.entry = tmpfs proc/" + path + " tmpfs ro,size=4k,optional 0 0\n"
	}
	for _, path := range []string{"config.gz", "kallsyms", "keys", "key-users"} {
		walls += "lxc.mount.entry = /dev/null proc/" + path + " none bind,ro,optional 0 0\n"
	}
	for _, path := range []string{"firmware", "fs", "kernel", "module", "power"} {
		walls += "lxc.mount.entry = tmpfs sys/" + path + " tmpfs ro,size=4k,optional 0 0\n"
	}
	for _, dir := range []string{b.dir + "/over", b.dir + "/over/upper"} {
		if err := errors.Join(os.Mkdir(dir, 0o755), os.Chown(dir, 1000000, 1000000)); err != nil {
			return nil, err
		}
	}
	walled, err := execute("walled", walls)
	if err != nil {
		return nil, err
	}
	peers := []*contender{
		{name: "fork and exec", run: quietly("/bin/true")},
		{name: "lxc-execute", run: simple},
		{name: "lxc-execute with the same walls", run: walled},
	}
	if path, err := exec.LookPath("bwrap"); err == nil {
		peers = append(peers, &contender{name: "bubblewrap", run: quietly(path, "--unshare-all", "--bind", kit.Root, "/", "--proc", "/proc", "--dev", "/dev", "/bin/true")})
	}
	if path, err := exec.LookPath("runc"); err == nil {
		run, err := runc(b.dir+"/runc", path, kit.Root)
		if err != nil {
			return nil, err
		}
		peers = append(peers, &contender{name: "runc", run: run})
	}
	return peers, nil
}

// runc runs containers from the bundle that its own spec command makes.
func runc(dir, path, root string) (func() error, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "spec")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("runc: %w: %s", err, out)
	}
	b, err := os.ReadFile(dir + "/config.json")
	if err != nil {
		return nil, err
	}
	var spec map[string]any
	if err := json.Unmarshal(b, &spec); err != nil {
		return nil, err
	}
	process, _ := spec["process"].(map[string]any)
	process["terminal"], process["args"] = false, []string{"/bin/true"}
	spec["root"] = map[string]any{"path": root, "readonly": true}
	if b, err = json.Marshal(spec); err != nil {
		return nil, err
	}
	if err := os.WriteFile(dir+"/config.json", b, 0o644); err != nil {
		return nil, err
	}
	n := 0
	return func() error {
		n++
		return quietly(path, "--root", dir+"/state", "run", "--bundle", dir, fmt.Sprintf("bench%d-%d", os.Getpid(), n))()
	}, nil
}

// manyContainers measures 100 containers, 20 at a time.
func (b *bench) manyContainers(ours func() error, peer *contender) error {
	measure := func(run func() error) (float64, error) {
		from := time.Now()
		err := together(100, 20, func(int) error { return run() })
		return time.Since(from).Seconds(), err
	}
	if _, err := measure(ours); err != nil { // the engines start
		return err
	}
	theirs, err := measure(peer.run)
	if err != nil {
		return fmt.Errorf("%s: %w", peer.name, err)
	}
	took, err := measure(ours)
	if err != nil {
		return err
	}
	b.print("100 containers, 20 at a time", took, "s", peer.name, theirs, "", nil)
	return nil
}

// containerMemory measures what a container costs besides its program.
func (b *bench) containerMemory(sb *lxc.Sandbox) error {
	const n = 10
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	started := make(chan struct{}, n)
	done := make(chan error, n)
	for range n {
		go func() {
			out := writerFunc(func([]byte) { started <- struct{}{} })
			_, err := sb.Run(ctx, sandbox.Spec{Args: []string{"/bin/sh", "-c", "echo; exec sleep 600"}, Dir: "/", Stdout: out,
				Env: []string{"PATH=/bin"}})
			done <- err
		}()
	}
	for range n {
		select {
		case <-started:
		case err := <-done:
			return fmt.Errorf("a container ended: %w", err)
		}
	}
	with := descendantsMemory(os.Getpid())
	cancel()
	for range n {
		if err := <-done; err != nil {
			return err
		}
	}
	idle := descendantsMemory(os.Getpid())
	b.print("memory of a running container, with its engine, monitor and first process", with/n, "MiB", "its engine alone, idle", idle/n, "", nil)
	return nil
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// descendantsMemory adds up the memory of all children and theirs, shared
// pages in parts, in MiB.
func descendantsMemory(pid int) (total float64) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		list, _ := os.ReadFile(f)
		for child := range strings.FieldsSeq(string(list)) {
			var id int
			fmt.Sscan(child, &id)
			rollup, _ := os.ReadFile("/proc/" + child + "/smaps_rollup")
			for line := range strings.Lines(string(rollup)) {
				var kb float64
				if n, _ := fmt.Sscanf(line, "Pss: %f kB", &kb); n == 1 {
					total += kb / 1024
				}
			}
			total += descendantsMemory(id)
		}
	}
	return total
}

// containerBuilds measures builds of three steps, in containers and plain.
func (b *bench) containerBuilds(kit rootfs.Kit) error {
	images := b.dir + "/images"
	if out, err := exec.Command(kit.Program, "image", "import", "small", kit.Root, "--images", images).CombinedOutput(); err != nil {
		return fmt.Errorf("import: %w: %s", err, out)
	}
	c, err := b.frontend()
	if err != nil {
		return err
	}
	times := map[string][]float64{}
	for _, label := range []string{"plain", "lxc"} {
		args := []string{"--sandbox", label, "--label", label}
		if label == "lxc" {
			args = append(args, "--image", "small", "--images", images)
		}
		if _, err := b.worker(args...); err != nil {
			return err
		}
		var tasks []string
		for range 3 {
			tasks = append(tasks, fmt.Sprintf(`{"type":"execute-shell","labels":[%q],"params":{"script":"echo x >> file"}}`, label))
		}
		config := fmt.Sprintf(`{"job_id":%q,"tasks":[%s]}`, label, strings.Join(tasks, ","))
		if err := c.PutJob(context.Background(), label, []byte(config)); err != nil {
			return err
		}
	}
	for i := range 14 {
		for _, label := range []string{"plain", "lxc"} {
			n, err := c.Trigger(context.Background(), label)
			if err != nil {
				return err
			}
			took, err := buildTime(c, label, n)
			if err != nil {
				return err
			}
			if i >= 2 {
				times[label] = append(times[label], took)
			}
		}
	}
	b.print("build of three steps in containers, p50", quantile(times["lxc"], 0.5), "ms", "the same build plain, p50", quantile(times["plain"], 0.5), "", nil)
	return nil
}

// buildTime waits for a build's end, and returns how long it took by its own
// record, in ms.
func buildTime(c *client.Client, job string, n ticket.Number) (float64, error) {
	for range 6000 {
		s, err := c.Build(context.Background(), job, n)
		if err != nil {
			return 0, err
		}
		if s.Ended != nil {
			if s.Result != ticket.Success {
				return 0, fmt.Errorf("%s #%d: %s", job, n, s.Result)
			}
			return ms(*s.Created, *s.Ended), nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, fmt.Errorf("%s #%d does not end", job, n)
}
