package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// item is one line of LXC's configuration.
type item struct{ key, value string }

// Where PID 1 and its socket are inside: /dev is always a tmpfs, so this works
// whatever the image holds.
const (
	initPath   = "/dev/.distci/init"
	socketPath = "/dev/.distci/socket"
)

// hidden is masked inside, where it exists: what tells about the host or works
// on it although the container's root may not.
var hidden = []string{
	"/proc/acpi", "/proc/asound", "/proc/bus", "/proc/config.gz", "/proc/fs", "/proc/irq", "/proc/kallsyms", "/proc/kcore", "/proc/keys",
	"/proc/key-users", "/proc/kmsg", "/proc/kpagecount", "/proc/kpageflags", "/proc/latency_stats", "/proc/modules", "/proc/sched_debug",
	"/proc/scsi", "/proc/slabinfo", "/proc/sysrq-trigger", "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
	"/sys/firmware", "/sys/fs", "/sys/hypervisor", "/sys/kernel", "/sys/module", "/sys/power", "/sys/devices/virtual/powercap", "/sys/devices/virtual/dmi",
}

// escape makes a path safe in a line of fstab's form.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(path)
}

// config is the container's.
func (r *run) config() []item {
	entry := func(source, target, options string) item {
		return item{"lxc.mount.entry", fmt.Sprintf("%s %s none %s 0 0", escape(source), escape(strings.TrimPrefix(target, "/")), options)}
	}
	tmpfs := func(target, options string) item {
		return item{"lxc.mount.entry", "tmpfs " + escape(strings.TrimPrefix(target, "/")) + " tmpfs " + options + " 0 0"}
	}
	size := ""
	if r.spec.Limits.Memory > 0 {
		size = fmt.Sprintf(",size=%d", r.spec.Limits.Memory)
	}
	root := "userxattr,nosuid,nodev"
	if r.root { // who can remove what this leaves in the layer
		root += ",volatile" // else the end would write out all that the disk's file system has
	}
	if r.spec.ReadOnly {
		root += ",ro"
	}
	auto := "proc:mixed sys:ro"
	if r.spec.Network == "host" {
		auto = "proc:mixed" // the host's network is not the container's to show in /sys
	}
	items := []item{
		{"lxc.log.file", r.log()}, {"lxc.log.level", "ERROR"},
		{"lxc.uts.name", "distci"},
		{"lxc.rootfs.path", "overlay:" + r.lower() + ":" + r.upper()},
		{"lxc.rootfs.options", root},
		{"lxc.mount.auto", auto},
		{"lxc.tty.max", "0"}, {"lxc.pty.max", "256"}, {"lxc.console.path", "none"},
		{"lxc.no_new_privs", "1"},
		// PID 1 becomes another user to start the program, kills it, and
		// gives up the capabilities of all that it starts, its own first.
		{"lxc.cap.keep", "kill setuid setgid setpcap"},
		{"lxc.prlimit.core", "0"},
		{"lxc.environment", "GOMAXPROCS=1"}, // of PID 1, which has little to do

		tmpfs("/tmp", "rw,nosuid,nodev,mode=1777"+size),
		tmpfs("/dev/shm", "rw,nosuid,nodev,mode=1777,create=dir"+size),
		entry(r.initFile(), initPath, "bind,ro,nosuid,nodev,create=file"),
		entry(r.socket(), socketPath, "bind,nosuid,nodev,noexec,create=file"),
	}
	for _, m := range r.mounts {
		items = append(items, entry(m.from, m.target, m.options))
	}
	for _, path := range hidden {
		fi, err := os.Lstat(path)
		switch {
		case err != nil || fi.Mode()&os.ModeSymlink != 0 || !fi.IsDir() && fi.Mode()&0o006 == 0 || // root's of the host, who is not inside
			strings.HasPrefix(path, "/sys/") && auto == "proc:mixed":
		case fi.IsDir():
			items = append(items, entry(r.empty(), path, "bind,ro,optional"))
		default:
			items = append(items, entry("/dev/null", path, "bind,ro,optional"))
		}
	}
	items = append(items, system{}.apparmor()...)
	items = append(items, r.idmap()...)
	if !r.root { // who makes the control groups itself
		items = append(items, limitConfig(r.spec.Limits, versions(r.cgroups))...)
	}
	return append(items, r.network...)
}

// idmap gives the container its range. Without root's power to map mounts,
// this user's own ids are the program's: so it owns the workspace.
func (r *run) idmap() []item {
	one := func(what string, own, at uint32) []item {
		line := func(inside, host, n uint32) item {
			return item{"lxc.idmap", fmt.Sprintf("%s %d %d %d", what, inside, host, n)}
		}
		if r.root {
			return []item{line(0, r.slot.ids, rangeSize)}
		}
		items := []item{line(at, own, 1)}
		if at > 0 {
			items = append(items, line(0, r.slot.ids, at))
		}
		return append(items, line(at+1, r.slot.ids+at+1, rangeSize-at-1))
	}
	return append(one("u", uint32(os.Geteuid()), r.uid), one("g", uint32(os.Getegid()), r.gid)...)
}

func (r *run) empty() string  { return filepath.Join(r.points(), "empty") }
func (r *run) log() string    { return filepath.Join(r.points(), "lxc.log") }
func (r *run) socket() string { return filepath.Join(r.points(), "socket") }
func (r *run) upper() string  { return filepath.Join(r.dir, "root", "upper") }

// points is the folder for all that is no layer of the root file system.
func (r *run) points() string {
	if r.root {
		return filepath.Join(r.dir, "m") // in memory
	}
	return r.dir
}
