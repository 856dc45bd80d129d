package source

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source/pack"
)

// mirror is a bare repository on this machine with all that was fetched from
// one URL so far. It saves the transfer, not the question: the server is always
// asked what it has, so whoever may not read there gets nothing here.
type mirror struct {
	gitDir
	access *access
	loc    location
}

// maxPacks is how many packs a mirror collects before they are made one: each
// is one more place to look for an object.
const maxPacks = 40

// manifest lists the packs of a mirror, in git's own format, so that a lost
// one is noticed.
const manifest = "objects/info/packs"

var unsafeName = regexp.MustCompile(`[^A-Za-z0-9._-]+`)

func newMirror(a *access, loc location) *mirror {
	url := loc.clean()
	sum := sha256.Sum256([]byte(url))
	name := unsafeName.ReplaceAllString(strings.TrimSuffix(path.Base(loc.endpoint.Path), ".git"), "_")
	return &mirror{gitDir{filepath.Join(a.Mirror, fmt.Sprintf("%.40s-%x.git", strings.TrimLeft(name, "."), sum[:10]))}, a, loc}
}

// lock waits for the mirror and returns what frees it. A dead process holds no
// lock.
func (m *mirror) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(m.access.Mirror, 0o700); err != nil {
		return nil, fault.Errorf(fault.Config, "mirror: %w", err)
	}
	f, err := lockFile(ctx, m.path+".lock")
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	return func() { f.Close() }, nil
}

func lockFile(ctx context.Context, name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.Wrap(fault.Config, err)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fault.Errorf(fault.Config, "locking %s: %w", name, err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// discard removes the mirror.
func (m *mirror) discard(ctx context.Context) error {
	unlock, err := m.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return os.RemoveAll(m.path)
}

// copyTo brings the mirror up to date and copies its objects into git, which
// begin prepares once nothing is in the way of that.
//
// Packs are copied, not linked: the workspace belongs to the job's scripts,
// and through a link one job could change the source of another. The copy is
// compared with the pack's checksum on its way.
func (m *mirror) copyTo(ctx context.Context, ref string, git *gitDir, begin func() error) (repoState, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return repoState{}, err
	}
	defer unlock()
	s, err := m.update(ctx, ref, true)
	if err != nil {
		return s, err
	}
	if err := begin(); err != nil {
		return s, err
	}
	names, err := m.listed()
	if err != nil {
		return s, err
	}
	for _, name := range names {
		for _, ext := range []string{".pack", ".idx"} { // the index makes it count
			if err := copyChecked(ctx, filepath.Join(git.packs(), name+ext), filepath.Join(m.packs(), name+ext)); err != nil {
				return s, err
			}
		}
	}
	return s, nil
}

// update fetches what is new and finds ref; the lock is held. Without one is
// there to be found, only branches and tags are brought up to date.
func (m *mirror) update(ctx context.Context, ref string, find bool) (repoState, error) {
	store, err := m.open()
	if err != nil {
		return repoState{}, err
	}
	defer func() { store.Close() }()
	fetch := func(r *remote, want []plumbing.Hash) error {
		var missing []plumbing.Hash
		for _, h := range want {
			if !store.Has(h) {
				missing = append(missing, h)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		m.access.log.Debug("fetching", "repository", m.loc, "tips", len(missing))
		if _, err := r.fetch(ctx, m.packs(), missing, m.haves(store), 0); err != nil {
			return err
		}
		if err := m.list(ctx); err != nil {
			return err
		}
		store.Close()
		var err error
		store, err = pack.Open(m.packs())
		return err
	}
	has := func(h plumbing.Hash) bool { return store.Has(h) }
	s, err := m.access.obtain(ctx, m.loc, ref, find, fetch, has)
	if err != nil {
		return s, err
	}
	for _, h := range s.refs {
		if !store.Has(h) {
			return s, &missingError{h}
		}
	}
	return s, writeAtomic(filepath.Join(m.path, "packed-refs"), packedRefs(s.refs, s.peeled))
}

type missingError struct{ id plumbing.Hash }

func (e *missingError) Error() string { return "the server did not send " + e.id.String() }
func (e *missingError) Unwrap() error { return pack.ErrNotFound }

// open opens the objects. A mirror that is not there, or not whole, begins
// anew.
func (m *mirror) open() (*pack.Store, error) {
	if store, err := m.openWhole(); err == nil {
		return store, nil
	} else if !errors.Is(err, os.ErrNotExist) || exists(m.path) {
		m.access.log.Warn("the mirror is damaged and is made anew", "repository", m.loc, "reason", err)
	}
	if err := os.RemoveAll(m.path); err != nil {
		return nil, fault.Errorf(fault.Config, "mirror: %w", err)
	}
	if err := m.init(); err != nil {
		return nil, fault.Errorf(fault.Config, "mirror: %w", err)
	}
	for name, text := range map[string]string{
		"config": "[core]\n\trepositoryformatversion = 0\n\tbare = true\n[remote \"origin\"]\n\turl = " + quote(m.loc.clean()) + "\n",
		"HEAD":   "ref: refs/heads/main\n",
		manifest: "\n",
	} {
		if err := writeAtomic(filepath.Join(m.path, name), []byte(text)); err != nil {
			return nil, fault.Errorf(fault.Config, "mirror: %w", err)
		}
	}
	return pack.Open(m.packs())
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// openWhole opens the objects if all the packs of the manifest are there, and
// removes what a killed process has left.
func (m *mirror) openWhole() (*pack.Store, error) {
	names, err := m.listed()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		for _, ext := range []string{".pack", ".idx"} {
			if _, err := os.Stat(filepath.Join(m.packs(), name+ext)); err != nil {
				return nil, err
			}
		}
	}
	listed := " " + strings.Join(names, " ") + " "
	files, err := os.ReadDir(m.packs())
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		name := strings.TrimSuffix(strings.TrimSuffix(f.Name(), ".pack"), ".idx")
		if !strings.Contains(listed, " "+name+" ") {
			if err := os.Remove(filepath.Join(m.packs(), f.Name())); err != nil {
				return nil, err
			}
		}
	}
	return pack.Open(m.packs())
}

// listed reads the manifest.
func (m *mirror) listed() ([]string, error) {
	b, err := os.ReadFile(filepath.Join(m.path, manifest))
	if err != nil {
		return nil, err
	}
	var names []string
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "P "); ok && name == filepath.Base(name) {
			names = append(names, strings.TrimSuffix(name, ".pack"))
		}
	}
	return names, nil
}

