package lxc

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
)

func TestExhaustMemory(t *testing.T) {
	h := newHost(t)
	h.spec.Limits.Memory = 64 << 20
	for name, script := range map[string]string{
		"OneProcess": "probe allocate 1000000000", "Child": "probe allocate 1000000000; exit 3", "Tmp": "dd if=/dev/zero of=/tmp/x bs=1M; true",
	} {
		t.Run(name, func(t *testing.T) {
			_, r := h.sh(script)
			if name == "Tmp" {
				return // it is full, or the program is killed
			}
			if !r.OOM {
				t.Errorf("got %+v, want out of memory", r)
			}
		})
	}
	if out, r := h.sh("probe allocate 30000000"); out != "allowed" || r.OOM {
		t.Errorf("within the limit: %s, %+v", out, r)
	}
}

func TestOutOfMemoryTellsThePeak(t *testing.T) {
	h := newHost(t)
	h.spec.Limits.Memory, h.spec.Args = 64<<20, []string{"probe", "allocate", "1000000000"}
	r, stats, err := h.s.(*Sandbox).RunStats(t.Context(), h.spec)
	// The kernel's count may pass the limit by some pages before it says no.
	if err != nil || !r.OOM || r.Signal != 9 || stats.PeakMemory < 60<<20 || stats.PeakMemory > 65<<20 {
		t.Errorf("%+v, peak %d, %v", r, stats.PeakMemory, err)
	}
}

func TestExhaustProcesses(t *testing.T) {
	h := newHost(t)
	h.spec.Limits.Processes = 20
	out, _ := h.sh(`bomb() { bomb | bomb & }; bomb; i=0; while [ $i -lt 50 ]; do sleep 0.01; i=$((i+1)); done`)
	if !strings.Contains(strings.ToLower(out), "fork") {
		t.Errorf("nothing was refused: %s", out)
	}
	if out, r := h.sh("echo well"); out != "well" || r.Status != 0 {
		t.Errorf("after it: %s, %+v", out, r)
	}
}

func TestExhaustDisk(t *testing.T) {
	for name, script := range map[string]string{
		"OneFile":   "dd if=/dev/zero of=/workspace/x bs=1M 2>/dev/null; sleep 600",
		"ManyFiles": "i=0; while :; do dd if=/dev/zero of=/workspace/$i bs=1M count=1 2>/dev/null; i=$((i+1)); done",
		"Inodes":    "i=0; while :; do : >/workspace/$i; i=$((i+1)); done",
		"Root":      "i=0; while :; do dd if=/dev/zero of=/root/$i bs=1M count=1 2>/dev/null; i=$((i+1)); done",
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.spec.Limits.Disk, h.spec.User = 16<<20, "0"
			if name == "Inodes" {
				h.spec.Limits.Disk = 1 << 20
			}
			if name == "OneFile" {
				_, r := h.sh("dd if=/dev/zero of=/workspace/x bs=1M 2>/dev/null; exit $?")
				if fi, err := os.Stat(h.workspace + "/x"); err != nil || fi.Size() > 16<<20 {
					t.Errorf("%+v: the file has %v, %v", r, fi, err)
				}
				return
			}
			if _, r := h.sh(script); !r.Full || r.Signal != 9 {
				t.Errorf("got %+v, want it full", r)
			}
		})
	}
}

func TestExhaustDescriptors(t *testing.T) {
	h := newHost(t)
	if out, _ := h.sh("probe files"); out != "EMFILE" {
		t.Error(out)
	}
}

// TestLimitsAreInForce reads them in the result of what is limited; the engine
// itself refuses to begin where they are not.
func TestLimitCPU(t *testing.T) {
	h := newHost(t)
	h.spec.Limits.CPUs = 0.2
	h.spec.Args = []string{"sh", "-c", "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"}
	r, stats, err := h.s.(*Sandbox).RunStats(t.Context(), h.spec)
	used := r.Usage.User + r.Usage.System
	if err != nil || used.Seconds() > 0.5*stats.Run+0.1 {
		t.Errorf("%v of processors' time in %g seconds, %v", used, stats.Run, err)
	}
}

