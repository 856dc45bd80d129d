// Package dir is a store in a folder, for any number of processes on machines
// that share its file system.
//
// An object is a plain file at its key's path. Names that begin with "." are
// never keys, so the store keeps its own things under such names:
//
//	.distci-store  the marker: "distci-store FORMAT"
//	.tmp/          objects that are being written
//	.lock/         one file per shard of the keys, see lock.go
//
// A new object is written in .tmp, made safe and renamed to its place, so a
// reader sees all of it or nothing, and a process that is killed leaves at
// most a temporary. A key's changes are serialised by its shard's lock. All
// access goes through an [os.Root]: no key and no planted link leads outside.
package dir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

const (
	marker = ".distci-store"
	format = 1
	tmpDir = ".tmp"
)

// folder is a store in a folder.
type folder struct {
	root    *os.Root
	shards  [shards]shard
	watcher watcher

	mu      sync.Mutex
	durable map[string]struct{} // folders whose own entry is known to be safe on disk
	swept   time.Time           // when .tmp was last cleared of left-overs
}

// Open opens the store in the folder at path and creates it if there is none.
// A folder that holds other things, or a store of a format that is newer than
// this program, is refused with a [fault.Config] and is left as it is.
func Open(path string) (store.Store, error) {
	s, err := open(path)
	if err != nil {
		return nil, kind(fmt.Errorf("store/dir: open %s: %w", path, err))
	}
	return s, nil
}

func open(path string) (*folder, error) {
	if path == "" {
		return nil, fault.Errorf(fault.Config, "no folder given")
	}
	if err := makeFolder(path); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		if fi, statErr := os.Stat(path); statErr == nil && !fi.IsDir() {
			return nil, fault.Wrap(fault.Config, err)
		}
		return nil, err
	}
	s := &folder{root: root, durable: map[string]struct{}{}}
	for i := range s.shards {
		s.shards[i].slot = make(chan struct{}, 1)
	}
	if err := s.settle(); err != nil {
		root.Close()
		return nil, err
	}
	s.sweep()
	return s, nil
}

// settle finds the marker, or makes it if the folder is empty.
func (s *folder) settle() error {
	err := s.readMarker()
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.writeMarker(); err == nil {
			err = s.readMarker()
		}
	}
	if err != nil {
		return err
	}
	for _, d := range []string{tmpDir, lockDir} {
		if err := s.root.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func (s *folder) readMarker() error {
	b, err := s.root.ReadFile(marker)
	if err != nil {
		return err
	}
	text, ok := strings.CutPrefix(string(b), "distci-store ")
	n, err := strconv.Atoi(strings.TrimSpace(text))
	if !ok || err != nil || n < 1 {
		return fault.Errorf(fault.Config, "%s is not the marker of a store", marker)
	}
	if n > format {
		return fault.Errorf(fault.Config, "the store has format %d, this program knows formats up to %d: use a newer program", n, format)
	}
	return nil
}

// writeMarker makes an empty folder a store. Of several processes that do so
// at once all succeed, as the marker appears complete and is never replaced.
func (s *folder) writeMarker() error {
	d, err := s.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, marker) {
			if _, err := s.root.Lstat(marker); err == nil {
				return nil // another process was faster, and has gone on
			}
			return fault.Errorf(fault.Config, "the folder is not a store and not empty (it holds %q): give an empty or a new one", name)
		}
	}
	tmp := marker + "." + randomName()
	f, err := s.root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer s.root.Remove(tmp)
	_, err = fmt.Fprintf(f, "distci-store %d\n", format)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := s.root.Link(tmp, marker); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return d.Sync()
}

// makeFolder makes the folder at path and its missing parents, safely on disk.
func makeFolder(path string) error {
	err := os.Mkdir(path, 0o700)
	parent := filepath.Dir(path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case errors.Is(err, fs.ErrNotExist) && parent != path:
		if err := makeFolder(parent); err != nil {
			return err
		}
		return makeFolder(path)
	case errors.Is(err, unix.ENOTDIR):
		return fault.Wrap(fault.Config, err)
	case err != nil:
		return err
	}
	d, err := os.Open(parent)
	if err != nil {
		return nil // a parent that may be used but not read cannot be synced
	}
	defer d.Close()
	return d.Sync()
}

// Close implements [store.Store]. It waits for changes that are under way.
func (s *folder) Close() error {
	s.watcher.close()
	for i := range s.shards {
		s.shards[i].close()
	}
	return s.root.Close()
}
