package pid1

import "golang.org/x/sys/unix"

// machines are the tables of the calls that are refused, the own one first.
func machines() []machine {
	return []machine{{arch: unix.AUDIT_ARCH_AARCH64, rules: join(
		deny(unix.EPERM,
			unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_OPEN_BY_HANDLE_AT,
			unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
			unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE,
			unix.SYS_OPEN_TREE_ATTR, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK,
			unix.SYS_MOUNT_SETATTR, unix.SYS_LISTMOUNT, unix.SYS_STATMOUNT, unix.SYS_SETNS, unix.SYS_BPF,
			unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER,
			unix.SYS_IO_URING_REGISTER, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_REBOOT,
			unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ACCT, unix.SYS_QUOTACTL,
			unix.SYS_QUOTACTL_FD, unix.SYS_PIDFD_GETFD, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_SYSLOG,
			unix.SYS_FANOTIFY_INIT, unix.SYS_VHANGUP, unix.SYS_KCMP),
		deny(unix.ENOSYS,
			unix.SYS_CLONE3, unix.SYS_OPENAT2, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY),
		newNamespace(unix.SYS_CLONE, 0),
		newNamespace(unix.SYS_UNSHARE, 0),
		setID(unix.SYS_FCHMOD, 1),
		setID(unix.SYS_FCHMODAT, 2),
		setID(unix.SYS_FCHMODAT2, 2),
		setID(unix.SYS_MKNODAT, 2),
		openSetID(unix.SYS_OPENAT, 2),
		family(unix.SYS_SOCKET),
		terminal(unix.SYS_IOCTL),
	)}}
}
