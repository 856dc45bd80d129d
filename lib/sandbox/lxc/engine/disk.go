package engine

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// File systems rarely have quotas that we could use, so the use of disk is
// counted, again and again, but never for more than a twentieth of the time. A
// program may pass the limit for a moment; no single file of its can
// (RLIMIT_FSIZE).

const (
	diskPause = 200 * time.Millisecond // between two counts at least
	diskShare = 20                     // a pause is so many times as long as its count
	inodeSize = 1024                   // what a file counts for besides its content
	diskDepth = 128                    // folders that a count holds open, one in the other
	diskDeep  = 128                    // those below that it may have put off
)

// disk counts what a program has on disk: changes to the root file system and
// what it may write of its mounts.
type disk struct {
	dirs   []string
	before int64 // what was there is not the program's
	limit  int64
}

// newDisk counts what is there before the program is.
func (r *run) newDisk() *disk {
	d := &disk{limit: r.spec.Limits.Disk}
	if d.limit <= 0 {
		return d
	}
	for _, m := range r.spec.Mounts {
		if !m.ReadOnly {
			d.dirs = append(d.dirs, m.Source)
		}
	}
	d.before, _ = diskUse(d.dirs, nil)
	d.dirs = append(d.dirs, r.upper())
	return d
}

// watch returns a channel that is closed when the program, whose processes are
// in the control groups, has too much on disk.
func (d *disk) watch(ctx context.Context, groups []string) <-chan struct{} {
	full := make(chan struct{})
	if d.limit <= 0 {
		return full
	}
	go func() {
		for {
			begun := time.Now()
			if n, ok := diskUse(d.dirs, members(groups)); !ok || n-d.before > d.limit {
				close(full)
				return
			}
			select {
			case <-time.After(max(diskPause, diskShare*time.Since(begun))):
			case <-ctx.Done():
				return
			}
		}
	}()
	return full
}

// members lists the processes of a container, if it has groups of its own. They
// are the same in all of them.
func members(groups []string) []string {
	for _, g := range groups {
		if strings.HasPrefix(filepath.Base(g), "lxc.payload.") {
			b, _ := os.ReadFile(filepath.Join(g, "cgroup.procs"))
			return strings.Fields(string(b))
		}
	}
	return nil
}

// usage is one count.
type usage struct {
	total int64
	seen  map[[2]uint64]bool // what has several names, or none
	deep  []*os.File         // folders that are put off
	ok    bool
}

// diskUse adds up what is in the folders, and what the processes hold open that
// is in no folder any more. It is not ok if folders are nested as nobody nests
// them. It looks at a tree that a hostile program is changing: so it goes by
// descriptors, which no link leads astray and no path is too long for.
func diskUse(dirs, pids []string) (total int64, ok bool) {
	u := &usage{seen: map[[2]uint64]bool{}, ok: true}
	for _, dir := range dirs {
		u.tree(dir)
	}
	for _, pid := range pids {
		u.unlinked(pid)
	}
	return u.total, u.ok
}

// add counts one file.
func (u *usage) add(st *unix.Stat_t) {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink != 1 {
		id := [2]uint64{st.Dev, st.Ino}
		if u.seen[id] {
			return
		}
		u.seen[id] = true
	}
	u.total += inodeSize + st.Blocks*512
}

// tree counts a file or a folder with what is below it, on the same file
// system. The path is the worker's: a link in it is meant.
func (u *usage) tree(path string) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return
	}
	u.add(&st)
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // most often because it is no folder
	}
	top := os.NewFile(uintptr(fd), path)
	defer top.Close()
	u.folder(top, st.Dev, 0)
	for len(u.deep) > 0 {
		last := len(u.deep) - 1
		f := u.deep[last]
		u.deep = u.deep[:last]
		u.folder(f, st.Dev, 0)
		f.Close()
	}
}

func (u *usage) folder(dir *os.File, dev uint64, depth int) {
	for {
		names, err := dir.Readdirnames(1024)
		for _, name := range names {
			u.entry(dir, name, dev, depth)
		}
		if err != nil && err != io.EOF || len(names) == 0 {
			return
		}
	}
}

func (u *usage) entry(dir *os.File, name string, dev uint64, depth int) {
	var st unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil || st.Dev != dev {
		return // it went away, or is mounted there and not seen inside
	}
	u.add(&st)
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		u.ok = u.ok && err != unix.EMFILE && err != unix.ENFILE
		return
	}
	sub := os.NewFile(uintptr(fd), name)
	switch {
	case depth < diskDepth:
		u.folder(sub, dev, depth+1)
		sub.Close()
	case len(u.deep) < diskDeep:
		u.deep = append(u.deep, sub)
	default:
		u.ok = false
		sub.Close()
	}
}

// unlinked counts the files that a process holds open and that have no name.
// Those in memory are for another limit.
func (u *usage) unlinked(pid string) {
	at := filepath.Join("/proc", pid, "fd")
	dir, err := os.Open(at)
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		var st unix.Stat_t
		if _, err := strconv.Atoi(name); err != nil || unix.Fstatat(int(dir.Fd()), name, &st, 0) != nil ||
			st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 0 || inMemory(at+"/"+name) {
			continue
		}
		u.add(&st)
	}
}

func inMemory(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) != nil || fs.Type == unix.TMPFS_MAGIC || fs.Type == unix.HUGETLBFS_MAGIC
}
