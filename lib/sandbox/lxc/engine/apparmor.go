package engine

import "strings"

// profile is AppArmor's for containers, which LXC takes by default.
const profile = "lxc-container-default-cgns"

// apparmor keeps LXC from asking for its profile where that is not loaded, as
// on a Debian without the package apparmor: the kernel has AppArmor on, and no
// container would start. It then stays in the profile of this process, if any.
func (s system) apparmor() []item {
	if s.read("/sys/module/apparmor/parameters/enabled") != "Y" || strings.Contains("\n"+s.read("/sys/kernel/security/apparmor/profiles"), "\n"+profile+" ") {
		return nil
	}
	return []item{{"lxc.apparmor.profile", "unchanged"}}
}
