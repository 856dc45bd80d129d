package plain

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
)

// unkillable is how long a process may take to die of SIGKILL.
const unkillable = 10 * time.Second

// sweep kills what is left of the program that has ended, and returns when it
// is gone. As a killed process's children become ours, it goes on until there
// are none. A process may die, and leave us its children, after the kernel has
// listed ours and before we look at it, and the list may lack one while another
// is reaped: so a zombie is a find too, and two looks must find nothing.
func (s *Sandbox) sweep(mark string, pid int) error {
	deadline := time.Now().Add(unkillable)
	wait := 100 * time.Microsecond
	for quiet := 0; ; {
		s.mu.Lock()
		left, reaped, err := s.look(mark, pid)
		if quiet++; len(left) > 0 || reaped {
			quiet = 0
		}
		late := time.Now().After(deadline)
		over := quiet == 2 || late || err != nil
		if over { // in the moment of the look: who is struck off last sees all orphans that nobody owns
			delete(s.running, mark)
			s.watchdog.remove(pid)
		}
		s.mu.Unlock()
		switch {
		case err != nil:
			return err
		case late && len(left) > 0:
			return fault.Errorf(fault.Temporary, "sandbox/plain: processes %v do not die", left)
		case over:
			return nil
		case quiet == 0:
			time.Sleep(wait)
			wait = min(2*wait, 5*time.Millisecond)
		}
	}
}

// look kills the orphans of the program, and reaps those that have died. mu is
// held.
func (s *Sandbox) look(mark string, pid int) (left []int, reaped bool, err error) {
	s.running[mark] = 0 // reaped: its pid may be another's by now, if its session is empty
	children, err := children()
	if err != nil {
		return nil, false, fault.Errorf(fault.Internal, "sandbox/plain: looking for processes: %w", err)
	}
	for _, child := range children {
		p, ok := readProcess(child)
		if !ok || p.session == s.session || s.isProgram(child) {
			continue
		}
		if p.zombie {
			unix.Wait4(child, nil, unix.WNOHANG, nil)
			reaped = reaped || !s.isProgram(p.session)
			continue
		}
		if !s.owns(mark, pid, p) {
			continue
		}
		if unix.Kill(child, unix.SIGKILL) == nil {
			left = append(left, child) // it is there until a later look has reaped it
		}
	}
	return left, reaped, nil
}

// isProgram tells whether pid is a program whose end another Run awaits.
func (s *Sandbox) isProgram(pid int) bool {
	for _, p := range s.running {
		if p == pid {
			return true
		}
	}
	return false
}

// owns tells whether the orphan p is left of the program with the given mark
// and pid, or of nobody who will ask later.
func (s *Sandbox) owns(mark string, pid int, p process) bool {
	if p.session == pid {
		return true
	}
	if s.isProgram(p.session) {
		return false
	}
	if m, ok := markOf(p.pid); ok {
		_, runs := s.running[m]
		return m == mark || !runs
	}
	return len(s.running) == 1
}

// process is what /proc/PID/stat tells.
type process struct {
	pid, parent, session int
	zombie               bool
}

func readProcess(pid int) (process, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false
	}
	// The name may hold anything; it ends with the last parenthesis.
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 4 {
		return process{}, false
	}
	p := process{pid: pid, zombie: f[0] == "Z" || f[0] == "X"}
	p.parent, _ = strconv.Atoi(f[1])
	p.session, _ = strconv.Atoi(f[3])
	return p, true
}

// markOf tells the mark that the process was started with.
func markOf(pid int) (string, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return "", false
	}
	for e := range strings.SplitSeq(string(b), "\x00") {
		if m, ok := strings.CutPrefix(e, sandbox.StepVar+"="); ok {
			return m, true
		}
	}
	return "", false
}

// children lists the children of this process: of each of its threads. Without
// the kernel's lists (CONFIG_PROC_CHILDREN) it asks every process for its
// parent.
func children() ([]int, error) {
	tasks, err := numbers("/proc/self/task")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, task := range tasks {
		b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", task))
		if os.IsNotExist(err) && task == os.Getpid() {
			return childrenByParent()
		}
		for f := range strings.FieldsSeq(string(b)) { // nothing, if the thread has ended
			if pid, err := strconv.Atoi(f); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

func childrenByParent() ([]int, error) {
	all, err := numbers("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, pid := range all {
		if p, ok := readProcess(pid); ok && p.parent == os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// numbers lists the entries of a folder that are numbers.
func numbers(dir string) ([]int, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			all = append(all, n)
		}
	}
	return all, nil
}
