package engine

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
)

const resolvConf = "/etc/resolv.conf"

// upstream is where systemd-resolved tells the servers behind its own.
const upstream = "/run/systemd/resolve/resolv.conf"

// prepareResolver lets a program with a network find names as the host does,
// unless it has a mount there. What the image has, a link perhaps, is hidden by
// a file in the layer above it.
func (r *run) prepareResolver() error {
	bridge := strings.HasPrefix(r.spec.Network, "bridge")
	if !bridge && r.spec.Network != "host" || slices.ContainsFunc(r.spec.Mounts, func(m sandbox.Mount) bool {
		return m.Target == resolvConf || m.Target == filepath.Dir(resolvConf)
	}) {
		return nil
	}
	text, err := os.ReadFile(resolvConf)
	if err != nil {
		return nil // the host has none, so the program does without, too
	}
	if bridge {
		behind, _ := os.ReadFile(upstream) // if it is there
		text = []byte(resolver(string(text), string(behind), r.gateway()))
	}
	if fi, err := os.Lstat(filepath.Join(r.image, "etc")); err == nil && !fi.IsDir() {
		return fault.Errorf(fault.Config, "the image's /etc is not a folder")
	}
	if err := r.makeParents(strings.TrimPrefix(resolvConf, "/")); err != nil {
		return err
	}
	path := filepath.Join(r.upper(), resolvConf)
	if err := os.WriteFile(path, text, 0o644); err != nil || !r.root {
		return err
	}
	return os.Chown(path, int(r.slot.ids), int(r.slot.ids))
}

// gateway is the address of the bridge.
func (r *run) gateway() string {
	for _, i := range r.network {
		if i.key == "lxc.net.0.ipv4.gateway" {
			return i.value
		}
	}
	return ""
}

// resolver is a host's resolv.conf for a container with a loopback of its own:
// without the servers on the host's. If that leaves none, it has those of the
// text behind, which is systemd-resolved's, and if that has none either, the
// bridge: there listens the server of lxc-net.
func resolver(text, behind, bridge string) string {
	servers := 0
	clean := func(text string) (kept string) {
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
				if a, err := netip.ParseAddr(f[1]); err == nil && (a.IsLoopback() || a.IsUnspecified()) {
					continue
				}
				servers++
			}
			kept += strings.TrimSuffix(line, "\n") + "\n"
		}
		return kept
	}
	kept := clean(text)
	if servers > 0 {
		return kept
	}
	if more := clean(behind); servers > 0 {
		return more
	}
	return kept + "nameserver " + bridge + "\n"
}
