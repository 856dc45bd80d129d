package workspace

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

const (
	digestPrefix = "sha256:"
	tempPrefix   = ".tmp."
	cacheLock    = ".lock"
	// stale is the age at which a temporary that no process holds is a
	// left-over, and not one that is just being made.
	stale = time.Minute
)

// Cache keeps layers in a folder, up to a number of bytes; those that were not
// used for the longest time go first. Any number of processes may share it.
//
// A layer is the file named by the hex digits of its digest. It is written
// under another name and renamed, so a process that is killed leaves only a
// temporary, which a later one removes. What is being written counts, too; what
// somebody reads may be removed, which does not disturb the reader.
type Cache struct {
	dir   string
	bound int64
	stuck time.Duration  // see fillStuck
	told  func(hit bool) // nil: nobody listens
}

// Observe makes the cache tell of each layer that it was asked for: whether it
// was there, or somebody else was just bringing it. It is called before the
// cache is used.
func (c *Cache) Observe(told func(hit bool)) { c.told = told }

func (c *Cache) tell(hit bool) {
	if c.told != nil {
		c.told(hit)
	}
}

// OpenCache uses the folder dir, made if there is none, for up to bound bytes.
func OpenCache(dir string, bound int64) (*Cache, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Errorf(fault.Config, "workspace: cache: %w", err)
	}
	return &Cache{dir: dir, bound: bound, stuck: fillStuck}, nil
}

// hexOf returns the digits of a digest, which make a safe name.
func hexOf(digest string) (string, error) {
	digits, ok := strings.CutPrefix(digest, digestPrefix)
	if !ok || len(digits) != 2*sha256.Size || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", fault.Errorf(fault.BadTicket, "%q is not the digest of a layer (%s and %d lower-case hex digits)", digest, digestPrefix, 2*sha256.Size)
	}
	return digits, nil
}

// open returns the layer of that digest, its contents verified. If the cache
// does not have it, or has it damaged, it is what fetch returns.
func (c *Cache) open(ctx context.Context, digest string, fetch func(context.Context) (io.ReadCloser, error)) (*os.File, error) {
	name, err := hexOf(digest)
	if err != nil {
		return nil, err
	}
	f, err := c.lookup(ctx, name)
	if f != nil || err != nil {
		c.tell(err == nil)
		return f, err
	}
	f, t, err := c.fill(ctx, name)
	c.tell(t == nil && err == nil)
	if t == nil {
		return f, err
	}
	defer t.discard()
	if err != nil {
		return nil, err
	}
	r, err := fetch(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(t.f, h), &cancelReader{ctx, r})
	if err != nil {
		return nil, err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != name {
		return nil, fault.Errorf(fault.Temporary, "the store's copy of %s is damaged: its %d bytes have the digest %s%s", digest, n, digestPrefix, got)
	}
	return t.keep(digest)
}

// lookup returns the layer if the cache has it. A damaged one is removed.
func (c *Cache) lookup(ctx context.Context, name string) (*os.File, error) {
	path := filepath.Join(c.dir, name)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	h := sha256.New()
	_, err = io.Copy(h, &cancelReader{ctx, f})
	if ctx.Err() != nil {
		f.Close()
		return nil, ctx.Err()
	}
	if err != nil || hex.EncodeToString(h.Sum(nil)) != name { // a disk may also fail to read
		f.Close()
		os.Remove(path)
		return nil, nil
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	os.Chtimes(path, time.Time{}, time.Now()) // it may have been evicted by now
	return f, nil
}

// temporary is a file in the cache that is being written. While its writer
// lives it is locked.
type temporary struct {
	c *Cache
	f *os.File // nil once it is kept
}

func (c *Cache) temp() (*temporary, error) {
	f, err := os.OpenFile(filepath.Join(c.dir, tempPrefix+rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	t := &temporary{c, f}
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.discard()
		return nil, err
	}
	return t, nil
}

// discard removes the file, unless it was kept.
func (t *temporary) discard() {
	if t.f != nil {
		os.Remove(t.f.Name())
		t.f.Close()
	}
}

// keep makes the file the cache's copy of the layer. It returns it, at its
// beginning; the file stays readable even if the cache has no room for it.
func (t *temporary) keep(digest string) (*os.File, error) {
	name, err := hexOf(digest)
	if err != nil {
		return nil, err
	}
	if _, err := t.f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if err := os.Rename(t.f.Name(), filepath.Join(t.c.dir, name)); err != nil {
		return nil, err
	}
	f := t.f
	t.f = nil
	if err := t.c.evict(); err != nil {
		f.Close()
		return nil, fmt.Errorf("making room in the cache: %w", err)
	}
	return f, nil
}

// tempDir makes a folder in the cache that its own process removes, or else a
// later one.
func (c *Cache) tempDir() (path string, remove func(), err error) {
	path = filepath.Join(c.dir, tempPrefix+rand.Text())
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", nil, err
	}
	f, err := os.Open(path)
	if err == nil {
		err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		f.Close()
		os.Remove(path)
		return "", nil, err
	}
	return path, func() { _ = Remove(path); f.Close() }, nil
}

// evict removes layers until the rest is within the bound, and left-overs.
func (c *Cache) evict() error {
	lock, err := os.OpenFile(filepath.Join(c.dir, cacheLock), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := flock(lock, unix.LOCK_EX); err != nil {
		return err
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var layers []fs.FileInfo
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue // gone
		}
		if strings.HasPrefix(e.Name(), tempPrefix) {
			if !c.sweep(info) && info.Mode().IsRegular() {
				total += info.Size()
			}
		} else if _, err := hexOf(digestPrefix + e.Name()); err == nil {
			layers = append(layers, info)
			total += info.Size()
		}
	}
	slices.SortFunc(layers, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, l := range layers {
		if total <= c.bound {
			break
		}
		if err := os.Remove(filepath.Join(c.dir, l.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		total -= l.Size()
	}
	return nil
}

// sweep removes a temporary if its process is gone. It is a courtesy: what
// fails now is left to the next one.
func (c *Cache) sweep(info fs.FileInfo) (removed bool) {
	if time.Since(info.ModTime()) < stale {
		return false
	}
	path := filepath.Join(c.dir, info.Name())
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	return flock(f, unix.LOCK_EX|unix.LOCK_NB) == nil && isAt(f, path) && Remove(path) == nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			return err
		}
	}
}
