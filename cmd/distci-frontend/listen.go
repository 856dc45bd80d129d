package main

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/distci/distci/lib/fault"
)

// open listens. At an address that others can reach they must show who they
// are, unless that is asked for twice.
func open(address string, d *door) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		removeStale(path)
		l, err := net.Listen("unix", path)
		if err != nil {
			return nil, fault.Errorf(fault.Config, "--listen: %w", err)
		}
		return l, os.Chmod(path, 0o600)
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "--listen %q: expected host:port or unix:/path", address)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && !d.insecure && !d.controlled() {
		return nil, fault.Errorf(fault.Config, "--listen %q: others can reach it, and everybody may do everything; say --require-token, or --insecure if that is meant", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "--listen: %w", err)
	}
	return newFair(l, d.connections, d.trusted), nil
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

func (d *door) url(l net.Listener) string {
	switch {
	case l.Addr().Network() == "unix":
		return "unix:" + l.Addr().String()
	case d.cert != "":
		return "https://" + l.Addr().String()
	}
	return "http://" + l.Addr().String()
}

// announce writes the port to a file, which appears whole.
func announce(l net.Listener, file string) error {
	addr, ok := l.Addr().(*net.TCPAddr)
	if file == "" || !ok {
		return nil
	}
	tmp := file + ".tmp"
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(addr.Port)+"\n"), 0o644); err != nil {
		return fault.Errorf(fault.Config, "--port-file: %w", err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fault.Errorf(fault.Config, "--port-file: %w", err)
	}
	return nil
}
