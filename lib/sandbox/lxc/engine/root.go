package engine

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
)

// mount is one of the program's, ready for LXC.
type mount struct{ from, target, options string }

// lower is the image as the container sees it: the same, or a mapped mount.
func (r *run) lower() string {
	if r.root {
		return filepath.Join(r.points(), "root")
	}
	return r.image
}

// initFile is PID 1 where containers can reach it.
func (r *run) initFile() string {
	if r.root {
		return filepath.Join(r.points(), "init")
	}
	return r.req.Init
}

// prepareRoot makes the layer that takes the changes to the root file system,
// and in it what mounts need to be mounted on. The image is not touched.
func (r *run) prepareRoot() error {
	if err := limitsPossible(r.spec.Limits, r.cgroups); err != nil {
		return err
	}
	for _, path := range []string{r.dir, r.image} {
		if err := reachable(path); err != nil {
			return err
		}
	}
	if r.root {
		if err := r.mountPoints(); err != nil {
			return err
		}
	}
	if err := os.Mkdir(r.empty(), 0o555); err != nil {
		return err
	}
	for _, dir := range []string{filepath.Dir(r.upper()), r.upper()} {
		if err := r.makeOwned(dir, 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/tmp"} {
		if err := r.makeTarget(dir, true); err != nil {
			return err
		}
	}
	return r.prepareResolver()
}

// mountPoints mounts what only root can: the image with mapped ids, and PID 1.
func (r *run) mountPoints() error {
	if err := os.Mkdir(r.points(), 0o700); err != nil {
		return err
	}
	// This program's mounts are its own (see wire.Request.Own): they are gone
	// when it and the container are, however they ended.
	if err := unix.Mount("tmpfs", r.points(), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0711,size=1m"); err != nil {
		return fault.Errorf(fault.Config, "mounting a tmpfs: %w", err)
	}
	if err := attach(r.req.Init, r.initFile(), unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return err
	}
	whole := idRange{first: 0, host: r.slot.ids, count: rangeSize}
	return r.mapper.mount(r.image, r.lower(), whole, whole, unix.MOUNT_ATTR_RDONLY)
}

// makeOwned makes a folder that is the container's root's.
func (r *run) makeOwned(dir string, mode fs.FileMode) error {
	if err := os.Mkdir(dir, mode); err != nil {
		return err
	}
	if !r.root {
		return os.Chmod(dir, mode)
	}
	if err := os.Chown(dir, int(r.slot.ids), int(r.slot.ids)); err != nil {
		return err
	}
	return os.Chmod(dir, mode)
}

// makeTarget makes what is missing of a path inside, in the upper layer. The
// image decides: a path of it that leads through a link is refused.
func (r *run) makeTarget(target string, dir bool) error {
	parts := strings.Split(strings.TrimPrefix(target, "/"), "/")
	at := ""
	missing := false
	for i, part := range parts {
		at = path.Join(at, part)
		last := i == len(parts)-1
		upper := filepath.Join(r.upper(), at)
		if !missing {
			fi, err := os.Lstat(filepath.Join(r.image, at))
			switch {
			case errors.Is(err, fs.ErrNotExist):
				missing = true
			case err != nil:
				return err
			case fi.IsDir() && (!last || dir):
				if last {
					return nil // as it is in the image
				}
				continue
			case last && !dir && fi.Mode().IsRegular():
				return nil
			default:
				return fault.Errorf(fault.Config, "nothing can be mounted at %s: in the image, /%s is of another kind", target, at)
			}
		}
		if err := r.makeParents(at); err != nil {
			return err
		}
		if last && !dir {
			f, err := os.OpenFile(upper, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if errors.Is(err, fs.ErrExist) {
				return nil
			}
			if err != nil {
				return err
			}
			return f.Close()
		}
		if err := r.makeOwned(upper, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// makeParents repeats the folders above a path in the upper layer, with the
// modes that they have in the image.
func (r *run) makeParents(at string) error {
	for i := range at {
		if at[i] != '/' {
			continue
		}
		mode := fs.FileMode(0o755)
		if fi, err := os.Lstat(filepath.Join(r.image, at[:i])); err == nil {
			mode = fi.Mode().Perm() | fi.Mode()&fs.ModeSticky
		}
		if err := r.makeOwned(filepath.Join(r.upper(), at[:i]), mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// prepareMounts makes the mounts of the Spec, parents first.
func (r *run) prepareMounts() error {
	list := slices.Clone(r.spec.Mounts)
	slices.SortStableFunc(list, func(a, b sandbox.Mount) int { return strings.Compare(a.Target, b.Target) })
	for i, m := range list {
		if !filepath.IsAbs(m.Source) || !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target || m.Target == "/" {
			return fault.Errorf(fault.Config, "mount %q at %q: both must be absolute and clean paths", m.Source, m.Target)
		}
		if i > 0 && list[i-1].Target == m.Target {
			return fault.Errorf(fault.Config, "two mounts at %s", m.Target)
		}
		var st unix.Stat_t
		if err := unix.Stat(m.Source, &st); err != nil {
			return fault.Errorf(fault.Config, "mount: %w", &os.PathError{Op: "stat", Path: m.Source, Err: err})
		}
		dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		create, err := r.placeOf(m.Target, dir)
		if err != nil {
			return err
		}
		from, attributes, options := m.Source, uint64(0), "bind,rw"
		if m.ReadOnly {
			attributes, options = unix.MOUNT_ATTR_RDONLY, "bind,ro"
		}
		if r.root {
			from = filepath.Join(r.points(), "b"+strings.ReplaceAll(m.Target, "/", "-"))
			// The source's owner is the program's user, and nobody else is
			// anybody: so nothing of others can be made there.
			uids := idRange{first: st.Uid, host: r.slot.ids + r.uid, count: 1}
			gids := idRange{first: st.Gid, host: r.slot.ids + r.gid, count: 1}
			if err := r.mapper.mount(m.Source, from, uids, gids, attributes); err != nil {
				return err
			}
		} else {
			if err := reachable(m.Source); err != nil {
				return err
			}
			options += ",nosuid,nodev"
		}
		r.mounts = append(r.mounts, mount{from: from, target: m.Target, options: options + create})
	}
	return nil
}

// placeOf makes sure that something can be mounted at target, or tells the
// option by which LXC makes the place: below what is mounted by then.
func (r *run) placeOf(target string, dir bool) (option string, err error) {
	below := func(of string) bool { return strings.HasPrefix(target, of+"/") }
	for _, own := range []string{"/proc", "/sys", "/dev"} {
		if target == own || below(own) && own != "/dev" {
			return "", fault.Errorf(fault.Config, "nothing can be mounted at %s", target)
		}
	}
	for _, m := range r.mounts {
		if below(m.target) { // where the program may have put a link
			return "", fault.Errorf(fault.Config, "nothing can be mounted at %s, which is in the mount at %s", target, m.target)
		}
	}
	switch inside := below("/tmp") || below("/dev"); {
	case inside && dir:
		return ",create=dir", nil
	case inside:
		return ",create=file", nil
	}
	return "", r.makeTarget(target, dir)
}
