// Command probe tries one thing that a container must not allow, and prints
// "allowed", or the error. It is for the inside of test containers.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(64)
	}
	arg := func(n int) string {
		if len(os.Args) > n {
			return os.Args[n]
		}
		return ""
	}
	err := try(os.Args[1], arg(2), arg(3))
	var errno syscall.Errno
	switch {
	case err == nil:
		fmt.Println("allowed")
	case errors.As(err, &errno):
		fmt.Println(unix.ErrnoName(errno))
	default:
		fmt.Println(err)
	}
}

// call makes a system call and closes what it may have opened.
func call(number uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	_, _, errno := unix.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return errno
	}
	return nil
}

func text(s string) uintptr {
	b := append([]byte(s), 0)
	return uintptr(unsafe.Pointer(&b[0]))
}

func try(what, a, b string) error {
	var buf [256]byte
	p := uintptr(unsafe.Pointer(&buf[0]))
	if err, known := plant(what, a, b); known {
		return err
	}
	switch what {
	case "mount":
		return unix.Mount("tmpfs", a, "tmpfs", 0, "")
	case "umount":
		return unix.Unmount(a, unix.MNT_DETACH)
	case "remount":
		return unix.Mount("", a, "", unix.MS_REMOUNT|unix.MS_BIND, "")
	case "fsopen":
		_, err := unix.Fsopen("tmpfs", 0)
		return err
	case "open_tree":
		_, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE)
		return err
	case "pivot_root":
		return unix.PivotRoot(a, a)
	case "chroot":
		return unix.Chroot("/")
	case "unshare-user":
		return unix.Unshare(unix.CLONE_NEWUSER)
	case "unshare-net":
		return unix.Unshare(unix.CLONE_NEWNET)
	case "clone-user":
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		if pid == 0 {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
		return nil
	case "clone3":
		return call(unix.SYS_CLONE3, p, 0)
	case "setns":
		f, err := os.Open("/proc/self/ns/net")
		if err != nil {
			return err
		}
		return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
	case "module":
		return unix.FinitModule(0, "", 0)
	case "init_module":
		return unix.InitModule(buf[:], "")
	case "kexec":
		return call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0)
	case "bpf":
		return call(unix.SYS_BPF, 0, p, 48)
	case "perf":
		return call(unix.SYS_PERF_EVENT_OPEN, p, 0, ^uintptr(0), ^uintptr(0), 0)
	case "keyctl":
		_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, true)
		return err
	case "add_key":
		_, err := unix.AddKey("user", "probe", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
		return err
	case "io_uring":
		return call(unix.SYS_IO_URING_SETUP, 1, p)
	case "userfaultfd":
		return call(unix.SYS_USERFAULTFD, 1)
	case "ptrace":
		pid, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		return unix.PtraceAttach(pid)
	case "memory":
		pid, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		_, err = unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &buf[0], Len: 8}}, []unix.RemoteIovec{{Base: uintptr(p), Len: 8}}, 0)
		return err
	case "socket":
		families := map[string][3]int{
			"raw": {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, "packet": {unix.AF_PACKET, unix.SOCK_RAW, 0},
			"vsock": {unix.AF_VSOCK, unix.SOCK_STREAM, 0}, "alg": {unix.AF_ALG, unix.SOCK_SEQPACKET, 0}, "inet": {unix.AF_INET, unix.SOCK_STREAM, 0},
		}
		f := families[a]
		_, err := unix.Socket(f[0], f[1], f[2])
		return err
	case "connect":
		c, err := net.DialTimeout(a, b, 3*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	case "mknod":
		return unix.Mknod(a, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
	case "mknod-block":
		return unix.Mknod(a, unix.S_IFBLK|0o666, int(unix.Mkdev(254, 0)))
	case "chmod":
		return unix.Chmod(a, 0o4755)
	case "chmod-gid":
		return unix.Chmod(a, 0o2755)
	case "fchmod":
		f, err := os.Open(a)
		if err != nil {
			return err
		}
		return unix.Fchmod(int(f.Fd()), 0o4755)
	case "fchmodat2":
		return call(unix.SYS_FCHMODAT2, ^uintptr(99), text(a), 0o4755, 0) // AT_FDCWD
	case "create-setuid":
		fd, err := unix.Open(a, unix.O_CREAT|unix.O_WRONLY, 0o4755)
		if err == nil {
			unix.Close(fd)
		}
		return err
	case "openat2":
		_, err := unix.Openat2(unix.AT_FDCWD, a, &unix.OpenHow{Flags: unix.O_CREAT | unix.O_WRONLY, Mode: 0o4755})
		return err
	case "chown":
		return unix.Chown(a, 0, 0)
	case "setuid":
		return unix.Setuid(0)
	case "setcap":
		return unix.Setxattr(a, "security.capability", []byte("\x01\x00\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
	case "reboot":
		return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF)
	case "settime":
		return unix.Settimeofday(&unix.Timeval{Sec: 1})
	case "syslog":
		_, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf[:])
		return err
	case "open":
		f, err := os.OpenFile(a, os.O_RDONLY, 0)
		if err == nil {
			_, err = f.Read(buf[:])
			f.Close()
		}
		return err
	case "write":
		f, err := os.OpenFile(a, os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(b)
			f.Close()
		}
		return err
	case "kill":
		pid, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		return unix.Kill(pid, unix.SIGKILL)
	case "hostname":
		return unix.Sethostname([]byte("probe"))
	case "nice":
		return unix.Setpriority(unix.PRIO_PROCESS, 0, -10)
	case "sti":
		return call(unix.SYS_IOCTL, 0, unix.TIOCSTI, p)
	case "handle":
		_, _, err := unix.NameToHandleAt(unix.AT_FDCWD, "/", 0)
		return err
	case "files":
		n := 0
		for ; n < 10_000_000; n++ {
			if _, err := unix.Open("/dev/null", unix.O_RDONLY, 0); err != nil {
				return err
			}
		}
		return nil
	case "allocate":
		n, err := strconv.Atoi(a)
		if err != nil {
			return err
		}
		m := make([]byte, n)
		for i := 0; i < len(m); i += 4096 {
			m[i] = 1
		}
		return nil
	case "core":
		var l unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil || l.Max != 0 {
			return err
		}
		return unix.EPERM
	}
	return fmt.Errorf("probe: what is %q?", what)
}
