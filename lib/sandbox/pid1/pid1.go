// Package pid1 is the first process in a container: it runs one program,
// reaps, and tells how the program ended.
//
// When the process that made the container goes away, however it died, the
// socket to it ends, and so does this process, and with it, by the kernel's
// hand, everything in the container.
package pid1

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/wire"
)

// Main talks with who listens at the socket of the given path until that is
// gone, and returns an exit status.
func Main(path string) int {
	defaultSignals()
	socket, err := dial(path)
	if err != nil {
		return fault.Internal.Status()
	}
	files, err := wire.TakeFiles(socket, 3)
	if err != nil {
		return fault.Internal.Status()
	}
	var start wire.Start
	control := json.NewDecoder(socket)
	if err := control.Decode(&start); err != nil {
		return fault.Internal.Status()
	}
	out := json.NewEncoder(socket)
	pid, err := run(start, files)
	for _, f := range files {
		f.Close()
	}
	if err != nil {
		_ = out.Encode(wire.Message{End: &wire.End{Error: err.Error(), Fault: fault.Of(err)}})
		obey(control, 0)
		return 0
	}
	_ = out.Encode(wire.Message{Started: &wire.Started{PID: pid}})
	go func() {
		obey(control, pid)
		os.Exit(fault.Lost.Status() + int(unix.SIGKILL))
	}()
	end := reap(pid)
	_ = out.Encode(wire.Message{End: &end})
	select {} // the counters of the container are being read; obey ends this
}

// defaultSignals undoes Go's handlers: the kernel spares a container's first
// process the signals that have none, and the program is to inherit the default.
func defaultSignals() {
	var byDefault [4]uint64 // longer than the kernel's struct sigaction
	for n := uintptr(1); n <= 64; n++ {
		unix.RawSyscall6(unix.SYS_RT_SIGACTION, n, uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
	}
}

func dial(path string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// obey passes signals on until the socket ends.
func obey(control *json.Decoder, pid int) {
	for {
		var m wire.Signal
		if control.Decode(&m) != nil {
			return
		}
		if pid > 0 && m.Signal > 0 {
			unix.Kill(-pid, syscall.Signal(m.Signal))
		}
	}
}

// run gives up what the program must not have, and starts it.
func run(s wire.Start, files []*os.File) (int, error) {
	if len(s.Args) == 0 {
		return 0, fault.Errorf(fault.Internal, "no program given")
	}
	oom := openOOM()
	defer oom.Close()
	runtime.LockOSThread() // the program inherits what confine does to this thread
	defer runtime.UnlockOSThread()
	if err := confine(); err != nil {
		return 0, fault.Errorf(fault.Config, "%w", err)
	}
	if err := setLimits(s); err != nil {
		return 0, fault.Errorf(fault.Config, "%w", err)
	}
	if fi, err := os.Stat(s.Dir); err != nil {
		return 0, fault.Errorf(fault.Config, "%s: %w", s.Args[0], err)
	} else if !fi.IsDir() {
		return 0, fault.Errorf(fault.Config, "%s: %w", s.Args[0], &fs.PathError{Op: "chdir", Path: s.Dir, Err: unix.ENOTDIR})
	}
	path, err := sandbox.LookPath(s.Args[0], s.Env)
	if err != nil {
		return 0, fault.Errorf(fault.MissingTool, "%w", err)
	}
	// What the kernel kills first when memory runs out is the program and its
	// children, not this process, which is to tell about it. The program may
	// take that back, to its own harm. Lowering it again needs no privilege.
	oom.WriteString("500")
	pid, err := syscall.ForkExec(path, s.Args, &syscall.ProcAttr{
		Dir: s.Dir, Env: s.Env, Files: []uintptr{files[0].Fd(), files[1].Fd(), files[2].Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: s.UID, Gid: s.GID}},
	})
	oom.WriteString("0")
	if err != nil {
		return 0, fault.Errorf(sandbox.StartFault(err), "%s: %w", s.Args[0], err)
	}
	return pid, nil
}

// openOOM opens the file by which this process is spared. Once nobody may look
// into it, neither may itself. A kernel without it loses little.
func openOOM() *os.File {
	f, err := os.OpenFile("/proc/self/oom_score_adj", os.O_WRONLY, 0)
	if err != nil {
		f, _ = os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	return f
}

func setLimits(s wire.Start) error {
	for _, l := range []struct {
		what  int
		name  string
		limit uint64
	}{{unix.RLIMIT_NOFILE, "files", s.Files}, {unix.RLIMIT_FSIZE, "file size", s.FileSize}} {
		var now unix.Rlimit
		if l.limit == 0 || unix.Getrlimit(l.what, &now) == nil && now.Max <= l.limit {
			continue
		}
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.limit, Max: l.limit}); err != nil {
			return fmt.Errorf("limit on %s: %w", l.name, err)
		}
	}
	return nil
}

// reap waits for the program, then kills whatever else there is.
func reap(pid int) wire.End {
	var ws unix.WaitStatus
	var ru unix.Rusage
	for {
		w, err := unix.Wait4(-1, &ws, 0, &ru)
		if w == pid {
			break
		}
		if err != nil && err != unix.EINTR {
			return wire.End{Error: "waiting for the program: " + err.Error(), Fault: fault.Internal}
		}
	}
	end := wire.End{WaitStatus: uint32(ws), User: span(ru.Utime), System: span(ru.Stime), MaxRSS: ru.Maxrss << 10}
	if _, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err == unix.ECHILD {
		return end
	}
	end.Leftovers = others()
	for {
		unix.Kill(-1, unix.SIGKILL)
		if _, err := unix.Wait4(-1, nil, 0, nil); err == unix.ECHILD {
			return end
		}
	}
}

// others counts the living processes besides this one.
func others() int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	n := 0
	for _, e := range entries {
		if c := e.Name()[0]; c < '0' || c > '9' || e.Name() == "1" {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if _, rest, ok := strings.Cut(string(b), ") "); err == nil && ok && !strings.HasPrefix(rest, "Z") {
			n++
		}
	}
	return n
}
