package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
)

// hierarchy is one mounted tree of control groups.
type hierarchy struct {
	root        string   // where it is mounted
	controllers []string // of version 1: its controllers; "name=…" for a named one
	v2          bool
}

// hierarchies reads the layout from a mountinfo file: version 1, version 2, or
// both side by side.
func hierarchies(mountinfo string) []hierarchy {
	var all []hierarchy
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		mount, super := strings.Fields(before), strings.Fields(after)
		if !ok || len(mount) < 5 || len(super) < 3 {
			continue
		}
		switch super[0] {
		case "cgroup2":
			all = append(all, hierarchy{root: mount[4], v2: true})
		case "cgroup":
			var c []string
			for _, o := range strings.Split(super[2], ",") {
				if !slices.Contains([]string{"rw", "ro", "xattr", "none"}, o) && !strings.HasPrefix(o, "release_agent=") {
					c = append(c, o)
				}
			}
			all = append(all, hierarchy{root: mount[4], controllers: c})
		}
	}
	return all
}

// layout reads this machine's.
func layout() ([]hierarchy, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fault.Wrap(fault.Config, err)
	}
	return hierarchies(string(b)), nil
}

// ours are the controllers that limits and counters need.
var ours = []string{"memory", "cpu", "cpuacct", "pids"}

// groupOf returns the folder of a process's group for a controller of version 1, or
// the one of version 2 if the controller is there, with the version.
func groupOf(pid int, controller string, all []hierarchy) (dir string, v2 bool, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", false, err
	}
	return findGroup(string(b), controller, all)
}

func findGroup(cgroup, controller string, all []hierarchy) (dir string, v2 bool, err error) {
	unified := ""
	for line := range strings.Lines(cgroup) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		names := strings.Split(f[1], ",")
		for _, h := range all {
			switch {
			case h.v2 && f[0] == "0" && f[1] == "":
				unified = filepath.Join(h.root, f[2])
			case !h.v2 && f[1] != "" && slices.Contains(names, controller) && slices.Contains(h.controllers, controller):
				return filepath.Join(h.root, f[2]), false, nil
			}
		}
	}
	if unified == "" {
		return "", false, fault.Errorf(fault.Config, "the %s controller of cgroups is not mounted", controller)
	}
	return unified, true, nil
}

// versions tells for each controller that we use whether version 2 has it.
func versions(all []hierarchy) map[string]bool {
	v := map[string]bool{}
	for _, c := range ours {
		v[c] = !slices.ContainsFunc(all, func(h hierarchy) bool { return slices.Contains(h.controllers, c) })
	}
	return v
}

const period = 100_000 // µs: the CPU's time is shared out by tenths of a second

// limitConfig is what LXC is told, and readBack what must then be in force.
// Keys of the version that is not there would be ignored in silence.
func limitConfig(l sandbox.Limits, v2 map[string]bool) (items []item) {
	add := func(controller, v1Key, v2Key, value string) {
		if v2[controller] {
			items = append(items, item{"lxc.cgroup2." + v2Key, value})
		} else {
			items = append(items, item{"lxc.cgroup." + v1Key, value})
		}
	}
	if l.Memory > 0 {
		add("memory", "memory.limit_in_bytes", "memory.max", strconv.FormatInt(l.Memory, 10))
		if v2["memory"] {
			if swap() {
				items = append(items, item{"lxc.cgroup2.memory.swap.max", "0"})
			}
		} else if swap() {
			items = append(items, item{"lxc.cgroup.memory.memsw.limit_in_bytes", strconv.FormatInt(l.Memory, 10)})
		}
	}
	if l.Processes > 0 {
		add("pids", "pids.max", "pids.max", strconv.Itoa(l.Processes+1)) // and the first process
	}
	if l.CPUs > 0 {
		quota := max(int64(l.CPUs*period), 1000)
		if v2["cpu"] {
			items = append(items, item{"lxc.cgroup2.cpu.max", fmt.Sprintf("%d %d", quota, period)})
		} else {
			items = append(items, item{"lxc.cgroup.cpu.cfs_period_us", strconv.Itoa(period)},
				item{"lxc.cgroup.cpu.cfs_quota_us", strconv.FormatInt(quota, 10)})
		}
	}
	return items
}

// swap tells whether there is any: without it some kernels have no such limit.
func swap() bool {
	b, err := os.ReadFile("/proc/swaps")
	return err == nil && strings.Count(string(b), "\n") > 1
}

// counters reads what a container's groups know. Where it has none of its own
// nothing is known: the others' is not its.
type counters struct {
	dirs map[string]string // of the controllers
	v2   map[string]bool
}

func newCounters(pid int, all []hierarchy) *counters {
	c := &counters{dirs: map[string]string{}, v2: map[string]bool{}}
	for _, name := range ours {
		if dir, v2, err := groupOf(pid, name, all); err == nil && strings.HasPrefix(filepath.Base(dir), ownGroups()) {
			c.dirs[name], c.v2[name] = dir, v2
		}
	}
	return c
}

// ownGroups is what the names of the control groups of this user's containers
// begin with.
func ownGroups() string { return fmt.Sprintf("lxc.payload.distci.%d.", os.Geteuid()) }

