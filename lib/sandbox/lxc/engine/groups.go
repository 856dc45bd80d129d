package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// LXC makes two control groups for each container in each hierarchy, gives them
// to the container's root, and moves two processes, which takes it as long as
// everything else. So root's engine shows it none, and makes those that limits
// and counters need by itself. Of other users' containers LXC makes them, as
// only root may move another user's process.

// hide takes the hierarchies from this process's mounts. They can then be
// reached as the returned ones.
func hide(all []hierarchy) (hidden []hierarchy) {
	for _, h := range all {
		fd, err := unix.Open(h.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue // something is mounted above it
		}
		var st unix.Statfs_t
		if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.CGROUP_SUPER_MAGIC && st.Type != unix.CGROUP2_SUPER_MAGIC {
			unix.Close(fd)
			continue
		}
		h.root = fmt.Sprintf("/proc/self/fd/%d", fd)
		hidden = append(hidden, h)
	}
	for err := error(nil); err == nil; { // LXC looks nowhere else
		err = unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH)
	}
	return hidden
}

// enterGroups asserts that the container with the given PID 1 is in control
// groups of its own, and its limits in force.
func (r *run) enterGroups(pid int) (c *counters, err error) {
	if r.root {
		c, err = r.makeGroups(pid)
	} else {
		c = newCounters(pid, r.cgroups)
		for _, dir := range folders(pid, r.cgroups) {
			if !strings.Contains(dir, "/lxc.payload.") {
				r.partly = true // as it is when PID 1 has just died, whose groups of version 1 are then "/"
				continue
			}
			r.groups = append(r.groups, dir, strings.Replace(dir, "/lxc.payload.", "/lxc.monitor.", 1))
		}
	}
	if err == nil {
		err = c.check(r.spec.Limits)
	}
	return c, err
}

// makeGroups makes the container's control groups where LXC would, sets their
// limits, and moves PID 1 there, which has not started anything yet.
func (r *run) makeGroups(pid int) (*counters, error) {
	first, err := os.ReadFile("/proc/1/cgroup")
	if err != nil {
		return nil, fault.Wrap(fault.Config, err)
	}
	counters := &counters{dirs: map[string]string{}, v2: map[string]bool{}}
	for _, c := range ours {
		base, v2, err := findGroup(string(first), c, r.cgroups)
		if err != nil {
			continue // no limit needs it: see limitsPossible
		}
		base = strings.TrimSuffix(base, "/init.scope") // systemd's own
		if v2 && haveController(c, r.cgroups) == nil {
			// That it is now shared out to the groups below is seen by the limit.
			_ = os.WriteFile(filepath.Join(base, "cgroup.subtree_control"), []byte("+"+c), 0)
		}
		dir := filepath.Join(base, "lxc.payload."+r.slot.name)
		counters.dirs[c], counters.v2[c] = dir, v2
		if slices.Contains(r.groups, dir) {
			continue // one group for several controllers
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, fault.Wrap(fault.Temporary, err)
		}
		r.groups = append(r.groups, dir)
	}
	for _, i := range limitConfig(r.spec.Limits, versions(r.cgroups)) {
		_, key, _ := strings.Cut(strings.TrimPrefix(i.key, "lxc."), ".")
		controller, _, _ := strings.Cut(key, ".")
		if err := writeTo(filepath.Join(counters.dirs[controller], key), i.value); err != nil {
			return nil, fault.Errorf(fault.Config, "the limit %s cannot be set to %s: %w", key, i.value, err)
		}
	}
	for _, dir := range r.groups {
		if err := writeTo(filepath.Join(dir, "cgroup.procs"), fmt.Sprint(pid)); err != nil {
			return nil, fault.Wrap(fault.Temporary, err)
		}
	}
	return counters, nil
}

// hasten prepares the kernel for moving a process. The first move waits for
// some milliseconds until all processors have noticed that forks must now
// wait; those right after it do not. So this one, which changes nothing, is made
// while the container starts.
func (r *run) hasten() {
	if dir, _, err := groupOf(os.Getpid(), ours[0], r.cgroups); err == nil && r.root {
		_ = writeTo(filepath.Join(dir, "cgroup.procs"), fmt.Sprint(os.Getpid()))
	}
}

// writeTo writes to a file of the kernel's, which it does not make.
func writeTo(path, text string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
