package observe

import (
	"errors"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/distci/distci/lib/fault"
)

// Listen listens at an address that only this machine can reach: unix:/path, or
// host:port with a host that is the loopback. Metrics are served there to
// everybody. Errors are of kind Config.
func Listen(address string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok && path != "" {
		removeStale(path)
		l, err := net.Listen("unix", path)
		return l, fault.Wrap(fault.Config, err)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "address %q: expected host:port or unix:/path", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fault.Errorf(fault.Config, "address %q: others can reach it; metrics are served to this machine only, as 127.0.0.1:port or unix:/path", address)
	}
	l, err := net.Listen("tcp", address)
	return l, fault.Wrap(fault.Config, err)
}

// removeStale removes a socket that nobody serves any more, as a process that
// was killed leaves it. Anything else stays.
func removeStale(path string) {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		os.Remove(path)
	}
}
