package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// forUser is what is missing for another user than root.
func (s system) forUser() (missing []string) {
	if s.read("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
		missing = append(missing, "user namespaces are root's alone: sysctl -w kernel.unprivileged_userns_clone=1")
	}
	if s.read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1" && s.read("/proc/self/attr/current") == "unconfined" {
		exe, err := os.Executable()
		if err != nil {
			exe = "/usr/local/bin/distci-lxc"
		}
		missing = append(missing, "AppArmor gives distci-lxc no rights in user namespaces: make /etc/apparmor.d/distci-lxc with "+
			"\"abi <abi/4.0>, profile distci-lxc "+exe+" flags=(unconfined) { userns, }\" and run apparmor_parser -r on it, "+
			"or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
	}
	var version unix.Utsname
	if err := unix.Uname(&version); err == nil {
		if release := unix.ByteSliceToString(version.Release[:]); olderThan(release, 5, 11) {
			missing = append(missing, "the kernel "+release+" is older than Linux 5.11, from which on users can mount an overlay file system")
		}
	}
	if v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && v == 1 {
		return append(missing, "newuidmap and newgidmap cannot become root, as this process has no_new_privs: in a systemd unit, NoNewPrivileges=no")
	}
	for _, name := range []string{"newuidmap", "newgidmap"} {
		if what := helperMissing(name); what != "" {
			missing = append(missing, what)
		}
	}
	return missing
}

// helperMissing says why a program that maps ids for users would not do.
func helperMissing(name string) string {
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return name + ": not permitted: chmod 4755 it"
		}
		return "there is no " + name + " in PATH: install it (Debian: uidmap)"
	}
	fi, err := os.Stat(path)
	if err != nil {
		return err.Error()
	}
	var file unix.Statfs_t
	if unix.Statfs(path, &file) == nil && file.Flags&unix.ST_NOSUID != 0 {
		return path + " cannot become root, as it is on a file system mounted nosuid"
	}
	if n, err := unix.Getxattr(path, "security.capability", nil); err == nil && n > 0 {
		return "" // some distributions give it two capabilities instead
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 || fi.Mode()&fs.ModeSetuid == 0 {
		return path + " is not set-user-ID root: chown root " + path + "; chmod 4755 " + path
	}
	return ""
}

// olderThan compares a kernel's release, as "6.1.0-13-amd64".
func olderThan(release string, major, minor int) bool {
	var a, b int
	if n, _ := fmt.Sscanf(release, "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a < major || a == major && b < minor
}

// nearest is the folder, or that which would hold it.
func nearest(dir string) string {
	for {
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}
