package image

import (
	"context"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/distci/distci/lib/fault"
)

// Bootstrap is a Debian, or something like it, made from its packages: the
// required ones and what Include names. It takes mmdebstrap, or else
// debootstrap, which only root can use.
type Bootstrap struct {
	Suite   string    // "bookworm"
	Include []string  // packages
	Mirror  string    // URL; empty: the program's default
	Output  io.Writer // what the program tells
}

var (
	suitePattern   = regexp.MustCompile(`^[a-z][a-z0-9.-]{0,63}$`)
	packagePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]*(:[a-z0-9]+)?$`)
)

// Check finds what no program would understand, or would understand as
// something else. The error is of kind Usage.
func (b *Bootstrap) Check() error {
	if !suitePattern.MatchString(b.Suite) {
		return fault.Errorf(fault.Usage, "image: %q is no name of a suite", b.Suite)
	}
	for _, p := range b.Include {
		if !packagePattern.MatchString(p) {
			return fault.Errorf(fault.Usage, "image: %q is no name of a package", p)
		}
	}
	if b.Mirror == "" {
		return nil
	}
	u, err := url.Parse(b.Mirror)
	if err != nil || u.Host == "" && u.Path == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "file" || strings.ContainsAny(b.Mirror, " \t\n") {
		return fault.Errorf(fault.Usage, "image: %q is no mirror: expected a URL with http, https or file", b.Mirror)
	}
	return nil
}

func (b *Bootstrap) String() string {
	s := b.Suite
	if len(b.Include) > 0 {
		s += " with " + strings.Join(b.Include, ", ")
	}
	if u, err := url.Parse(b.Mirror); b.Mirror != "" && err == nil {
		s += " from " + u.Redacted()
	}
	return s
}

func (b *Bootstrap) fill(ctx context.Context, t *target) error {
	if err := b.Check(); err != nil {
		return err
	}
	if _, err := exec.LookPath("mmdebstrap"); err == nil {
		return b.mmdebstrap(ctx, t)
	}
	if _, err := exec.LookPath("debootstrap"); err != nil {
		return fault.Errorf(fault.Config, "neither mmdebstrap nor debootstrap is installed; install one of them (apt-get install mmdebstrap), or import an image that was made elsewhere")
	}
	if os.Geteuid() != 0 {
		return fault.Errorf(fault.Config, "mmdebstrap is not installed, and debootstrap works for root only; install mmdebstrap")
	}
	return b.debootstrap(ctx, t)
}

func (b *Bootstrap) options() []string {
	o := []string{"--variant=minbase"}
	if len(b.Include) > 0 {
		o = append(o, "--include="+strings.Join(b.Include, ","))
	}
	return o
}

// arguments are the suite, where to put it, and the mirror.
func (b *Bootstrap) arguments(place string) []string {
	a := []string{b.Suite, place}
	if b.Mirror != "" {
		a = append(a, b.Mirror)
	}
	return a
}

// mmdebstrap writes an archive, without what is of no use in an image.
func (b *Bootstrap) mmdebstrap(ctx context.Context, t *target) error {
	args := append(append(b.options(), "--format=tar"), b.arguments("-")...)
	cmd, stop, err := command(ctx, "mmdebstrap", args...)
	if err != nil {
		return err
	}
	defer stop()
	cmd.Dir, cmd.Stderr = t.temp, b.Output
	return t.applyOutput(ctx, cmd, stop)
}

// debootstrap makes a folder. It has a mount namespace of its own, so that
// what it mounts there ends with it, however it ends.
func (b *Bootstrap) debootstrap(ctx context.Context, t *target) error {
	made := filepath.Join(t.temp, "made")
	cmd, stop, err := command(ctx, "debootstrap", append(b.options(), b.arguments(made)...)...)
	if err != nil {
		return err
	}
	defer stop()
	cmd.Dir, cmd.Stdout, cmd.Stderr = t.temp, b.Output, b.Output
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		if e := ctx.Err(); e != nil {
			return e
		}
		return fault.Errorf(fault.Unavailable, "debootstrap: %w", err)
	}
	return (&folderSource{path: made, omit: aptCache}).fill(ctx, t)
}

// aptCache tells whether a file is there only to be fetched once more by apt.
func aptCache(path string) bool {
	return strings.HasPrefix(path, "var/cache/apt/") || strings.HasPrefix(path, "var/lib/apt/lists/")
}
