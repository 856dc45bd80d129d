// Package vm boots the machines that exist for one step, as examples/vm makes
// and starts them. Emulated, all of it takes a quarter of an hour:
//
//	DISTCI_REQUIRE=vm go test -timeout 30m ./test/vm
package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/test/need"
	"github.com/distci/distci/test/rootfs"
)

const (
	examples  = "../../examples/vm"
	virtiofsd = "/usr/lib/qemu/virtiofsd" // Debian 12's; its successor knows no locks between machines
)

// needMachines skips the test where machines cannot be started, or fails it if the
// environment says that they must be: DISTCI_REQUIRE names "vm". Only then are
// machines emulated where the processor does not help, which takes minutes.
func needMachines(t *testing.T) {
	t.Helper()
	why := rootfs.Missing()
	for _, p := range []string{"qemu-system-x86_64", "mmdebstrap", "genisoimage", "mke2fs", "make", virtiofsd} {
		if _, err := exec.LookPath(p); err != nil && why == "" {
			why = p + " is not there"
		}
	}
	if why == "" && !hardware() && !need.Required("vm") {
		why = "the processor lends no virtual machines here; with DISTCI_REQUIRE=vm they are emulated"
	}
	if why != "" {
		need.Missing(t, "vm", "no machines here: "+why)
	}
}

// hardware tells whether /dev/kvm is the processor's: what else there is of that
// name runs no kernels but its own.
func hardware() bool {
	_, intel := os.Stat("/sys/module/kvm_intel")
	_, amd := os.Stat("/sys/module/kvm_amd")
	_, err := os.Stat("/dev/kvm")
	return err == nil && (intel == nil || amd == nil)
}

// image is what machines begin with.
type image struct {
	dir string // root.img, vmlinuz, initrd.img
	bin string // the programs that are in it
}

// makeImage makes the image in the user's cache, or finds it there: nobody else
// does meanwhile, and nobody changes it while this process tests.
var makeImage = sync.OnceValues(func() (im image, err error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return im, err
	}
	im.dir = filepath.Join(cache, "distci-test-vm")
	if err := os.MkdirAll(im.dir, 0o755); err != nil {
		return im, err
	}
	lock, err := os.Create(filepath.Join(im.dir, "lock"))
	if err != nil {
		return im, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return im, err
	}
	held = lock
	return im, im.make()
})

// held is open for as long as this process uses the image.
var held *os.File

func (im *image) make() error {
	programs := filepath.Join(im.dir, "programs")
	im.bin = filepath.Join(programs, "usr/local/bin")
	if err := os.RemoveAll(programs); err != nil {
		return err
	}
	if err := command("make", "-s", "-C", "../..", "install", "DESTDIR="+programs); err != nil {
		return err
	}
	recipe, err := digest(filepath.Join(examples, "image.sh"))
	if err != nil {
		return err
	}
	all, err := digest(examples, programs)
	if err != nil || im.has("image.sum", all) {
		return err
	}
	os.Remove(filepath.Join(im.dir, "image.sum"))
	if !im.has("recipe.sum", recipe) { // the packages may be others
		os.Remove(filepath.Join(im.dir, "base.tar"))
		os.Remove(filepath.Join(im.dir, "step.tar"))
		if err := im.note("recipe.sum", recipe); err != nil {
			return err
		}
	}
	begun := time.Now()
	if err := command("sh", filepath.Join(examples, "image.sh"), programs, im.dir); err != nil {
		return err
	}
	fmt.Printf("the image was made in %s\n", time.Since(begun).Round(time.Second))
	return im.note("image.sum", all)
}

func (im *image) has(name, sum string) bool {
	b, err := os.ReadFile(filepath.Join(im.dir, name))
	return err == nil && string(b) == sum
}

func (im *image) note(name, sum string) error {
	return os.WriteFile(filepath.Join(im.dir, name), []byte(sum), 0o644)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// digest is one of all files in these folders.
func digest(paths ...string) (string, error) {
	h := sha256.New()
	for _, root := range paths {
		err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			fmt.Fprintln(h, path)
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = io.Copy(h, f)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
