package workspace

import (
	"bytes"
	"io"

	"golang.org/x/sys/unix"
)

// block is the size of the holes that are looked for: that of file systems.
const block = 4096

// file unpacks a regular file.
func (u *unpacker) file(parent int, base string, it *item) error {
	fd := -1
	err := u.replace(parent, base, func() (err error) {
		fd, err = openat(parent, base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = u.fill(fd, it)
	if e := unix.Close(fd); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return setTime(parent, base, it.mtime)
}

// fill writes contents and then, as writing and a change of owner may take
// bits away, the mode.
func (u *unpacker) fill(fd int, it *item) error {
	if it.size > 0 {
		if err := u.copySparse(fd, it); err != nil {
			return err
		}
	}
	if err := setAttrs(fd, it.attrs); err != nil {
		return err
	}
	if err := u.owner(it, func(uid, gid int) error { return unix.Fchown(fd, uid, gid) }); err != nil {
		return err
	}
	return unix.Fchmod(fd, it.mode)
}

// copySparse writes the item's contents to the new file fd, but for the blocks that are
// all zeros: those become holes.
func (u *unpacker) copySparse(fd int, it *item) error {
	if u.buf == nil {
		u.buf = make([]byte, 256<<10)
	}
	var at, end int64 // where to read into, and where the last write ended
	for at < it.size {
		if err := u.ctx.Err(); err != nil {
			return err
		}
		buf := u.buf[:min(int64(len(u.buf)), it.size-at)]
		if _, err := io.ReadFull(u.archive, buf); err != nil {
			return u.archive.damaged(err)
		}
		for len(buf) > 0 {
			zeros := run(buf, true)
			buf, at = buf[zeros:], at+int64(zeros)
			data := run(buf, false)
			if err := writeAt(fd, buf[:data], at); err != nil {
				return err
			}
			buf, at = buf[data:], at+int64(data)
			if data > 0 {
				end = at
			}
		}
	}
	if end < it.size {
		return unix.Ftruncate(fd, it.size)
	}
	return nil
}

// run is how many bytes at the beginning of p are in blocks of zeros, or in
// blocks that are not.
func run(p []byte, zeros bool) int {
	var zero [block]byte
	n := 0
	for n < len(p) {
		b := p[n:min(n+block, len(p))]
		if bytes.Equal(b, zero[:len(b)]) != zeros {
			break
		}
		n += len(b)
	}
	return n
}

func writeAt(fd int, p []byte, at int64) error {
	for len(p) > 0 {
		n, err := unix.Pwrite(fd, p, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// setAttrs sets user.* attributes, where the file system has any.
func setAttrs(fd int, attrs map[string]string) error {
	for name, value := range attrs {
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && err != unix.ENOTSUP {
			return err
		}
	}
	return nil
}

// setTime sets the time of modification; of a symbolic link, its own.
func setTime(dir int, name string, mtime unix.Timespec) error {
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}, unix.AT_SYMLINK_NOFOLLOW)
}
