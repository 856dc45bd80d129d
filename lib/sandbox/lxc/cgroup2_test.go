package lxc

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPureV2 has a place where control groups are of version 2 alone. Which
// controllers that has is the kernel's to say: those that version 1 has on this
// machine are missing, and what needs them is refused.
func TestPureV2(t *testing.T) {
	newHost(t)
	o, err := options()
	if err != nil {
		t.Fatal(err)
	}
	p := newPlace(t, 0)
	p.do(func() error {
		if err := unix.Unmount("/sys/fs/cgroup", unix.MNT_DETACH); err != nil && err != unix.EINVAL {
			return err
		}
		return unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	})
	state := filepath.Join(p.dir, "state")
	lxc := func(args ...string) *exec.Cmd {
		return exec.Command(o.Program, append([]string{"--init", o.Init, "--state", state, "--rootfs", o.Root}, args...)...)
	}
	out, _, _ := p.run(exec.Command("cat", "/sys/fs/cgroup/cgroup.controllers"))
	controllers := strings.Fields(out)
	t.Logf("version 2 has %q here", controllers)
	t.Run("Runs", func(t *testing.T) {
		if out, errs, status := p.run(lxc("--", "sh", "-c", "cat /proc/self/cgroup; exit 3")); status != 3 || !strings.Contains(out, "0::/") {
			t.Errorf("status %d: %s%s", status, out, errs)
		}
	})
	for _, c := range []struct{ controller, flag, value string }{{"memory", "--memory", "64M"}, {"pids", "--pids", "20"}, {"cpu", "--cpus", "0.5"}} {
		t.Run(c.controller, func(t *testing.T) {
			want, says := 78, "do not have the "+c.controller+" controller"
			if strings.Contains(" "+strings.Join(controllers, " ")+" ", " "+c.controller+" ") {
				want, says = 0, ""
			}
			if _, errs, status := p.run(lxc(c.flag, c.value, "--", "true")); status != want || !strings.Contains(errs, says) {
				t.Errorf("status %d: %s; want %d", status, errs, want)
			}
		})
	}
	if left, _ := filepath.Glob(state + "/*"); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}
