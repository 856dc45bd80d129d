package lxc

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// place is a thread with namespaces of its own, and what is started there. So
// tests change /etc, the network and the control groups for their programs and
// for nobody else; all of it goes with the last of them.
type place struct {
	t       *testing.T
	calls   chan func()
	dir     string // that all users can pass through, as to the kit
	covered bool   // /etc is
}

func newPlace(t *testing.T, namespaces int) *place {
	t.Helper()
	o, err := options()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(o.State), "place-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	p := &place{t: t, calls: make(chan func()), dir: dir}
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		for f := range p.calls {
			f()
		}
	}()
	t.Cleanup(func() { close(p.calls) })
	p.do(func() error {
		if err := unix.Unshare(namespaces | unix.CLONE_NEWNS); err != nil {
			return err
		}
		return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	})
	return p
}

// do calls f there. It must not hand work to other goroutines.
func (p *place) do(f func() error) {
	p.t.Helper()
	done := make(chan error)
	p.calls <- func() { done <- f() }
	if err := <-done; err != nil {
		p.t.Fatal(err)
	}
}

// etc puts files into /etc there.
func (p *place) etc(files map[string]string) {
	p.t.Helper()
	dir, err := os.MkdirTemp(p.dir, "etc-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	for name, text := range files {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
		}
	}
	if err != nil {
		p.t.Fatal(err)
	}
	if p.covered { // overlays cannot be piled up
		p.do(func() error { return unix.Unmount("/etc", unix.MNT_DETACH) })
	}
	p.covered = true
	p.do(func() error { return unix.Mount("overlay", "/etc", "overlay", unix.MS_RDONLY, "lowerdir="+dir+":/etc") })
}

// start starts the program there.
func (p *place) start(cmd *exec.Cmd) {
	p.t.Helper()
	p.do(cmd.Start)
}

// run runs the program there until it ends.
func (p *place) run(cmd *exec.Cmd) (out, errs string, status int) {
	p.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	p.start(cmd)
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(stdout.String()), strings.TrimSpace(stderr.String()), cmd.ProcessState.ExitCode()
}
