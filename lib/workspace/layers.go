package workspace

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// Layers is the layers in a store, with a cache before it.
type Layers struct {
	store  store.Store
	cache  *Cache
	limits Limits
}

// NewLayers uses s and c; what is restored must be within the limits.
func NewLayers(s store.Store, c *Cache, lim Limits) *Layers {
	return &Layers{store: s, cache: c, limits: lim}
}

// Key is where the store has the layer of that digest.
func Key(digest string) (string, error) {
	digits, err := hexOf(digest)
	return "layers/sha256/" + digits, err
}

// Save stores what has changed in dir since old was taken (nil: everything)
// as a new layer, and returns it and the new index. If nothing has changed
// the layer is Empty.
func (l *Layers) Save(ctx context.Context, dir string, old *Index) (Layer, *Index, error) {
	layer, x, err := l.save(ctx, dir, old, false)
	return layer, x, failed("save", err)
}

func (l *Layers) save(ctx context.Context, dir string, old *Index, opaque bool) (Layer, *Index, error) {
	for attempt := 1; ; attempt++ {
		layer, x, err := l.saveOnce(ctx, dir, old, opaque)
		if !errors.Is(err, errChanged) || attempt == 3 {
			return layer, x, err
		}
	}
}

func (l *Layers) saveOnce(ctx context.Context, dir string, old *Index, opaque bool) (Layer, *Index, error) {
	t, err := l.cache.temp()
	if err != nil {
		return Layer{}, nil, err
	}
	defer t.discard()
	layer, x, err := diff(ctx, dir, old, t.f, opaque)
	if err != nil || layer.Empty() {
		return Layer{}, x, err
	}
	if err := l.upload(ctx, t.f, layer.Digest); err != nil {
		return Layer{}, nil, err
	}
	f, err := t.keep(layer.Digest)
	if err != nil {
		return Layer{}, nil, err
	}
	return layer, x, f.Close()
}

// upload puts a layer into the store. It may be there already: the same
// changes give the same layer. For the same reason it is safe to try again
// when nobody knows whether it has worked.
func (l *Layers) upload(ctx context.Context, f *os.File, digest string) error {
	key, err := Key(digest)
	if err != nil {
		return err
	}
	for range 5 {
		if err = l.uploadOnce(ctx, f, key); !errors.Is(err, store.ErrUnknown) && !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	return err
}

// uploadOnce writes a layer that is there once more: it may be an old one that
// no build refers to any more, and whoever collects garbage may have decided to
// remove it. That fails once it has been changed, and it is young again.
// Errors: store.ErrConflict, if others do the same, or remove it.
func (l *Layers) uploadOnce(ctx context.Context, f *os.File, key string) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err := l.store.Create(ctx, key, f)
	if !errors.Is(err, store.ErrExists) {
		return err
	}
	there, err := l.store.Stat(ctx, key)
	// An empty one is being removed; see store.Remove.
	for since := time.Now(); err == nil && there.Size == 0 && time.Since(since) < store.Removing; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(removePoll):
		}
		was := there.Version
		if there, err = l.store.Stat(ctx, key); err == nil && there.Version != was {
			since = time.Now()
		}
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = l.store.Swap(ctx, key, there.Version, f) // absent: ""
	return err
}

// removePoll is how often a layer is looked at that is being removed.
const removePoll = 100 * time.Millisecond

// open returns a layer, verified.
func (l *Layers) open(ctx context.Context, digest string) (*os.File, error) {
	return l.cache.open(ctx, digest, func(ctx context.Context) (io.ReadCloser, error) {
		key, err := Key(digest)
		if err != nil {
			return nil, err
		}
		r, _, err := l.store.Get(ctx, key, 0, -1)
		if errors.Is(err, store.ErrNotFound) {
			return nil, fault.Errorf(fault.Unavailable, "layer %s is not in the store: %w", digest, err)
		}
		return r, err
	})
}

// openAll returns several layers, which are fetched at the same time.
func (l *Layers) openAll(ctx context.Context, digests []string) (files []*os.File, err error) {
	p := l.Prefetch(ctx, digests)
	defer p.Close()
	for i := range digests {
		f, err := p.take(ctx, i)
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// Restore makes dir, which must be absent or empty, what the layers say, in
// their order, and returns its index. After an error dir is to be removed; see
// [Remove].
func (l *Layers) Restore(ctx context.Context, dir string, digests []string) (*Index, error) {
	p := l.Prefetch(ctx, digests)
	defer p.Close()
	return p.Restore(ctx, dir)
}

// makeEmpty makes dir, or makes sure that nothing is in it.
func makeEmpty(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(1)
	if len(names) > 0 {
		return fault.Errorf(fault.Internal, "%s is not empty", dir)
	}
	if err != io.EOF {
		return err
	}
	return nil
}

// Import stores the tree in a tar, plain or compressed with gzip or zstd, as a
// layer that replaces everything below it. An archive that is damaged or
// hostile is ErrArchive, one that is too large ErrLimit; both are of kind
// BadTicket.
func (l *Layers) Import(ctx context.Context, r io.Reader, lim Limits) (Layer, error) {
	layer, err := l.importTree(ctx, r, lim)
	return layer, failed("import", err)
}

// importTree goes by way of a real tree, which leaves no doubt as to what the
// archive means.
func (l *Layers) importTree(ctx context.Context, r io.Reader, lim Limits) (Layer, error) {
	dir, remove, err := l.cache.tempDir()
	if err != nil {
		return Layer{}, err
	}
	defer remove()
	tree := dir + "/tree"
	if err := os.Mkdir(tree, 0o700); err != nil {
		return Layer{}, err
	}
	// For an archive that does not mention its root.
	if err := setTime(unix.AT_FDCWD, tree, unix.Timespec{}); err != nil {
		return Layer{}, err
	}
	if err := os.Chmod(tree, 0o755); err != nil {
		return Layer{}, err
	}
	if err := apply(ctx, tree, r, lim, false); err != nil {
		return Layer{}, err
	}
	layer, _, err := l.save(ctx, tree, nil, true)
	return layer, err
}