// list writes the manifest from what is there, after joining too many packs.
func (m *mirror) list(ctx context.Context) error {
	names, err := filepath.Glob(filepath.Join(m.packs(), "pack-*.idx"))
	if err != nil {
		return err
	}
	if len(names) > maxPacks {
		joined, err := pack.Join(ctx, m.packs())
		if err != nil {
			return err
		}
		names = []string{joined}
	}
	var b bytes.Buffer
	for _, name := range names {
		fmt.Fprintf(&b, "P %s.pack\n", strings.TrimSuffix(filepath.Base(name), ".idx"))
	}
	b.WriteByte('\n')
	return writeAtomic(filepath.Join(m.path, manifest), b.Bytes())
}

// haves are the commits to tell a server that we have: the tips as they were
// last seen, and for those whose branch may have been rewound, what is below.
func (m *mirror) haves(store *pack.Store) []plumbing.Hash {
	const most = 512
	b, _ := os.ReadFile(filepath.Join(m.path, "packed-refs")) // without it all is fetched
	var tips []plumbing.Hash
	for line := range strings.SplitSeq(string(b), "\n") {
		id, _, _ := strings.Cut(line, " ")
		if h := plumbing.NewHash(id); plumbing.IsHash(id) && store.Has(h) && len(tips) < most/2 {
			tips = append(tips, h)
		}
	}
	have, seen := []plumbing.Hash{}, map[plumbing.Hash]bool{}
	for queue := tips; len(queue) > 0 && len(have) < most; queue = queue[1:] {
		if seen[queue[0]] {
			continue
		}
		seen[queue[0]] = true
		c, err := peel(store, queue[0])
		if err != nil {
			continue
		}
		have = append(have, c.Hash)
		queue = append(queue, c.ParentHashes...)
	}
	return have
}

// copyChecked copies a pack or an index, both of which end with the checksum
// of what stands before it.
func copyChecked(ctx context.Context, dst, src string) error {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if info.Size() < sha1.Size {
		return fmt.Errorf("%w: %s is cut off", pack.ErrCorrupt, src)
	}
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	defer out.Close()
	h := sha1.New()
	body := io.LimitReader(in, info.Size()-sha1.Size)
	buf := make([]byte, 1<<20)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := io.ReadFull(body, buf)
		h.Write(buf[:n])
		if _, err := out.Write(buf[:n]); err != nil {
			return err
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	var sum [sha1.Size]byte
	if _, err := io.ReadFull(in, sum[:]); err != nil {
		return err
	}
	if [sha1.Size]byte(h.Sum(nil)) != sum {
		return fmt.Errorf("%w: the checksum of %s does not match", pack.ErrCorrupt, src)
	}
	if _, err := out.Write(sum[:]); err != nil {
		return err
	}
	return out.Close()
}

// writeAtomic replaces a file at once.
func writeAtomic(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".tmp-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// scratch is a mirror for one use.
func scratch(a *access, loc location) (*mirror, func(), error) {
	dir, err := os.MkdirTemp("", "distci-mirror-")
	if err != nil {
		return nil, nil, fault.Wrap(fault.Config, err)
	}
	b := *a
	b.Mirror = dir
	return newMirror(&b, loc), func() { os.RemoveAll(dir) }, nil
}

// DefaultMirror is the mirror cache's usual folder: $XDG_CACHE_HOME/distci/git,
// or ~/.cache/distci/git; "" without a home.
func DefaultMirror() string {
	dir, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "distci", "git")
}
