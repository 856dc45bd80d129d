package secret

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// folderPrefix begins the names of our folders, which for the rest are random:
// where everybody may make folders nobody can make ours before.
const folderPrefix = "distci-secrets-"

// Memory holds secrets while steps use them: a folder in a file system that is
// in memory, made at the first need. This process locks it, so that when it has
// been killed others see that, and remove the folder: see Clean.
type Memory struct {
	bases []string // folders in which ours may be; the first of a file system in memory is taken

	mu   sync.Mutex
	path string // "": not made yet
	lock *os.File
	last int
}

// NewMemory returns one without a folder yet.
func NewMemory() *Memory { return &Memory{bases: bases()} }

// bases are where file systems in memory are to be expected.
func bases() []string {
	if os.Geteuid() == 0 {
		return []string{"/run", "/dev/shm"}
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return []string{dir, "/dev/shm"}
	}
	return []string{"/dev/shm"}
}

// Put makes a folder with the secrets, as files that only this user can read.
// The function that it returns removes it. Errors are of kind Config if there is
// no place for it, and otherwise Temporary.
func (m *Memory) Put(secrets []Secret) (dir string, remove func() error, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.path == "" {
		if err := m.open(); err != nil {
			return "", nil, err
		}
	}
	m.last++
	dir = filepath.Join(m.path, strconv.Itoa(m.last))
	remove = func() error { return os.RemoveAll(dir) }
	if err = os.Mkdir(dir, 0o700); err == nil {
		for _, s := range secrets {
			if err = write(filepath.Join(dir, s.Name), s.Value); err != nil {
				break
			}
		}
	}
	if err != nil {
		return "", nil, fault.Errorf(fault.Temporary, "secrets: %w", errors.Join(err, remove()))
	}
	return dir, remove, nil
}

func write(path string, value []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o400)
	if err != nil {
		return err
	}
	_, err = f.Write(value)
	return errors.Join(err, f.Close())
}

// open makes the folder and locks it. In the moment between, Clean may take it
// for a dead process's.
func (m *Memory) open() error {
	base, err := m.base()
	if err != nil {
		return err
	}
	for {
		path, err := os.MkdirTemp(base, folderPrefix) // mode 0700
		if err != nil {
			return fault.Errorf(fault.Temporary, "secrets: %w", err)
		}
		lock, err := lockFolder(path)
		if err != nil {
			os.Remove(path)
			return fault.Errorf(fault.Temporary, "secrets: %w", err)
		}
		if lock != nil {
			m.path, m.lock = path, lock
			return nil
		}
	}
}

// base finds a file system in memory that we may write to.
func (m *Memory) base() (string, error) {
	for _, dir := range m.bases {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC) && unix.Access(dir, unix.W_OK|unix.X_OK) == nil {
			return dir, nil
		}
	}
	return "", fault.Errorf(fault.Config, "secrets: there is no tmpfs on this worker to hold them: tried %v; mount one at /dev/shm", m.bases)
}

// lockFolder locks a folder for as long as this process lives. The result is
// nil if it is locked already, or gone.
func lockFolder(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if err == unix.EWOULDBLOCK {
			return nil, nil
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	locked, err1 := f.Stat()
	there, err2 := os.Lstat(path)
	if err1 != nil || err2 != nil || !os.SameFile(locked, there) {
		f.Close()
		return nil, nil
	}
	return f, nil
}

// Close removes the folder with all that is in it.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.path == "" {
		return nil
	}
	err := os.RemoveAll(m.path)
	m.lock.Close()
	m.path = ""
	return err
}

// Clean removes the folders of this user's processes that are gone without
// having removed them.
func (m *Memory) Clean() error {
	var errs []error
	for _, base := range m.bases {
		paths, _ := filepath.Glob(filepath.Join(base, folderPrefix+"*"))
		for _, path := range paths {
			fi, err := os.Lstat(path)
			if err != nil || !fi.IsDir() || owner(fi) != os.Geteuid() {
				continue
			}
			lock, err := lockFolder(path)
			if lock != nil {
				err = os.RemoveAll(path)
				lock.Close()
			}
			errs = append(errs, err)
		}
	}
	return fault.Wrap(fault.Temporary, errors.Join(errs...))
}

func owner(fi fs.FileInfo) int {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
