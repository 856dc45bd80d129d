package dir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/store"
)

// Put implements [store.Store].
func (s *folder) Put(ctx context.Context, key string, r io.Reader) (store.Info, error) {
	info, err := s.put(ctx, key, r, func() error { return nil })
	return info, failed("put", key, err)
}

// Create implements [store.Store].
func (s *folder) Create(ctx context.Context, key string, r io.Reader) (store.Info, error) {
	info, err := s.put(ctx, key, r, func() error {
		_, err := s.lookup(key)
		if err == nil {
			return store.ErrExists
		}
		return unless(err, store.ErrNotFound)
	})
	return info, failed("create", key, err)
}

// Swap implements [store.Store].
func (s *folder) Swap(ctx context.Context, key, version string, r io.Reader) (store.Info, error) {
	info, err := s.put(ctx, key, r, func() error {
		now, err := s.lookup(key)
		if err := unless(err, store.ErrNotFound); err != nil {
			return err
		}
		if now.Version != version { // an absent object's is ""
			return store.ErrConflict
		}
		return nil
	})
	return info, failed("swap", key, err)
}

// unless returns err, or nil if it is the expected one.
func unless(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// put stores r if allowed, asked with the lock held, does not object.
func (s *folder) put(ctx context.Context, key string, r io.Reader, allowed func() error) (store.Info, error) {
	if err := usable(ctx, key); err != nil {
		return store.Info{}, err
	}
	if err := allowed(); err != nil { // spares reading r in vain; asked again below
		return store.Info{}, err
	}
	s.sweep()
	t, err := s.newTemp()
	if err != nil {
		return store.Info{}, err
	}
	defer t.close()
	if err := t.fill(ctx, r); err != nil {
		return store.Info{}, err
	}
	// The version is drawn before the sync, so that it is safe with the data.
	// That another writer may be faster from here on does not matter: versions
	// are compared, not ordered.
	l, err := s.lock(ctx, key)
	if err != nil {
		return store.Info{}, err
	}
	at, err := s.tick(l)
	l.unlock()
	if err != nil {
		return store.Info{}, err
	}
	if err := t.stamp(at); err != nil {
		return store.Info{}, err
	}
	if err := t.f.Sync(); err != nil {
		return store.Info{}, err
	}
	fi, err := t.f.Stat()
	if err != nil {
		return store.Info{}, err
	}

	if l, err = s.lock(ctx, key); err != nil {
		return store.Info{}, err
	}
	if err = allowed(); err == nil {
		err = s.place(t, key)
	}
	l.unlock()
	if err != nil {
		return store.Info{}, err
	}
	if err := s.syncEntry(key); err != nil {
		return store.Info{}, fmt.Errorf("%w: %w", store.ErrUnknown, err)
	}
	return describe(key, fi), nil
}

// Append implements [store.Store].
func (s *folder) Append(ctx context.Context, key string, offset int64, p []byte) error {
	return failed("append to", key, s.append(ctx, key, offset, p))
}

func (s *folder) append(ctx context.Context, key string, offset int64, p []byte) error {
	if err := usable(ctx, key); err != nil {
		return err
	}
	l, err := s.lock(ctx, key)
	if err != nil {
		return err
	}
	defer l.unlock()
	f, fi, err := s.openObject(key, os.O_RDWR)
	if errors.Is(err, store.ErrNotFound) {
		return s.appendNew(l, key, offset, p)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	size := fi.Size()
	there := size - offset
	if offset < 0 || there < 0 || there > int64(len(p)) {
		return store.ErrConflict
	}
	if there > 0 {
		have := make([]byte, there)
		if _, err := f.ReadAt(have, offset); err != nil {
			return err
		}
		if !bytes.HasPrefix(p, have) {
			return store.ErrConflict
		}
	}
	if there == int64(len(p)) {
		return nil
	}
	at, err := s.tick(l)
	if err != nil {
		return err
	}
	// Between these two a reader may see a version that nobody will see again;
	// no Swap can be made to believe in it, as that waits for the lock.
	_, err = f.WriteAt(p[there:], size)
	if err == nil {
		err = s.root.Chtimes(key, time.Time{}, at)
	}
	if err != nil {
		if undo := f.Truncate(size); undo != nil {
			return fmt.Errorf("%w: %w", store.ErrUnknown, errors.Join(err, undo))
		}
	}
	return err
}

// appendNew makes the object that the first Append creates appear with its
// bytes and its version at once.
func (s *folder) appendNew(l *shard, key string, offset int64, p []byte) error {
	if offset != 0 {
		return store.ErrConflict
	}
	t, err := s.newTemp()
	if err != nil {
		return err
	}
	defer t.close()
	if _, err := t.f.Write(p); err != nil {
		return err
	}
	at, err := s.tick(l)
	if err != nil {
		return err
	}
	if err := t.stamp(at); err != nil {
		return err
	}
	return s.place(t, key)
}

// Sync implements [store.Store].
func (s *folder) Sync(ctx context.Context, key string) error {
	return failed("sync", key, s.sync(ctx, key))
}

func (s *folder) sync(ctx context.Context, key string) error {
	if err := usable(ctx, key); err != nil {
		return err
	}
	f, _, err := s.openObject(key, os.O_RDWR)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	// Nobody knows whether the Append that made the object was here or in
	// another process, so its entry is synced always.
	return s.syncEntry(key)
}

// Delete implements [store.Store].
func (s *folder) Delete(ctx context.Context, key string) error {
	return failed("delete", key, s.delete(ctx, key, func(store.Info) error { return nil }))
}

// Remove implements [store.Remover].
func (s *folder) Remove(ctx context.Context, key, version string) error {
	return failed("remove", key, s.delete(ctx, key, func(now store.Info) error {
		if now.Version != version {
			return store.ErrConflict
		}
		return nil
	}))
}

// delete removes the object if allowed, asked with the lock held, does not
// object.
func (s *folder) delete(ctx context.Context, key string, allowed func(now store.Info) error) error {
	if err := usable(ctx, key); err != nil {
		return err
	}
	l, err := s.lock(ctx, key)
	if err != nil {
		return err
	}
	now, err := s.lookup(key)
	if err == nil {
		err = allowed(now)
	}
	if err == nil {
		err = s.unlink(key, 0)
	}
	l.unlock()
	if err != nil {
		return err
	}
	if err := s.syncEntry(key); err != nil {
		return fmt.Errorf("%w: %w", store.ErrUnknown, err)
	}
	s.prune(key)
	return nil
}

// usable checks what every operation on a key needs.
func usable(ctx context.Context, key string) error {
	if err := store.CheckKey(key); err != nil {
		return err
	}
	return ctx.Err()
}

// place renames t to key's path. It makes the folders that are missing, again
// and again if a Delete that finds them still empty takes them away.
func (s *folder) place(t *temp, key string) error {
	var err error
	for range 1000 {
		err = s.root.Rename(t.name, key)
		switch {
		case err == nil:
			t.name = ""
			return nil
		case errors.Is(err, fs.ErrNotExist):
			if err := s.makeParents(key); err != nil {
				return err
			}
		case errors.Is(err, unix.ENOTDIR):
			return fmt.Errorf("%w: a part of it is an object", store.ErrBadKey)
		case errors.Is(err, unix.EISDIR), errors.Is(err, fs.ErrExist):
			if !s.removeEmpty(key) {
				return fmt.Errorf("%w: it is a folder of objects", store.ErrBadKey)
			}
		default:
			return err
		}
	}
	return err
}