func (c *counters) read(controller, v1Key, v2Key string) (string, error) {
	dir, key := c.dirs[controller], v1Key
	if dir == "" {
		return "", fmt.Errorf("the container has no control group of its own for %s", controller)
	}
	if c.v2[controller] {
		key = v2Key
	}
	b, err := os.ReadFile(filepath.Join(dir, key))
	return strings.TrimSpace(string(b)), err
}

// check asserts that the limits are in force.
func (c *counters) check(l sandbox.Limits) error {
	bad := func(what, want, got string, err error) error {
		if err != nil {
			got = err.Error()
		}
		return fault.Errorf(fault.Config, "the limit on %s is not in force: %s instead of %s (is the controller delegated to this user?)", what, got, want)
	}
	if l.Memory > 0 {
		got, err := c.read("memory", "memory.limit_in_bytes", "memory.max")
		n, _ := strconv.ParseInt(got, 10, 64)
		if page := int64(os.Getpagesize()); err != nil || n <= 0 || n/page != l.Memory/page {
			return bad("memory", strconv.FormatInt(l.Memory, 10), got, err)
		}
	}
	if l.Processes > 0 {
		want := strconv.Itoa(l.Processes + 1)
		if got, err := c.read("pids", "pids.max", "pids.max"); got != want {
			return bad("processes", want, got, err)
		}
	}
	if l.CPUs > 0 {
		want := strconv.FormatInt(max(int64(l.CPUs*period), 1000), 10)
		got, err := c.read("cpu", "cpu.cfs_quota_us", "cpu.max")
		if quota, _, _ := strings.Cut(got, " "); quota != want {
			return bad("processors", want, got, err)
		}
	}
	return nil
}

// field finds "name number" in lines of that form.
func field(text, name string) (int64, bool) {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// oomKills is how many processes were killed for want of memory.
func (c *counters) oomKills() int64 {
	text, _ := c.read("memory", "memory.oom_control", "memory.events")
	n, _ := field(text, "oom_kill")
	return n
}

// peak is the most memory that was used at once, 0 if that is not known.
func (c *counters) peak() int64 {
	text, _ := c.read("memory", "memory.max_usage_in_bytes", "memory.peak")
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

// cpu is the processors' time of all that ran.
func (c *counters) cpu() (user, system time.Duration, ok bool) {
	text, err := c.read("cpuacct", "cpuacct.stat", "cpu.stat")
	if err != nil {
		return 0, 0, false
	}
	unit, u, s := time.Second/100, "user", "system" // USER_HZ is 100 everywhere
	if c.v2["cpuacct"] {
		unit, u, s = time.Microsecond, "user_usec", "system_usec"
	}
	un, ok1 := field(text, u)
	sn, ok2 := field(text, s)
	return time.Duration(un) * unit, time.Duration(sn) * unit, ok1 && ok2
}

// folders lists the groups of the process, to be removed later.
func folders(pid int, all []hierarchy) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		for _, h := range all {
			if h.v2 && f[1] == "" || !h.v2 && f[1] != "" && slices.Equal(strings.Split(f[1], ","), h.controllers) {
				dirs = append(dirs, filepath.Join(h.root, f[2]))
			}
		}
	}
	return dirs
}

// findCgroups looks for the groups of a container, by its name. If a name is
// taken LXC appends "-" and a number.
func findCgroups(name string, all []hierarchy) (dirs []string) {
	b, _ := os.ReadFile("/proc/1/cgroup")
	self, _ := os.ReadFile("/proc/self/cgroup")
	for _, h := range all {
		for _, base := range bases(h, string(b)+string(self)) {
			for _, suffix := range []string{"", "-*"} {
				found, _ := filepath.Glob(filepath.Join(h.root, base, "lxc.*."+name+suffix))
				dirs = append(dirs, found...)
			}
		}
	}
	return dirs
}

// removeCgroups removes a container's groups with all that is still in them.
func removeCgroups(name string, dirs []string) error {
	slices.Sort(dirs)
	dirs = slices.Compact(dirs)
	deadline := time.Now().Add(10 * time.Second)
	for wait := time.Millisecond / 2; ; wait = min(2*wait, 20*time.Millisecond) {
		dirs = slices.DeleteFunc(dirs, func(dir string) bool { return removeCgroup(dir, name) })
		if len(dirs) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fault.Errorf(fault.Temporary, "the control group %s cannot be removed", dirs[0])
		}
		time.Sleep(wait) // a killed process is in its group until it is gone
	}
}

// bases are the folders below which LXC makes groups: where this process and
// the first one of the machine are.
func bases(h hierarchy, cgroup string) []string {
	list := []string{"/"}
	for line := range strings.Lines(cgroup) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) == 3 && (h.v2 && f[1] == "" || !h.v2 && slices.Equal(strings.Split(f[1], ","), h.controllers)) {
			list = append(list, f[2], filepath.Dir(f[2]))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// removeCgroup tells whether the group is gone. It touches none whose name is
// not the container's.
func removeCgroup(dir, name string) bool {
	if !strings.Contains(dir, "."+name) {
		return true
	}
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return true
	}
	_ = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			procs, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			for line := range strings.Lines(string(procs)) {
				if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 && pid != os.Getpid() {
					unix.Kill(pid, unix.SIGKILL)
				}
			}
			if path != dir {
				defer unix.Rmdir(path)
			}
		}
		return nil
	})
	return errors.Is(unix.Rmdir(dir), fs.ErrNotExist)
}
