package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// machine writes the files of a machine that has everything, but for changes.
func machine(t *testing.T, changes map[string]string) system {
	t.Helper()
	s := system{root: t.TempDir()}
	files := map[string]string{
		"/proc/self/ns/user":                                     "",
		"/proc/self/attr/current":                                "unconfined\n",
		"/proc/filesystems":                                      "nodev\tsysfs\nnodev\toverlay\n",
		"/proc/sys/user/max_user_namespaces":                     "1000\n",
		"/proc/sys/kernel/unprivileged_userns_clone":             "1\n",
		"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "0\n",
	}
	for name, text := range changes {
		files[name] = text
	}
	for name, text := range files {
		if text == "-" {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(s.root+name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.root+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// programs puts programs of the given modes into the only folder of PATH.
func programs(t *testing.T, modes map[string]os.FileMode) {
	t.Helper()
	dir := t.TempDir()
	for name, mode := range modes {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

// TestKernelMissing takes one thing away at a time.
func TestKernelMissing(t *testing.T) {
	for name, c := range map[string]struct {
		file, text, says string
		user             bool // only other users than root need it
	}{
		"Nothing":    {"/nothing", "", "", false},
		"Namespaces": {"/proc/self/ns/user", "-", "no user namespaces", false},
		"Limit":      {"/proc/sys/user/max_user_namespaces", "0\n", "sysctl -w user.max_user_namespaces=10000", false},
		"Overlay":    {"/proc/filesystems", "\text4\n", "modprobe overlay", false},
		"Clone":      {"/proc/sys/kernel/unprivileged_userns_clone", "0\n", "sysctl -w kernel.unprivileged_userns_clone=1", true},
		"AppArmor":   {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1\n", "/etc/apparmor.d/distci-lxc", true},
	} {
		t.Run(name, func(t *testing.T) {
			programs(t, map[string]os.FileMode{"newuidmap": 0o755 | os.ModeSetuid, "newgidmap": 0o755 | os.ModeSetuid})
			s := machine(t, map[string]string{c.file: c.text})
			kernel, user := s.kernel(), s.forUser()
			missing, others := kernel, user
			if c.user {
				missing, others = user, kernel
			}
			if os.Geteuid() != 0 {
				others = nil // the programs are not root's
			}
			if len(others) > 0 || c.says == "" && len(missing) > 0 || c.says != "" && (len(missing) == 0 || !strings.Contains(missing[0], c.says)) {
				t.Errorf("kernel: %q; for a user: %q; want %q", kernel, user, c.says)
			}
		})
	}
	t.Run("AppArmorProfile", func(t *testing.T) { // which gives the rights
		s := machine(t, map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n", "/proc/self/attr/current": "distci-lxc (unconfined)\n"})
		for _, m := range s.forUser() {
			if strings.Contains(m, "AppArmor") {
				t.Error(m)
			}
		}
	})
}

func TestHelpersMissing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make programs of root's")
	}
	const set = 0o755 | os.ModeSetuid
	for name, c := range map[string]struct {
		modes map[string]os.FileMode
		says  string
	}{
		"Both":      {map[string]os.FileMode{"newuidmap": set, "newgidmap": set}, ""},
		"None":      {nil, "there is no newuidmap in PATH: install it (Debian: uidmap); there is no newgidmap"},
		"One":       {map[string]os.FileMode{"newuidmap": set}, "there is no newgidmap in PATH"},
		"NotSetUID": {map[string]os.FileMode{"newuidmap": 0o755, "newgidmap": set}, "newuidmap is not set-user-ID root: chown root "},
	} {
		t.Run(name, func(t *testing.T) {
			programs(t, c.modes)
			got := strings.Join(machine(t, nil).forUser(), "; ")
			if c.says == "" && got != "" || !strings.Contains(got, c.says) {
				t.Errorf("%q, want %q", got, c.says)
			}
		})
	}
}

func TestOlderThan(t *testing.T) {
	for release, want := range map[string]bool{"5.10.0-28-amd64": true, "5.11.0": false, "6.1.0-13-amd64": false, "4.19": true, "odd": false} {
		if got := olderThan(release, 5, 11); got != want {
			t.Errorf("%s: %v", release, got)
		}
	}
}

// TestResolver is about the servers that a container at a bridge can reach.
func TestResolver(t *testing.T) {
	for name, c := range map[string]struct{ host, behind, want string }{
		"Reachable":       {"search a.b\nnameserver 192.0.2.1\n", "", "search a.b\nnameserver 192.0.2.1\n"},
		"OneOfTwo":        {"nameserver 127.0.0.1\nnameserver 2001:db8::1\n", "", "nameserver 2001:db8::1\n"},
		"Resolved":        {"nameserver 127.0.0.53\noptions edns0\n", "nameserver 192.0.2.7\nsearch c\n", "nameserver 192.0.2.7\nsearch c\n"},
		"OnlyTheHosts":    {"search a\nnameserver ::1", "", "search a\nnameserver 10.0.3.1\n"},
		"BehindIsTheSame": {"nameserver 127.0.0.53\n", "nameserver 127.0.0.1\n", "nameserver 10.0.3.1\n"},
		"None":            {"# nothing\n", "", "# nothing\nnameserver 10.0.3.1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := resolver(c.host, c.behind, "10.0.3.1"); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestPrivate has somebody else be first at the place of the slots.
func TestPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "distci-1", "distci-lxc")
	if err := makePrivate(dir); err != nil {
		t.Error(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := makePrivate(dir); err == nil || !strings.Contains(err.Error(), "nobody else can write to") {
		t.Errorf("a folder that all can write to: %v", err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), dir); err != nil {
		t.Fatal(err)
	}
	if err := makePrivate(dir); err == nil {
		t.Error("a link was taken")
	}
}

// TestOverlayModule has a machine that has not used the overlay file system
// yet, as after its start.
func TestOverlayModule(t *testing.T) {
	var version unix.Utsname
	if err := unix.Uname(&version); err != nil {
		t.Fatal(err)
	}
	modules := "/lib/modules/" + unix.ByteSliceToString(version.Release[:]) + "/modules.dep"
	s := machine(t, map[string]string{"/proc/filesystems": "\text4\n", modules: "kernel/fs/overlayfs/overlay.ko:\n"})
	if missing := s.kernel(); len(missing) > 0 {
		t.Errorf("%q", missing)
	}
}
