package s3

import (
	"net"

	"golang.org/x/sys/unix"
)

// quickAck makes the kernel acknowledge at once what comes next. Ceph's
// gateway, unless told otherwise ("tcp_nodelay=1"), sends the body of a short
// answer only when its header was acknowledged, for which the kernel takes 40
// milliseconds otherwise. It lasts for a while only, so each Read asks again.
func quickAck(c net.Conn) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1) })
	}
}
