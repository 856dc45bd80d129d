// Package rootfs makes what tests with containers need: the programs, and a
// small root file system.
package rootfs

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/distci/distci/test/need"
)

//go:embed make.sh
var script string

const module = "github.com/distci/distci/"

// Kit is what containers are made of.
type Kit struct {
	Bin     string // a folder of programs
	Program string // distci-lxc
	Init    string // distci-init
	Root    string // the root file system
}

// Missing says why this machine cannot run tests with containers; it is empty
// if it can.
func Missing() string {
	if os.Geteuid() != 0 {
		return "not root"
	}
	for _, p := range []string{"pkg-config", "cc", "ldd"} {
		if _, err := exec.LookPath(p); err != nil {
			return p + " is not there"
		}
	}
	if err := exec.Command("pkg-config", "--exists", "lxc").Run(); err != nil {
		return "liblxc's development files are not there"
	}
	return ""
}

// Need ends the test where containers cannot be made: they are the part "lxc".
func Need(t testing.TB) {
	t.Helper()
	if why := Missing(); why != "" {
		need.Missing(t, "lxc", "no containers here: "+why)
	}
}

// Make makes a Kit in a folder that all users can pass through. The programs
// named besides are in the root file system, as far as they are here.
func Make(dir string, programs ...string) (k Kit, err error) {
	k = Kit{Bin: filepath.Join(dir, "bin"), Root: filepath.Join(dir, "root")}
	k.Program, k.Init = filepath.Join(k.Bin, "distci-lxc"), filepath.Join(k.Bin, "libexec", "distci-init")
	if err := k.build("1", k.Bin, "-tags=lxc", "cmd/distci-lxc"); err != nil {
		return k, err
	}
	if err := k.build("0", filepath.Dir(k.Init), "-tags=", "cmd/distci-init"); err != nil {
		return k, err
	}
	cmd := exec.Command("sh", append([]string{"-c", script, "make.sh", k.Root}, programs...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return k, fmt.Errorf("root file system: %w: %s", err, out)
	}
	return k, k.build("0", filepath.Join(k.Root, "bin"), "-tags=", "test/rootfs/probe")
}

func (k Kit) build(cgo, to, tags, what string) error {
	cmd := exec.Command("go", "build", tags, "-trimpath", "-o", to+"/", module+what)
	cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w: %s", what, err, out)
	}
	return nil
}
