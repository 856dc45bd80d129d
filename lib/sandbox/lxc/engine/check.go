package engine

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// Check tells what is missing here, if anything: an error of kind Config that
// says what to do. What only shows when a container starts it does not find.
func Check() error {
	var missing []string
	if !haveLXC {
		missing = append(missing, "distci-lxc was built without LXC: install liblxc's development files (Debian: lxc lxc-dev, a C compiler, pkg-config) and run make again")
	}
	if _, err := os.Stat("/proc/self/ns/user"); err != nil {
		missing = append(missing, "the kernel has no user namespaces (CONFIG_USER_NS)")
	}
	for _, file := range []string{"/proc/sys/user/max_user_namespaces", "/proc/sys/kernel/unprivileged_userns_clone"} {
		if b, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(b)) == "0" && (os.Geteuid() != 0 || strings.HasSuffix(file, "namespaces")) {
			missing = append(missing, "user namespaces are switched off: "+file+" is 0")
		}
	}
	if b, err := os.ReadFile("/proc/filesystems"); err == nil && !strings.Contains(string(b), "\toverlay\n") {
		missing = append(missing, "the kernel has no overlay file system: modprobe overlay (CONFIG_OVERLAY_FS)")
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, 0); errors.Is(errno, unix.ENOSYS) {
		missing = append(missing, "the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)")
	}
	if os.Geteuid() == 0 {
		if !haveCapability(unix.CAP_SYS_ADMIN) {
			missing = append(missing, "root lacks CAP_SYS_ADMIN here, as in most containers")
		} else if err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); errors.Is(err, unix.ENOSYS) {
			missing = append(missing, "the kernel is older than Linux 5.12 and cannot map the ids of mounts")
		}
	} else if _, err := idRanges(0); err != nil {
		missing = append(missing, err.Error())
	}
	if len(missing) == 0 {
		return nil
	}
	return fault.Errorf(fault.Config, "containers cannot be made here: %s", strings.Join(missing, "; "))
}

func haveCapability(c int) bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&h, &data[0]); err != nil {
		return false
	}
	return data[c/32].Effective&(1<<(c%32)) != 0
}
