package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// plant makes what a step may leave for others to fall over, and looks for what
// others have left. The result is nil and false if it knows no such thing.
func plant(what, a, b string) (err error, known bool) {
	switch what {
	case "pipe":
		return unix.Mkfifo(a, 0o666), true
	case "socket-file":
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: a, Net: "unix"})
		if err == nil {
			l.SetUnlinkOnClose(false)
			l.Close()
		}
		return err, true
	case "listen": // until it is killed
		_, err := net.Listen("unix", a)
		if err == nil {
			fmt.Println("listening")
			unix.Pause()
		}
		return err, true
	case "link":
		return unix.Link(a, b), true
	case "xattr":
		return unix.Setxattr(a, b, []byte("y"), 0), true
	case "immutable":
		f, err := os.Open(a)
		if err == nil {
			flags := uint32(0x10) // FS_IMMUTABLE_FL
			err = call(unix.SYS_IOCTL, f.Fd(), unix.FS_IOC_SETFLAGS, uintptr(unsafe.Pointer(&flags)))
		}
		return err, true
	case "deep":
		n, _ := strconv.Atoi(a)
		return deep(n), true
	case "files-in": // with names of 1 to 5 digits
		n, _ := strconv.Atoi(b)
		for i := range n {
			if err := os.WriteFile(a+"/"+strconv.Itoa(i), nil, 0o666); err != nil {
				return err, true
			}
		}
		return nil, true
	case "unlinked": // files of so many MiB each that no folder holds, until it is killed
		n, _ := strconv.Atoi(b)
		block := make([]byte, 1<<20)
		for {
			f, err := os.CreateTemp(a, "")
			if err != nil {
				return err, true
			}
			os.Remove(f.Name())
			for range n {
				if _, err := f.Write(block); err != nil {
					return err, true
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
	case "terminals":
		for range 100_000 {
			if _, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0); err != nil {
				return err, true
			}
		}
		return nil, true
	case "swap": // two names, one for a folder and one for a link, until it is killed
		for {
			if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
				return err, true
			}
		}
	case "vfork": // a child that its parent waits for in the kernel
		fmt.Println("begun")
		pid, _, _ := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_VFORK|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		for pid == 0 {
			unix.RawSyscall(unix.SYS_PPOLL, 0, 0, 0)
		}
		return nil, true
	case "sysv-make", "sysv-find":
		flags := uintptr(0o666)
		if what == "sysv-make" {
			flags |= unix.IPC_CREAT
		}
		for _, c := range []struct{ number, a, b, c uintptr }{
			{unix.SYS_SHMGET, 4242, 4096, flags}, {unix.SYS_MSGGET, 4242, flags, 0}, {unix.SYS_SEMGET, 4242, 1, flags},
		} {
			if err := call(c.number, c.a, c.b, c.c); err != nil {
				return err, true
			}
		}
		return nil, true
	case "mqueue-make":
		return call(unix.SYS_MQ_OPEN, text("probe"), unix.O_CREAT|unix.O_RDWR, 0o666, 0), true
	case "mqueue-find":
		return call(unix.SYS_MQ_OPEN, text("probe"), unix.O_RDWR, 0, 0), true
	case "rest": // METHOD PATH at DISTCI_URL
		return rest(a, b), true
	}
	return nil, false
}

// deep makes a chain of folders, and a file in the last.
func deep(n int) error {
	for range n {
		if err := unix.Mkdir("deep", 0o700); err != nil {
			return err
		}
		if err := unix.Chdir("deep"); err != nil {
			return err
		}
	}
	return os.WriteFile("file", make([]byte, 1<<20), 0o600)
}

// rest prints the status of a request.
func rest(method, path string) error {
	c := http.Client{Transport: &http.Transport{Dial: func(string, string) (net.Conn, error) {
		return net.Dial("unix", strings.TrimPrefix(os.Getenv("DISTCI_URL"), "unix:"))
	}}}
	req, err := http.NewRequest(method, "http://distci"+path, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	resp.Body.Close()
	return fmt.Errorf("%s %s: %d", method, path, resp.StatusCode)
}
