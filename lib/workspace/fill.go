package workspace

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	fillPrefix = tempPrefix + "fill."
	// fillPoll is how often the one who waits for a layer looks at it.
	fillPoll = 10 * time.Millisecond
	// fillStuck is how long a layer may not grow before the one who waits for it
	// fetches it as well: whoever is at it may be frozen.
	fillStuck = 10 * time.Second
)

// fill returns a layer if somebody else has just brought it, or a temporary to
// put it into. Of several that want the same layer, in this process or in
// others, one fetches it while the others wait; the lock of one that is killed
// goes with it.
func (c *Cache) fill(ctx context.Context, name string) (*os.File, *temporary, error) {
	path := filepath.Join(c.dir, fillPrefix+name)
	size, since := int64(-1), time.Now()
	for {
		t, err := c.lockTemp(path)
		if err != nil {
			return nil, nil, err
		}
		f, err := c.lookup(ctx, name)
		if f != nil || err != nil {
			if t != nil {
				t.discard()
			}
			return f, nil, err
		}
		if t != nil {
			return nil, t, t.f.Truncate(0)
		}
		if info, err := os.Lstat(path); err == nil && info.Size() != size {
			size, since = info.Size(), time.Now()
		}
		if time.Since(since) > c.stuck {
			t, err := c.temp()
			return nil, t, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(fillPoll):
		}
	}
}

// lockTemp opens and locks a temporary whose name others know, too; nil if
// somebody has it.
func (c *Cache) lockTemp(path string) (*temporary, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil && !isAt(f, path) { // it was kept or removed a moment ago
		err = unix.EWOULDBLOCK
	}
	if err != nil {
		f.Close()
		if err == unix.EWOULDBLOCK {
			err = nil
		}
		return nil, err
	}
	return &temporary{c, f}, nil
}

// isAt tells whether an open file is still the one of that name. Only who has
// it locked renames or removes it, so for the holder of the lock it stays so.
func isAt(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, there)
}
