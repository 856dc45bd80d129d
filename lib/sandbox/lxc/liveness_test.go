package lxc

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distci/distci/test/rootfs"
)

// processes lists those in whose command the word occurs.
func processes(word string) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.Contains(string(b), word) {
			found = append(found, f+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

// child finds the child of a process that the function accepts; 0 if there is
// none.
func child(parent int, ok func(cmdline string) bool) int {
	dirs, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, d := range dirs {
		b, _ := os.ReadFile(d)
		for f := range strings.FieldsSeq(string(b)) {
			if c, _ := os.ReadFile("/proc/" + f + "/cmdline"); ok(string(c)) {
				pid, _ := strconv.Atoi(f)
				return pid
			}
		}
	}
	return 0
}

// monitorOf finds LXC's monitor of an engine's container; 0 if there is none.
func monitorOf(engine int) int {
	starter := child(engine, func(c string) bool { return strings.HasSuffix(c, "forker\x00") })
	return child(starter, func(c string) bool { return strings.HasSuffix(c, "keeper\x00") })
}

// leftovers lists what containers of these tests can leave on a machine, but
// for processes.
func leftovers(state string) (found []string) {
	for _, pattern := range []string{filepath.Join(state, "*"), "/run/lxc/lock/" + state + "/*"} {
		f, _ := filepath.Glob(pattern)
		found = append(found, f...)
	}
	for _, file := range []string{"/proc/self/mountinfo", "/proc/net/dev"} {
		b, _ := os.ReadFile(file)
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, state) || strings.Contains(line, "veth") && file == "/proc/net/dev" {
				found = append(found, line)
			}
		}
	}
	return found
}

// runs is how often each kind of process is killed.
func runs() int {
	if n, err := strconv.Atoi(os.Getenv("DISTCI_KILLS")); err == nil {
		return n
	}
	return 40
}

// TestKilled kills each of the processes around a container, at random
// moments, ten containers at a time: nothing is left. No reaper is run, but
// where all those are killed at once that clean up.
func TestKilled(t *testing.T) {
	newHost(t)
	o := mustOptions(t)
	for _, victim := range []string{"Worker", "Engine", "Monitor", "Init", "AllButInit"} {
		t.Run(victim, func(t *testing.T) {
			state := filepath.Join(filepath.Dir(o.State), "killed-"+victim)
			word := marker()
			o := o
			o.Program = ownProgram(t, o.Program) // so that its processes can be told from those of other tests
			network, ports := "none", func() []string { return nil }
			if _, err := exec.LookPath("ip"); err == nil && os.Geteuid() == 0 {
				network, ports = bridge(t, len(victim))
			}
			left := func() string {
				return strings.Join(append(rootfs.Left(state, state, word, filepath.Dir(o.Program)), ports()...), "\n")
			}
			eventually(t, "before it there is nothing", left)
			next := make(chan int)
			var wg sync.WaitGroup
			var early atomic.Int32 // killed before there was a container
			for range 10 {
				wg.Go(func() {
					for range next {
						if !killOne(t, o, state, victim, word, network) {
							early.Add(1)
						}
					}
				})
			}
			for i := range runs() {
				next <- i
			}
			close(next)
			wg.Wait()
			if victim == "AllButInit" {
				if out, err := exec.Command(o.Program, "reap").CombinedOutput(); err != nil {
					t.Errorf("reap: %v: %s", err, out)
				}
			}
			eventually(t, "nothing is left", left)
			t.Logf("%d killed, %d of them before the container was there; nothing is left", runs(), early.Load())
		})
	}
}

// ownProgram gives a program a path of its own.
func ownProgram(t *testing.T, program string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), filepath.Base(program))
	b, err := os.ReadFile(program)
	if err == nil {
		err = os.WriteFile(path, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// bridge makes a bridge for containers, and lists the interfaces at it.
func bridge(t *testing.T, n int) (network string, ports func() []string) {
	t.Helper()
	name := fmt.Sprintf("dkill%d.%d", os.Getpid()%1000, n)
	for _, args := range [][]string{{"link", "add", name, "type", "bridge"}, {"addr", "add", fmt.Sprintf("10.213.%d.1/24", n), "dev", name}, {"link", "set", name, "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Logf("no bridge: ip %q: %v: %s", args, err, out)
			return "none", func() []string { return nil }
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "link", "del", name).CombinedOutput(); err != nil {
			t.Errorf("removing the bridge: %v: %s", err, out)
		}
	})
	return "bridge:" + name, func() []string {
		found, _ := filepath.Glob("/sys/class/net/" + name + "/brif/*")
		return found
	}
}

// killOne starts a container by hand and kills one of its processes. It tells
// whether the first process was there by then.
func killOne(t *testing.T, o Options, state, victim, word, network string) (begun bool) {
	cmd := exec.Command(o.Program, "--init", o.Init, "--state", state, "--rootfs", o.Root, "--network", network, "--", "sh", "-c", "echo; setsid sleep "+word+" & sleep "+word)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Error(err)
		return false
	}
	most := 500            // ms
	if rand.IntN(2) == 0 { // half of them are killed when the program runs
		_, _ = out.Read(make([]byte, 1))
		most = 50
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	time.Sleep(time.Duration(rand.IntN(most)) * time.Millisecond) // the moment of death is what the test is about
	for {
		// Whose container it is shows in who is whose child: an engine may have
		// had others before.
		engine := child(cmd.Process.Pid, func(c string) bool { return strings.HasSuffix(c, "engine\x00") })
		monitor := monitorOf(engine)
		first := child(monitor, func(c string) bool { return strings.Contains(c, "distci") })
		begun = begun || first != 0
		for _, pid := range map[string][]int{"Worker": {cmd.Process.Pid}, "Engine": {engine}, "Monitor": {monitor}, "Init": {first},
			"AllButInit": {engine, monitor, cmd.Process.Pid}}[victim] {
			if pid == 0 { // it is not there yet, or this was one that makes it
				continue
			}
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
		select {
		case <-ended:
			return begun
		case <-time.After(5 * time.Millisecond):
		}
	}
}
