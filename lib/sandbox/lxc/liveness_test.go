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
	"testing"
	"time"
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

// TestKilled kills each of the processes around a container, at random
// moments, ten containers at a time: nothing is left, and no reaper is run.
func TestKilled(t *testing.T) {
	newHost(t)
	o, err := options()
	if err != nil {
		t.Fatal(err)
	}
	runs := 40
	if n, err := strconv.Atoi(os.Getenv("DISTCI_KILLS")); err == nil {
		runs = n
	}
	for _, victim := range []string{"Worker", "Engine", "Monitor", "Init"} {
		t.Run(victim, func(t *testing.T) {
			state := filepath.Join(filepath.Dir(o.State), "killed-"+victim)
			word := fmt.Sprintf("%d.%d", 400_000+os.Getpid(), len(victim))
			next := make(chan int)
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					for range next {
						killOne(t, o, state, victim, word)
					}
				})
			}
			for i := range runs {
				next <- i
			}
			close(next)
			wg.Wait()
			gone := func() []string { return append(processes(word), leftovers(state)...) }
			deadline := time.Now().Add(30 * time.Second)
			for len(gone()) > 0 && time.Now().Before(deadline) {
				time.Sleep(10 * time.Millisecond)
			}
			if left := gone(); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			locks, _ := filepath.Glob("/run/distci/lxc/*")
			for _, l := range locks {
				if b, _ := os.ReadFile(l); strings.Contains(string(b), state) {
					t.Errorf("%s is not done: %s", l, b)
				}
			}
		})
	}
}

// killOne starts a container by hand and kills one of its processes.
func killOne(t *testing.T, o Options, state, victim, word string) {
	cmd := exec.Command(o.Program, "--init", o.Init, "--state", state, "--rootfs", o.Root, "--", "sh", "-c", "setsid sleep "+word+" & sleep "+word)
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond) // the moment of death is what the test is about
	for {
		pid := cmd.Process.Pid
		if victim != "Worker" {
			engine := child(pid, func(c string) bool { return strings.HasSuffix(c, "engine\x00") })
			monitor := child(engine, func(c string) bool { return strings.Contains(c, "lxc monitor") })
			first := child(monitor, func(c string) bool { return strings.Contains(c, "distci") })
			pid = map[string]int{"Engine": engine, "Monitor": monitor, "Init": first}[victim]
		}
		if pid != 0 { // it is not there yet, or this was one that makes it
			if p, err := os.FindProcess(pid); err == nil {
				_ = p.Kill()
			}
		}
		select {
		case <-ended:
			return
		case <-time.After(5 * time.Millisecond):
		}
	}
}
