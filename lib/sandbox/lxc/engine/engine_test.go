package engine

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/distci/distci/lib/sandbox"
)

const (
	v1 = `31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
`
	unified = "35 30 0:31 / /sys/fs/cgroup/unified rw,relatime shared:1 - cgroup2 cgroup2 rw\n"
	pure    = "35 30 0:31 / /sys/fs/cgroup rw,relatime shared:1 - cgroup2 cgroup2 rw,nsdelegate\n"
)

// TestLayouts finds groups and chooses keys on machines with control groups of
// version 1, of version 2, and of both.
func TestLayouts(t *testing.T) {
	groups := "4:cpu,cpuacct:/a\n3:memory:/m\n2:pids:/p\n1:name=systemd:/s\n0::/u\n"
	for name, c := range map[string]struct {
		mounts, groups, memory string
		v2                     bool
	}{
		"V1":     {v1, groups, "/sys/fs/cgroup/memory/m", false},
		"Hybrid": {v1 + unified, groups, "/sys/fs/cgroup/memory/m", false},
		"V2":     {pure, "0::/lxc.payload.x\n", "/sys/fs/cgroup/lxc.payload.x", true},
	} {
		t.Run(name, func(t *testing.T) {
			all := hierarchies(c.mounts)
			dir, v2, err := findGroup(c.groups, "memory", all)
			if err != nil || dir != c.memory || v2 != c.v2 {
				t.Errorf("the memory's group is %s, version 2 %v, %v", dir, v2, err)
			}
			key := "lxc.cgroup.memory.limit_in_bytes"
			if c.v2 {
				key = "lxc.cgroup2.memory.max"
			}
			items := limitConfig(sandbox.Limits{Memory: 1 << 30, CPUs: 1.5, Processes: 10}, versions(all))
			if !slices.Contains(items, item{key, "1073741824"}) {
				t.Errorf("no %s in %v", key, items)
			}
			cpu := item{"lxc.cgroup.cpu.cfs_quota_us", "150000"}
			if c.v2 {
				cpu = item{"lxc.cgroup2.cpu.max", "150000 100000"}
			}
			if !slices.Contains(items, cpu) {
				t.Errorf("no %v in %v", cpu, items)
			}
		})
	}
	if _, _, err := findGroup("1:name=systemd:/s\n", "memory", hierarchies(v1)); err == nil {
		t.Error("found a group of memory where there is none")
	}
}

func TestHostAddress(t *testing.T) {
	for bridge, want := range map[string][]string{
		"10.0.3.1/24": {"10.0.3.254", "10.0.3.253"}, "10.0.3.254/24": {"10.0.3.253", "10.0.3.252"}, "192.168.1.1/30": {"192.168.1.2", ""},
	} {
		for n, w := range want {
			a, err := hostAddress(netip.MustParsePrefix(bridge), n)
			if (err == nil) != (w != "") || err == nil && a.String() != w {
				t.Errorf("%s, container %d: %v, %v; want %s", bridge, n, a, err, w)
			}
		}
	}
}

func TestRemoveCgroupTouchesNoOther(t *testing.T) {
	dir := t.TempDir() + "/lxc.payload.distci.0.1"
	if !removeCgroup(dir, "distci.0.2") {
		t.Error("it tried to remove a group of another container")
	}
}
