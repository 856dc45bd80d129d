package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// A mapped mount shows files of one owner as another's: those of root's image
// as the container's root's, and those of the worker's workspace as the
// program's own. Whoever is not mapped owns nothing there and can make nothing.

// idRange maps count ids from first, which files have, to those from host,
// which processes have.
type idRange struct{ first, host, count uint32 }

// mapper makes mapped mounts, and keeps one user namespace for each mapping.
type mapper struct {
	spaces map[[2]idRange]*os.File
}

func newMapper() *mapper { return &mapper{spaces: map[[2]idRange]*os.File{}} }

// mount makes source visible at target, which is made: a folder or a file, as
// the source is. What is mounted below source is not visible.
func (m *mapper) mount(source, target string, uids, gids idRange, attributes uint64) error {
	ns, err := m.space(uids, gids)
	if err != nil {
		return err
	}
	err = attach(source, target, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP | attributes, Userns_fd: uint64(ns.Fd())})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return fault.Errorf(fault.Config, "%s: the file system %s cannot be mounted with mapped ids; "+
			"ext4, xfs, btrfs and tmpfs can, with Linux 5.12 (tmpfs: 6.3) or later", source, fileSystem(source))
	}
	return err
}

// attach makes source visible at target, as mount does, without set-user-id
// files and devices and with more attributes. Containers need not be able to
// pass through the folders above source.
func attach(source, target string, attr unix.MountAttr) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: source, Err: err}
	}
	defer unix.Close(fd)
	attr.Attr_set |= unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: source, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: source, Err: err}
	}
	if err := makePoint(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

func makePoint(path string, dir bool) error {
	if dir {
		return os.MkdirAll(path, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

func fileSystem(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return "there"
	}
	switch uint32(st.Type) {
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay"
	case unix.NFS_SUPER_MAGIC:
		return "nfs"
	case unix.FUSE_SUPER_MAGIC:
		return "fuse"
	}
	return fmt.Sprintf("%#x", uint32(st.Type))
}

// space returns a user namespace with the mapping. Nobody is in it.
func (m *mapper) space(uids, gids idRange) (*os.File, error) {
	key := [2]idRange{uids, gids}
	if f := m.spaces[key]; f != nil {
		return f, nil
	}
	// A namespace is made by a process in it. This one is a copy of this
	// thread that only waits; it must not run any of Go's code.
	parent := uintptr(os.Getpid())
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return nil, fault.Errorf(fault.Config, "making a user namespace: %w (is user.max_user_namespaces 0, or kernel.unprivileged_userns_clone?)", errno)
	}
	if pid == 0 {
		unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
		now, _, _ := unix.RawSyscall(unix.SYS_GETPPID, 0, 0, 0)
		if now != parent { // it had died before
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
		}
		for {
			unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0) // wait for the signal
		}
	}
	defer func() {
		unix.Kill(int(pid), unix.SIGKILL)
		for {
			if _, err := unix.Wait4(int(pid), nil, 0, nil); err != unix.EINTR {
				return
			}
		}
	}()
	proc := "/proc/" + strconv.Itoa(int(pid))
	for file, r := range map[string]idRange{"uid_map": uids, "gid_map": gids} {
		if err := os.WriteFile(proc+"/"+file, fmt.Appendf(nil, "%d %d %d\n", r.first, r.host, r.count), 0); err != nil {
			return nil, fmt.Errorf("mapping ids: %w", err)
		}
	}
	f, err := os.Open(proc + "/ns/user")
	if err != nil {
		return nil, fmt.Errorf("mapping ids: %w", err)
	}
	m.spaces[key] = f
	return f, nil
}
