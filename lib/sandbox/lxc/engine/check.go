package engine

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// Check tells what is missing here, if anything: an error of kind Config that
// says what to do. Containers must be able to reach the folders, which need not
// be there yet. What only shows when a container starts Check does not find.
func Check(folders ...string) error {
	var missing []string
	if !haveLXC {
		missing = append(missing, "distci-lxc was built without LXC: install liblxc's development files (Debian: lxc lxc-dev, a C compiler, pkg-config) and run make again")
	}
	here := system{}
	missing = append(missing, here.kernel()...)
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, 0); errors.Is(errno, unix.ENOSYS) {
		missing = append(missing, "the kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)")
	}
	if os.Geteuid() == 0 {
		if !haveCapability(unix.CAP_SYS_ADMIN) {
			missing = append(missing, "root lacks CAP_SYS_ADMIN here, as in most containers")
		} else if err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); errors.Is(err, unix.ENOSYS) {
			missing = append(missing, "the kernel is older than Linux 5.12 and cannot map the ids of mounts")
		}
	} else {
		missing = append(missing, here.forUser()...)
		if _, err := idRanges(0); err != nil {
			missing = append(missing, err.Error())
		}
		for _, dir := range folders {
			if err := reachable(nearest(dir)); err != nil {
				missing = append(missing, err.Error())
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fault.Errorf(fault.Config, "containers cannot be made here: %s", strings.Join(missing, "; "))
}

// system is where the machine's settings are looked up.
type system struct {
	root string // a folder instead of the real root, for tests
}

func (s system) read(path string) string {
	b, _ := os.ReadFile(s.root + path) // a setting that this kernel does not have is none
	return strings.TrimSpace(string(b))
}

// kernel is what the kernel does not have, or does not allow, whoever asks.
func (s system) kernel() (missing []string) {
	if _, err := os.Stat(s.root + "/proc/self/ns/user"); err != nil {
		missing = append(missing, "the kernel has no user namespaces (CONFIG_USER_NS)")
	}
	if s.read("/proc/sys/user/max_user_namespaces") == "0" {
		missing = append(missing, "user namespaces are switched off: sysctl -w user.max_user_namespaces=10000")
	}
	if list := s.read("/proc/filesystems"); list != "" && !strings.Contains(list+"\n", "\toverlay\n") && !s.loadsOverlay() {
		missing = append(missing, "the kernel has no overlay file system: modprobe overlay (CONFIG_OVERLAY_FS)")
	}
	return missing
}

// loadsOverlay tells whether the kernel loads the overlay file system when it is
// first used, as it does on a machine that has just started. Root uses it here;
// from others the list of modules must do, which some units hide.
func (s system) loadsOverlay() bool {
	if os.Geteuid() == 0 && s.root == "" {
		fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
		if err == nil {
			unix.Close(fd)
		}
		return !errors.Is(err, unix.ENODEV)
	}
	var version unix.Utsname
	if err := unix.Uname(&version); err != nil {
		return false
	}
	return strings.Contains(s.read("/lib/modules/"+unix.ByteSliceToString(version.Release[:])+"/modules.dep"), "/overlay.ko")
}

func haveCapability(c int) bool {
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&h, &data[0]); err != nil {
		return false
	}
	return data[c/32].Effective&(1<<(c%32)) != 0
}
