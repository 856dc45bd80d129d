package dir

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/store"
)

// stale is the age from which a temporary that nobody has open is removed.
const stale = time.Hour

func randomName() string { return rand.Text() }

// temp is an object that is being written. Its writer holds a flock on it, by
// which sweep knows that the writer lives.
type temp struct {
	s    *folder
	f    *os.File
	name string // "" once it has been renamed
}

func (s *folder) newTemp() (*temp, error) {
	name := tmpDir + "/" + randomName()
	f, err := s.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	t := &temp{s: s, f: f, name: name}
	if err := flock(f, unix.LOCK_EX); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// close ends the writing; what was not renamed is removed.
func (t *temp) close() {
	t.f.Close()
	if t.name != "" {
		t.s.root.Remove(t.name)
	}
}

// fill writes all of r, whose own error becomes a sourceError.
func (t *temp) fill(ctx context.Context, r io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := t.f.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return &sourceError{err}
		}
	}
}

// stamp gives the object the time that is its version. It must follow the last
// write, which sets the time too.
func (t *temp) stamp(at time.Time) error { return t.s.root.Chtimes(t.name, time.Time{}, at) }

// sweep does what Sweep does, once per [stale]. It is a courtesy: what fails
// now is left to the next one.
func (s *folder) sweep() {
	s.mu.Lock()
	due := time.Since(s.swept) > stale
	if due {
		s.swept = time.Now()
	}
	s.mu.Unlock()
	if due {
		_, _ = s.sweepTemp(context.Background(), stale, false)
	}
}

// Sweep implements [store.Sweeper]: it removes the temporaries of writers that
// were killed. One whose writer lives is locked, however old it is.
func (s *folder) Sweep(ctx context.Context, grace time.Duration, dryRun bool) (store.Swept, error) {
	swept, err := s.sweepTemp(ctx, grace, dryRun)
	return swept, failed("sweep", tmpDir, err)
}

func (s *folder) sweepTemp(ctx context.Context, age time.Duration, dryRun bool) (swept store.Swept, err error) {
	d, err := s.root.Open(tmpDir)
	if err != nil {
		return swept, err
	}
	defer d.Close()
	for {
		names, err := d.Readdirnames(256)
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return swept, err
			}
			if n, ok := s.sweepOne(tmpDir+"/"+name, age, dryRun); ok {
				swept.Objects++
				swept.Bytes += n
			}
		}
		if err == io.EOF || err == nil && len(names) == 0 {
			return swept, nil
		}
		if err != nil {
			return swept, err
		}
	}
}

// sweepOne removes a temporary, unless it is too young or in use, and returns
// its size. What cannot be removed is left alone.
func (s *folder) sweepOne(name string, age time.Duration, dryRun bool) (int64, bool) {
	info, err := s.root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || time.Since(info.ModTime()) < age {
		return 0, false
	}
	f, err := s.root.OpenFile(name, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	if err := flock(f, unix.LOCK_EX); errors.Is(err, unix.EWOULDBLOCK) {
		return 0, false
	}
	return info.Size(), dryRun || s.root.Remove(name) == nil
}
