package engine

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// defaultBridge is the one that LXC's own service lxc-net makes.
const defaultBridge = "lxcbr0"

// networkConfig is the network of the container with the given number.
func networkConfig(network string, number int) ([]item, error) {
	kind, name, named := strings.Cut(network, ":")
	switch {
	case network == "" || network == "none":
		return []item{{"lxc.net.0.type", "empty"}, {"lxc.net.0.flags", "up"}}, nil
	case network == "host":
		return []item{{"lxc.net.0.type", "none"}}, nil
	case kind != "bridge" || named && name == "":
		return nil, fault.Errorf(fault.Config, "network %q: expected none, bridge, bridge:NAME or host", network)
	case os.Geteuid() != 0:
		return nil, fault.Errorf(fault.Config, "network %q: only root can connect a container with a bridge; others have the networks none and host", network)
	case !named:
		name = defaultBridge
	}
	itf, err := net.InterfaceByName(name)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "network %q: there is no bridge %s here (LXC's service lxc-net makes %s)", network, name, defaultBridge)
	}
	if !isBridge(name) {
		return nil, fault.Errorf(fault.Config, "network %q: %s is no bridge", network, name)
	}
	items := []item{{"lxc.net.0.type", "veth"}, {"lxc.net.0.link", name}, {"lxc.net.0.name", "eth0"}, {"lxc.net.0.flags", "up"}}
	addrs, err := itf.Addrs()
	if err != nil {
		return nil, fault.Wrap(fault.Config, err)
	}
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil || !prefix.Addr().Is4() {
			continue
		}
		address, err := hostAddress(prefix, number)
		if err != nil {
			return nil, err
		}
		return append(items, item{"lxc.net.0.ipv4.address", fmt.Sprintf("%s/%d", address, prefix.Bits())},
			item{"lxc.net.0.ipv4.gateway", prefix.Addr().String()}), nil
	}
	return nil, fault.Errorf(fault.Config, "network %q: the bridge %s has no IPv4 address", network, name)
}

// isBridge asks the interface's driver: /sys tells about the network in which
// it was mounted, which need not be this one.
func isBridge(name string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	return err == nil && unix.ByteSliceToString(info.Driver[:]) == "bridge"
}

// hostAddress is the address for a container in the bridge's network: counted
// from its end, as DHCP servers begin at its start.
func hostAddress(bridge netip.Prefix, number int) (netip.Addr, error) {
	a := bridge.Masked().Addr().As4()
	first := uint32(a[0])<<24 | uint32(a[1])<<16 | uint32(a[2])<<8 | uint32(a[3])
	size := uint32(1) << (32 - bridge.Bits())
	for at, skipped := size-2, 0; at >= 1 && bridge.Bits() <= 30; at-- { // not the broadcast address, nor the network's
		n := first + at
		addr := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		if addr == bridge.Addr() {
			continue
		}
		if skipped == number {
			return addr, nil
		}
		skipped++
	}
	return netip.Addr{}, fault.Errorf(fault.Temporary, "the network %s has no address left for container %d", bridge.Masked(), number)
}
