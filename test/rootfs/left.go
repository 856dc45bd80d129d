package rootfs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

const slots = "/run/distci/lxc" // of containers that root has made

var ofContainer = regexp.MustCompile(`(^|\.)distci\.0\.([0-9]+)(-[0-9]+)?$`)

// Left lists what containers of a state folder have left on this machine:
// processes in whose command, or its program's path, one of the words stands, mounts, locks, folders,
// and control groups in all hierarchies. Containers that others make at the same
// time are none of it: their slots are locked.
func Left(state string, words ...string) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		exe, _ := os.Readlink(filepath.Join(filepath.Dir(f), "exe"))
		for _, w := range words {
			if strings.Contains(string(b), w) || strings.Contains(exe, w) {
				found = append(found, f+" "+strings.ReplaceAll(string(b), "\x00", " "))
				break
			}
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() && abandoned(path) {
			found = append(found, path)
		}
		return nil
	})
	noted, _ := filepath.Glob(slots + "/[0-9]*")
	for _, path := range noted {
		if b, _ := os.ReadFile(path); len(b) > 0 && free(path) {
			found = append(found, path+" "+string(b))
		}
	}
	folders, _ := filepath.Glob(state + "/*")
	for _, path := range folders {
		if !ofContainer.MatchString(filepath.Base(path)) || abandoned(path) {
			found = append(found, path)
		}
	}
	locks, _ := filepath.Glob("/run/lxc/lock/" + state + "/*")
	for _, path := range locks {
		if abandoned(path) {
			found = append(found, path)
		}
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, state+"/") {
			found = append(found, line)
		}
	}
	return found
}

// abandoned tells whether a path is a container's whose slot nobody holds.
func abandoned(path string) bool {
	m := ofContainer.FindStringSubmatch(filepath.Base(path))
	if m == nil || !free(filepath.Join(slots, m[2])) {
		return false
	}
	_, err := os.Lstat(path) // its holder may have ended in between
	return err == nil
}

func free(lock string) bool {
	f, err := os.Open(lock)
	if err != nil {
		return true
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}
