// Package wire is what the processes around a container tell each other.
//
//	worker ── Request, Stop ──▶ distci-lxc ── Start, Signal ──▶ distci-init
//	       ◀──── Reply ──────              ◀────── End ──────   (PID 1 inside)
//
// Each line is a unix socket that carries JSON values, one socket for each
// container; its end means that the process at the other side is gone, and
// ends everything on this side.
//
// A distci-lxc makes containers one after the other: at its [ControlFD] it
// gets each one's socket and streams. When that ends, it ends.
package wire

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
)

// ControlFD is the descriptor on which distci-lxc gets the sockets of
// containers, with the standard input, output and error of their programs.
const ControlFD = 3

// Request asks for one program in one fresh container.
type Request struct {
	Spec   Spec
	Images string // folder of the image store
	State  string // folder for what containers need on disk
	Root   string // the root file system, a folder; empty: Spec.Image names it
	Init   string // the program that is PID 1
	Ids    uint32 // first id of the ranges for containers; 0 is the default
	Keep   bool   // leave the root file system's changes where they are
	Own    bool   // this program is in a mount namespace of its own
}

// Spec is what of a [sandbox.Spec] can be written down.
type Spec struct {
	Args, Env []string
	Dir       string
	Mounts    []sandbox.Mount
	Image     string
	ReadOnly  bool
	Network   string
	User      string
	Limits    sandbox.Limits
}

// Stop asks to end the program: SIGTERM, and SIGKILL after the grace.
type Stop struct{ Grace time.Duration }

// Reply tells how it went. Error is empty if the program was run.
type Reply struct {
	Result sandbox.Result
	Stats  Stats
	Error  string
	Fault  fault.Kind
}

// Stats is what is known about a container that is gone.
type Stats struct {
	Status     int     `json:"status"`
	Signal     int     `json:"signal,omitempty"`
	OOM        bool    `json:"oom,omitempty"`
	DiskFull   bool    `json:"disk_full,omitempty"` // ended for using too much disk
	User       float64 `json:"user_seconds"`        // processor time of all processes
	System     float64 `json:"system_seconds"`      //
	MaxRSS     int64   `json:"max_rss_bytes"`       // of the largest process
	PeakMemory int64   `json:"peak_memory_bytes"`   // of all together, with what they cache; 0 if it was not measured
	Start      float64 `json:"start_seconds"`       // from the request to the program's start
	Run        float64 `json:"run_seconds"`         // from there to its end
	Stop       float64 `json:"stop_seconds"`        // from there until nothing was left
	Kept       string  `json:"kept,omitempty"`      // the folder with the changed root file system
	Leftovers  int     `json:"leftovers,omitempty"` // processes that outlived the program, and were killed
	Container  string  `json:"container,omitempty"` // its name
	IDs        uint32  `json:"first_id,omitempty"`  // the host's id for the container's 0
}

// Start is the first that distci-init hears, with three descriptors.
type Start struct {
	Args, Env []string
	Dir       string
	UID, GID  uint32
	Files     uint64 // RLIMIT_NOFILE; 0 leaves it
	FileSize  uint64 // RLIMIT_FSIZE; 0 leaves it
}

// Signal asks distci-init to signal the program's process group.
type Signal struct{ Signal int }

// End is the last that distci-init says.
type End struct {
	Error        string     // why the program could not be started
	Fault        fault.Kind // of Error
	WaitStatus   uint32
	User, System time.Duration
	MaxRSS       int64 // bytes
	Leftovers    int
}

// Started tells that the program runs; it comes before End.
type Started struct{ PID int }

// Message is either of what distci-init says.
type Message struct {
	Started *Started `json:",omitempty"`
	End     *End     `json:",omitempty"`
}

// PassFiles sends descriptors through a unix socket.
func PassFiles(c syscall.Conn, files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	socket, err := c.SyscallConn()
	if err != nil {
		return err
	}
	// One blank carries the descriptors; JSON may begin with blanks.
	if e := socket.Write(func(fd uintptr) bool {
		err = unix.Sendmsg(int(fd), []byte{' '}, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL)
		return err != unix.EAGAIN
	}); e != nil {
		return e
	}
	return err
}

// TakeFiles is the other side of PassFiles, for n descriptors. At the socket's
// end the error is [io.EOF].
func TakeFiles(c syscall.Conn, n int) (files []*os.File, err error) {
	socket, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	oob := make([]byte, unix.CmsgSpace(4*n))
	var k, on, flags int
	if e := socket.Read(func(fd uintptr) bool {
		for {
			k, on, flags, _, err = unix.Recvmsg(int(fd), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
			if err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	}); e != nil {
		return nil, e
	}
	if err == nil && k == 0 {
		err = io.EOF
	}
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:on])
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return nil, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	if len(files) != n || flags&unix.MSG_CTRUNC != 0 {
		return nil, fmt.Errorf("got %d descriptors, want %d", len(files), n)
	}
	return files, nil
}
