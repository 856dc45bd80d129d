package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/workspace"
)

// Source is where an image comes from.
type Source interface {
	// fill makes the tree. It may be called once.
	fill(ctx context.Context, t *target) error
	// String says what it is, for people.
	String() string
}

// target is what a source fills.
type target struct {
	dir    string           // the tree, empty
	temp   string           // an empty folder beside it, for what the source needs
	store  string           // the store's folder, which is in no image
	owners bool             // whether owners can be set
	limits workspace.Limits // what is left of them
	notes  *notes
	env    []string
}

// apply unpacks an archive on the tree.
func (t *target) apply(ctx context.Context, r io.Reader, layer bool) error {
	u, err := workspace.ApplyRoot(ctx, t.dir, r, t.limits, workspace.Root{Owners: t.owners, Layer: layer, Note: t.notes.leftOut})
	// At least one is left, as zero would stand for the default: the next
	// archive fails at its second entry or byte.
	t.limits.Files = max(1, t.limits.Files-u.Files)
	t.limits.Bytes = max(1, t.limits.Bytes-u.Bytes)
	t.limits.Names = max(1, t.limits.Names-u.Names)
	return err
}

// notes tells what was left out, but not of all if it is much.
type notes struct {
	mu   sync.Mutex
	tell func(string)
	n    int
}

const maxNotes = 20

func (n *notes) leftOut(path, what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.n++; n.n <= maxNotes {
		n.tell(fmt.Sprintf("left out: %q: %s", path, what))
	}
}

func (n *notes) end() {
	if n.n > maxNotes {
		n.tell(fmt.Sprintf("left out: and %d more", n.n-maxNotes))
	}
}

// Import makes an image of what src has and gives it the name, which may have
// stood for another one before. What is not taken over is told to note. After
// an error the store is as it was.
func (s *Store) Import(ctx context.Context, name string, src Source, note func(string)) (*Info, error) {
	info, err := s.importFrom(ctx, name, src, note)
	return info, failed(fmt.Sprintf("import %s: %s", name, src), err)
}

func (s *Store) importFrom(ctx context.Context, name string, src Source, note func(string)) (*Info, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := s.prepare(); err != nil {
		return nil, err
	}
	if err := s.clean(); err != nil { // perhaps of what has filled the disk last time
		return nil, err
	}
	temp, remove, err := s.temp()
	if err != nil {
		return nil, err
	}
	defer remove()
	made := filepath.Join(temp, "image")
	t := &target{dir: filepath.Join(made, "rootfs"), temp: filepath.Join(temp, "source"), store: s.dir, owners: os.Geteuid() == 0, limits: s.limits, notes: &notes{tell: note}}
	if err := t.prepare(made); err != nil {
		return nil, err
	}
	if !t.owners {
		note("not root: all files will belong to you")
	}
	if err := src.fill(ctx, t); err != nil {
		return nil, err
	}
	t.notes.end()
	if err := plausible(t.dir); err != nil {
		return nil, err
	}
	sum, err := seal(ctx, made)
	if err != nil {
		return nil, err
	}
	r := Record{Digest: sum.digest, Size: sum.size, Files: sum.files, Created: time.Now().UTC().Truncate(time.Second), Source: src.String(), Env: t.env}
	if err := s.publish(ctx, made, name, &r); err != nil {
		return nil, err
	}
	// The name may have stood for another tree. If that cannot be removed now,
	// the next who changes the store will tell.
	_ = s.clean()
	return &Info{Name: name, Record: r}, nil
}

// prepare makes the folders. The tree's own is as it will stay if the source
// does not mention it.
func (t *target) prepare(made string) error {
	for _, dir := range []string{made, t.dir, t.temp} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := os.Chmod(t.dir, 0o755); err != nil {
		return err
	}
	return os.Chtimes(t.dir, time.Unix(0, 0), time.Unix(0, 0))
}

// plausible finds what people import by mistake.
func plausible(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for _, e := range entries {
		has[e.Name()] = true
	}
	switch {
	case len(entries) == 0:
		return fault.Errorf(fault.BadTicket, "it holds nothing")
	case has["oci-layout"] && has["index.json"], has["manifest.json"] && !has["bin"] && !has["usr"]:
		return fault.Errorf(fault.BadTicket, "it is an archive of images, not a root file system: unpack it, and import the folder, which must be an OCI layout")
	}
	return nil
}

// seal writes the manifest of a tree that is complete, and makes sure that all
// of it is on the disk before it can be found.
func seal(ctx context.Context, made string) (summary, error) {
	if err := os.WriteFile(filepath.Join(made, "lock"), nil, 0o600); err != nil {
		return summary{}, err
	}
	f, err := os.OpenFile(filepath.Join(made, "manifest"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return summary{}, err
	}
	defer f.Close()
	sum, err := writeManifest(ctx, filepath.Join(made, "rootfs"), f)
	if err != nil {
		return summary{}, err
	}
	return sum, unix.Syncfs(int(f.Fd()))
}

// publish moves a sealed tree to its digest, unless that is there already and
// sound, and gives it its name. A tree that is there and used, but was not
// there or not sound a moment ago, is looked at again: others may import the
// same now.
func (s *Store) publish(ctx context.Context, made, name string, r *Record) error {
	const attempts = 5
	for i := 1; ; i++ {
		err := s.publishOnce(ctx, made, name, r)
		if !errors.Is(err, ErrInUse) || i == attempts {
			return err
		}
	}
}

func (s *Store) publishOnce(ctx context.Context, made, name string, r *Record) error {
	same, err := s.sound(ctx, r.Digest)
	if err != nil {
		return err
	}
	if same != nil {
		defer same.Close() // at the end: nobody retires it before it has its name
	}
	return s.locked(unix.LOCK_EX, func() error {
		if same == nil {
			if err := s.replace(made, r.Digest); err != nil {
				return err
			}
		}
		return s.writeRecord(made, name, r)
	})
}

// sound returns the tree of a digest, in use, if it is there and verified.
func (s *Store) sound(ctx context.Context, digest string) (i *Image, err error) {
	err = s.locked(unix.LOCK_SH, func() error {
		i, err = s.useTree(digest)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	err = verify(ctx, i.path, digest)
	if err != nil {
		i.Close()
		i = nil
	}
	if errors.Is(err, ErrDamaged) {
		err = nil
	}
	return i, err
}

// replace moves a tree to its digest, where a damaged one may be, or one that
// was imported at the same time.
func (s *Store) replace(made, digest string) error {
	path := s.tree(digest)
	err := os.Rename(made, path)
	if !errors.Is(err, fs.ErrExist) && !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	used, err := s.used(digest)
	if err != nil {
		return err
	}
	if used {
		return fault.Errorf(fault.Temporary, "the tree of %s is damaged and %w: try again when no container has it", digest, ErrInUse)
	}
	if err := os.Rename(path, made+".old"); err != nil {
		return err
	}
	return os.Rename(made, path)
}

// writeRecord gives a name its new meaning, at once.
func (s *Store) writeRecord(made, name string, r *Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temp := made + ".name"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(append(b, '\n')); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(temp, s.nameFile(name)); err != nil {
		return err
	}
	for _, dir := range []string{"sha256", "names"} {
		if err := syncDir(filepath.Join(s.dir, dir)); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Verify compares the tree of an image with its digest. The error is
// ErrDamaged and tells the first file that differs.
func (s *Store) Verify(ctx context.Context, name string) error {
	i, err := s.use(name)
	if err == nil {
		defer i.Close()
		err = verify(ctx, i.path, i.Digest)
	}
	return failed("verify "+name, err)
}
