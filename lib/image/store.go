package image

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/workspace"
)

// Store is the images in one folder. It holds nothing open, and any number of
// processes may use the folder at the same time.
type Store struct {
	dir    string
	limits workspace.Limits // of what an import unpacks to
}

// At is the store in the folder dir, which needs not be there as long as no
// image is.
func At(dir string) *Store {
	return &Store{dir, workspace.Limits{Bytes: 64 << 30, Files: 4_000_000, Names: 512 << 20}}
}

const digestPrefix = "sha256:"

func (s *Store) tree(digest string) string {
	return filepath.Join(s.dir, "sha256", strings.TrimPrefix(digest, digestPrefix))
}

func (s *Store) nameFile(name string) string { return filepath.Join(s.dir, "names", name) }

// prepare makes the store's folders.
func (s *Store) prepare() error {
	if err := os.MkdirAll(filepath.Dir(s.dir), 0o755); err != nil {
		return err
	}
	for _, dir := range []string{"", "names", "sha256", "tmp"} {
		if err := os.Mkdir(filepath.Join(s.dir, dir), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_RDONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// exists tells whether there is a store, so that not to have one is not to
// have images.
func (s *Store) exists() bool {
	_, err := os.Stat(filepath.Join(s.dir, "lock"))
	return !errors.Is(err, fs.ErrNotExist)
}

// locked calls do with the store's lock: shared (LOCK_SH) by those who look
// something up or begin something, alone (LOCK_EX) by those who change what
// names and digests there are, or ask who uses them. It is never held while
// trees are read or written.
func (s *Store) locked(how int, do func() error) error {
	f, err := os.Open(filepath.Join(s.dir, "lock"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := flock(f, how); err != nil {
		return err
	}
	return do()
}

// flock locks f, or waits until it can; with LOCK_NB the error is EWOULDBLOCK
// instead.
func flock(f *os.File, how int) error {
	for {
		switch err := unix.Flock(int(f.Fd()), how); err {
		case nil:
			return nil
		case unix.EINTR:
		default:
			return &os.PathError{Op: "lock", Path: f.Name(), Err: err}
		}
	}
}

// record reads what a name stands for.
func (s *Store) record(name string) (*Record, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(s.nameFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s.notFound(name)
	}
	if err != nil {
		return nil, err
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil || !validDigest(r.Digest) {
		return nil, fault.Errorf(fault.Config, "%s is %w; remove it and import the image again", s.nameFile(name), ErrDamaged)
	}
	return &r, nil
}

// notFound tells which images there are instead.
func (s *Store) notFound(name string) error {
	names, err := s.names()
	if err != nil || len(names) == 0 {
		return fault.Errorf(fault.Unavailable, "%w: %s (there are none in %s)", ErrNotFound, name, s.dir)
	}
	return fault.Errorf(fault.Unavailable, "%w: %s (there are: %s)", ErrNotFound, name, strings.Join(names, ", "))
}

func (s *Store) names() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, "names"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if ValidName(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// Names are the names of all images, sorted.
func (s *Store) Names() ([]string, error) {
	names, err := s.names()
	return names, failed("list", err)
}

// List tells about all images, in the order of their names.
func (s *Store) List() ([]Info, error) {
	if !s.exists() {
		return nil, nil
	}
	var list []Info
	err := s.locked(unix.LOCK_EX, func() error {
		names, err := s.names()
		if err != nil {
			return err
		}
		for _, name := range names {
			info, err := s.info(name)
			if err != nil {
				return err
			}
			list = append(list, *info)
		}
		return nil
	})
	return list, failed("list", err)
}

// Show tells about one image.
func (s *Store) Show(name string) (*Info, error) {
	info := new(Info)
	err := s.lockedFor(name, unix.LOCK_EX, func() (err error) {
		info, err = s.info(name)
		return err
	})
	return info, failed("show "+name, err)
}

// lockedFor is locked, on behalf of one image, which is not there if there is
// no store.
func (s *Store) lockedFor(name string, how int, do func() error) error {
	if err := checkName(name); err != nil {
		return err
	}
	if !s.exists() {
		return s.notFound(name)
	}
	return s.locked(how, do)
}

// info needs the store's lock alone: to ask who uses a tree is to lock it for
// a moment.
func (s *Store) info(name string) (*Info, error) {
	r, err := s.record(name)
	if err != nil {
		return nil, err
	}
	used, err := s.used(r.Digest)
	return &Info{Name: name, Record: *r, InUse: used}, err
}

// used tells whether somebody uses a tree; see info.
func (s *Store) used(digest string) (bool, error) {
	f, err := os.Open(filepath.Join(s.tree(digest), "lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = flock(f, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

// Image is an image that is used. It is not removed until it is closed, or the
// process ends.
type Image struct {
	Info
	path string
	lock *os.File
}

// Path is the root file system, absolute. It is not to be written to, and only
// the store's owner can reach it: a container of others gets it by a mount
// that the owner makes.
func (i *Image) Path() string { return filepath.Join(i.path, "rootfs") }

// Close ends the use.
func (i *Image) Close() error { return i.lock.Close() }

// Open begins to use an image. If there is none of that name the error is
// ErrNotFound, and ErrDamaged if there is no more than the name; both are of
// kind MissingTool, as another worker may have it.
func (s *Store) Open(name string) (*Image, error) {
	i, err := s.use(name)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDamaged) {
		err = &fault.Error{Kind: fault.MissingTool, Err: err}
	}
	return i, failed("open", err)
}

func (s *Store) use(name string) (i *Image, err error) {
	err = s.lockedFor(name, unix.LOCK_SH, func() error {
		r, err := s.record(name)
		if err != nil {
			return err
		}
		i, err = s.useTree(r.Digest)
		if errors.Is(err, fs.ErrNotExist) {
			return fault.Errorf(fault.Config, "%s: %w: its tree %s is not there; import it again", name, ErrDamaged, r.Digest)
		}
		if err == nil {
			i.Info = Info{name, *r, true}
		}
		return err
	})
	return i, err
}

// useTree needs the store's lock, shared at least.
func (s *Store) useTree(digest string) (*Image, error) {
	path, err := filepath.Abs(s.tree(digest))
	if err != nil {
		return nil, err
	}
	f, err := os.Open(filepath.Join(path, "lock"))
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_SH); err != nil {
		f.Close()
		return nil, err
	}
	return &Image{path: path, lock: f}, nil
}