// TestOutlive has a step leave what wants to live on.
func TestOutlive(t *testing.T) {
	h := newHost(t)
	word := fmt.Sprintf("%d.25", 300_000+os.Getpid())
	_, r := h.sh(`setsid sleep $1 & (setsid setsid sleep $1 &); (trap "" TERM HUP INT; sleep $1) & nohup sleep $1 >/dev/null 2>&1 & exit 5`, word)
	if r.Status != 5 {
		t.Errorf("got %+v", r)
	}
	if left := processes(word); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestEveryExitStatus(t *testing.T) {
	h := newHost(t)
	eachOf(256, func(n int) {
		spec := h.spec
		spec.Args = []string{"sh", "-c", "exit " + strconv.Itoa(n)}
		if r, err := h.s.Run(t.Context(), spec); err != nil || r.Status != n || r.Signal != 0 {
			t.Errorf("status %d: %+v, %v", n, r, err)
		}
	})
}

func TestEverySignal(t *testing.T) {
	h := newHost(t)
	eachOf(65, func(n int) {
		switch n {
		case 0, 17, 18, 19, 20, 21, 22, 23, 28, 32, 33: // do not kill, or are the C library's
			return
		}
		spec := h.spec
		spec.Args = []string{"sh", "-c", "kill -" + strconv.Itoa(n) + " $$; sleep 9"}
		if r, err := h.s.Run(t.Context(), spec); err != nil || r.Status != 128+n || r.Signal != n {
			t.Errorf("signal %d: %+v, %v", n, r, err)
		}
	})
}

// eachOf calls do for all numbers, a few at a time.
func eachOf(n int, do func(int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range next {
				do(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

func TestTimeOut(t *testing.T) {
	h := newHost(t)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	h.spec.Args = []string{"sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.01; done"}
	if r, err := h.s.Run(ctx, h.spec); err != nil || r.Status != 7 && r.Signal != 15 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestBadSpecs(t *testing.T) {
	h := newHost(t)
	for name, change := range map[string]func(*sandbox.Spec){
		"Network":         func(s *sandbox.Spec) { s.Network = "wifi" },
		"NoBridge":        func(s *sandbox.Spec) { s.Network = "bridge:nosuch0" },
		"User":            func(s *sandbox.Spec) { s.User = "nobodyknows" },
		"UserOutOfRange":  func(s *sandbox.Spec) { s.User = "70000" },
		"Source":          func(s *sandbox.Spec) { s.Mounts[0].Source = "/no/such/folder" },
		"RelativeTarget":  func(s *sandbox.Spec) { s.Mounts[0].Target = "workspace" },
		"TargetInProc":    func(s *sandbox.Spec) { s.Mounts[0].Target = "/proc/x" },
		"TargetIsALink":   func(s *sandbox.Spec) { s.Mounts[0].Target = "/usr/bin/x" },
		"MountInMount":    func(s *sandbox.Spec) { s.Mounts = append(s.Mounts, sandbox.Mount{Source: "/", Target: "/workspace/x"}) },
		"TwoAtOnePlace":   func(s *sandbox.Spec) { s.Mounts = append(s.Mounts, s.Mounts[0]) },
		"TargetUncleaned": func(s *sandbox.Spec) { s.Mounts[0].Target = "/workspace/../etc" },
	} {
		t.Run(name, func(t *testing.T) {
			spec := h.spec
			spec.Args, spec.Dir = []string{"true"}, "/"
			spec.Mounts = append([]sandbox.Mount(nil), h.spec.Mounts...)
			change(&spec)
			if _, err := h.s.Run(t.Context(), spec); fault.Of(err) != fault.Config {
				t.Errorf("%v (%s)", err, fault.Of(err))
			}
		})
	}
}

// TestMounts puts mounts at places that the image has and has not, with a
// read-only root too.
func TestMounts(t *testing.T) {
	h := newHost(t)
	file := h.workspace + "/file"
	if err := os.WriteFile(file, []byte("content\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, ro := range []bool{false, true} {
		h.spec.ReadOnly = ro
		h.spec.Mounts = nil
		for _, target := range []string{"/etc/passwd", "/etc/new", "/opt/a b/c", "/tmp/f", "/dev/f", "/new"} {
			h.spec.Mounts = append(h.spec.Mounts, sandbox.Mount{Source: file, Target: target, ReadOnly: true})
		}
		h.spec.Mounts = append(h.spec.Mounts, sandbox.Mount{Source: h.workspace, Target: "/tmp/deep/down"})
		h.spec.Dir = "/tmp/deep/down"
		out, r := h.sh(`cat /etc/passwd /etc/new "/opt/a b/c" /tmp/f /dev/f /new file; rm -f made; echo >made; cat /etc/group | wc -l; touch /tmp/x`)
		if want := strings.Repeat("content\n", 7) + "2"; out != want || r.Status != 0 {
			t.Errorf("read-only %v: %+v: %s", ro, r, out)
		}
		h.spec.User = "0"
		if out, _ := h.sh("touch /var/x && echo made"); (out == "made") == ro {
			t.Errorf("read-only %v: %s", ro, out)
		}
		h.spec.User = ""
	}
}
