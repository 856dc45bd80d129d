package pid1

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The filter refuses what no build needs and what kernels get wrong: mounts,
// modules, namespaces, bpf, io_uring, keys; set-user-id files, which would be
// the host's in the workspace; and all families of sockets but the usual. It
// is one of several walls: the container has no capabilities either.
//
// A program may trace its own children, which debuggers and leak checkers do.
// Calls of other machines than those of the tables do not exist.

// machine is the table for one instruction set.
type machine struct {
	arch  uint32
	rules []rule
}

// rule refuses a call if all conditions hold.
type rule struct {
	call  uint32
	errno unix.Errno
	when  []condition
}

// condition is about the lower half of an argument.
type condition struct {
	arg    int
	mask   uint32   // if not 0: any of these bits
	equal  uint32   // if there is no mask: this value
	noneOf []uint32 // if there are some: none of these values
}

func join(lists ...[]rule) []rule { return slices.Concat(lists...) }

func deny(e unix.Errno, calls ...uint32) []rule {
	var rules []rule
	for _, c := range calls {
		rules = append(rules, rule{call: c, errno: e})
	}
	return rules
}

func newNamespace(call uint32, arg int) []rule {
	const flags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
		unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	return []rule{{call, unix.EPERM, []condition{{arg: arg, mask: flags}}}}
}

const setIDs = unix.S_ISUID | unix.S_ISGID

func setID(call uint32, arg int) []rule {
	return []rule{{call, unix.EPERM, []condition{{arg: arg, mask: setIDs}}}}
}

// openSetID knows that the mode means nothing unless a file may be made.
func openSetID(call uint32, flags int) []rule {
	return []rule{{call, unix.EPERM, []condition{{arg: flags, mask: unix.O_CREAT}, {arg: flags + 1, mask: setIDs}}}}
}

func family(call uint32) []rule {
	known := []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}
	return []rule{{call, unix.EAFNOSUPPORT, []condition{{arg: 0, noneOf: known}}}}
}

// terminal keeps input from being typed into somebody's terminal.
func terminal(call uint32) []rule {
	return join(equal(call, 1, unix.TIOCSTI, unix.EPERM), equal(call, 1, unix.TIOCLINUX, unix.EPERM))
}

func equal(call uint32, arg int, value uint32, e unix.Errno) []rule {
	return []rule{{call, e, []condition{{arg: arg, equal: value}}}}
}

const (
	retAllow = unix.SECCOMP_RET_ALLOW
	retErrno = unix.SECCOMP_RET_ERRNO
	load     = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	and      = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	jumpEq   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	jumpGe   = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	jump     = unix.BPF_JMP | unix.BPF_JA
	ret      = unix.BPF_RET | unix.BPF_K

	offCall = 0 // in struct seccomp_data
	offArch = 4
	offArgs = 16

	x32 = 0x40000000 // the bit of the calls of the x32 machine, whose tables are amd64's otherwise
)

// program assembles the filter.
func program(machines []machine) []unix.SockFilter {
	p := []unix.SockFilter{{Code: load, K: offArch}}
	for _, m := range machines {
		body := []unix.SockFilter{{Code: load, K: offCall}}
		if m.arch == unix.AUDIT_ARCH_X86_64 {
			body = append(body, unix.SockFilter{Code: jumpGe, Jf: 1, K: x32}, refuse(unix.ENOSYS))
		}
		for _, r := range m.rules {
			body = append(body, r.assemble()...)
		}
		body = append(body, unix.SockFilter{Code: ret, K: retAllow})
		p = append(p, unix.SockFilter{Code: jumpEq, Jt: 1, K: m.arch}, unix.SockFilter{Code: jump, K: uint32(len(body))})
		p = append(p, body...)
	}
	return append(p, refuse(unix.ENOSYS))
}

func refuse(e unix.Errno) unix.SockFilter {
	return unix.SockFilter{Code: ret, K: retErrno | uint32(e)}
}

// assemble expects the call's number in the accumulator, and leaves it there.
func (r rule) assemble() []unix.SockFilter {
	p := []unix.SockFilter{refuse(r.errno)}
	if len(r.when) > 0 {
		p = append(p, unix.SockFilter{Code: load, K: offCall}) // where a condition that fails goes to
	}
	for _, c := range slices.Backward(r.when) {
		// Past the rest of the conditions and the refusal.
		out := uint8(len(p) - 1)
		test := []unix.SockFilter{{Code: load, K: uint32(offArgs + 8*c.arg)}} // little-endian: the lower half first
		switch {
		case c.mask != 0:
			test = append(test, unix.SockFilter{Code: and, K: c.mask}, unix.SockFilter{Code: jumpEq, Jt: out, K: 0})
		case c.noneOf != nil:
			for i, v := range c.noneOf {
				test = append(test, unix.SockFilter{Code: jumpEq, Jt: out + uint8(len(c.noneOf)-1-i), K: v})
			}
		default:
			test = append(test, unix.SockFilter{Code: jumpEq, Jf: out, K: c.equal})
		}
		p = append(test, p...)
	}
	return append([]unix.SockFilter{{Code: jumpEq, Jf: uint8(len(p)), K: r.call}}, p...)
}

// filterCalls installs the filter in all threads.
func filterCalls() error {
	tables := machines()
	if len(tables) == 0 {
		return fmt.Errorf("seccomp filter: there is no table for %s", runtime.GOARCH)
	}
	p := program(tables)
	fprog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&fprog)))
	if errno == 0 && thread != 0 {
		errno = unix.EBUSY
	}
	if errno != 0 {
		return fmt.Errorf("seccomp filter: %w", errno)
	}
	return nil
}
