package dir

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockDir = ".lock"
	shards  = 64
)

// shard is the lock of a 64th of the keys: slot among the goroutines of this
// process, and a flock(2) on the file among the processes, which the kernel
// releases when its holder is killed. It is held for a rename or one Append
// and never while a caller's data is waited for or a disk is synced.
//
// The file's modification time is the shard's clock: see tick.
type shard struct {
	slot chan struct{}
	name string
	f    *os.File
}

// lock takes the lock of key's shard.
func (s *folder) lock(ctx context.Context, key string) (*shard, error) {
	h := fnv.New32a()
	h.Write([]byte(key))
	n := h.Sum32() % shards
	l := &s.shards[n]
	select {
	case l.slot <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := s.flock(ctx, l, n); err != nil {
		<-l.slot
		return nil, err
	}
	return l, nil
}

// flock polls: a flock that waits could not be canceled.
func (s *folder) flock(ctx context.Context, l *shard, n uint32) error {
	if l.f == nil {
		name := fmt.Sprintf("%s/%02x", lockDir, n)
		f, err := s.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return err
		}
		l.f, l.name = f, name
	}
	for wait := 50 * time.Microsecond; ; wait = min(2*wait, 5*time.Millisecond) {
		err := flock(l.f, unix.LOCK_EX)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// flock tries once and fails with EWOULDBLOCK if another has the lock.
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err != unix.EINTR {
			return os.NewSyscallError("flock", err)
		}
	}
}

func (l *shard) unlock() {
	flock(l.f, unix.LOCK_UN)
	<-l.slot
}

// close ends the use of the shard for good.
func (l *shard) close() {
	l.slot <- struct{}{}
	if l.f != nil {
		l.f.Close()
		l.f = nil
	}
	<-l.slot
}

// tick returns a time that was never returned before for this shard, to become
// a file's modification time and so the object's version. The kernel's own
// times would not do: they stand still for some milliseconds, in which a key
// can be replaced often. A file system that keeps coarser times than we ask
// for makes the clock run ahead, which does no harm. The caller has the lock.
func (s *folder) tick(l *shard) (time.Time, error) {
	last, err := l.f.Stat()
	if err != nil {
		return time.Time{}, err
	}
	t := time.Now()
	if next := last.ModTime().Add(1); t.Before(next) {
		t = next
	}
	for _, step := range []time.Duration{0, time.Microsecond, 2 * time.Second} {
		if step > 0 {
			t = t.Add(step)
		}
		if err := s.root.Chtimes(l.name, time.Time{}, t); err != nil {
			return time.Time{}, err
		}
		now, err := l.f.Stat()
		if err != nil {
			return time.Time{}, err
		}
		if now.ModTime().After(last.ModTime()) {
			return now.ModTime(), nil
		}
	}
	return time.Time{}, fmt.Errorf("%s: the file system does not keep modification times: %w", l.name, fs.ErrInvalid)
}
