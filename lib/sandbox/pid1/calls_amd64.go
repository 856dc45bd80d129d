package pid1

import "golang.org/x/sys/unix"

// machines are the tables of the calls that are refused, the own one first.
func machines() []machine {
	return []machine{{arch: unix.AUDIT_ARCH_X86_64, rules: join(
		deny(unix.EPERM,
			unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_OPEN_BY_HANDLE_AT,
			unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE,
			unix.SYS_CREATE_MODULE, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_MOVE_MOUNT,
			unix.SYS_OPEN_TREE, unix.SYS_OPEN_TREE_ATTR, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT,
			unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_LISTMOUNT, unix.SYS_STATMOUNT, unix.SYS_SETNS,
			unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_IO_URING_SETUP,
			unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, unix.SYS_SWAPON, unix.SYS_SWAPOFF,
			unix.SYS_REBOOT, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_ACCT, unix.SYS_QUOTACTL,
			unix.SYS_QUOTACTL_FD, unix.SYS_PIDFD_GETFD, unix.SYS_LOOKUP_DCOOKIE, unix.SYS_SYSLOG,
			unix.SYS_FANOTIFY_INIT, unix.SYS_VHANGUP, unix.SYS_IOPL, unix.SYS_IOPERM, unix.SYS_KCMP),
		deny(unix.ENOSYS,
			unix.SYS_CLONE3, unix.SYS_OPENAT2, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY),
		newNamespace(unix.SYS_CLONE, 0),
		newNamespace(unix.SYS_UNSHARE, 0),
		setID(unix.SYS_CHMOD, 1),
		setID(unix.SYS_FCHMOD, 1),
		setID(unix.SYS_FCHMODAT, 2),
		setID(unix.SYS_FCHMODAT2, 2),
		setID(unix.SYS_CREAT, 1),
		setID(unix.SYS_MKNOD, 1),
		setID(unix.SYS_MKNODAT, 2),
		openSetID(unix.SYS_OPEN, 1),
		openSetID(unix.SYS_OPENAT, 2),
		family(unix.SYS_SOCKET),
		terminal(unix.SYS_IOCTL),
	)}, {arch: unix.AUDIT_ARCH_I386, rules: join( // by number: the names are those of the own machine
		deny(unix.EPERM,
			283, 342, 341, 128, 350, 129, 127, 21, 22, 52, 217, 429, 428, 467, 430, 431, 432, 433, 442, 458, 457,
			346, 357, 336, 374, 425, 426, 427, 87, 115, 88, 79, 25, 264, 404, 51, 131, 443, 438, 253, 103, 338,
			111, 110, 101, 349),
		deny(unix.ENOSYS,
			435, 437, 288, 286, 287),
		newNamespace(120, 0),
		newNamespace(310, 0),
		setID(15, 1),
		setID(94, 1),
		setID(306, 2),
		setID(452, 2),
		setID(8, 1),
		setID(14, 1),
		setID(297, 2),
		openSetID(5, 1),
		openSetID(295, 2),
		family(359),
		terminal(54),
		equal(102, 0, 1, unix.ENOSYS), // socketcall(SYS_SOCKET, …) hides the family
	)}}
}
