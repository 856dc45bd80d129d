package repo

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/distci/distci/lib/store"
)

// LogCheck is what [Repo.CheckLog] has found.
type LogCheck struct {
	Sealed bool   // else there is nothing to compare the log with
	What   string // is wrong with it; "": nothing
	Read   int64  // bytes
}

// CheckLog compares a log of a build, by its name in the build's folder and the
// size of its object, with its seal; with quick only the sizes. Errors:
// store.ErrNotFound.
func (r *Repo) CheckLog(ctx context.Context, prefix, name string, size int64, quick bool) (c LogCheck, err error) {
	key := prefix + name
	s, err := r.readSeal(ctx, key, size)
	if err != nil || s == nil {
		return c, err
	}
	c.Sealed = true
	wrong := func(format string, args ...any) (LogCheck, error) {
		c.What = fmt.Sprintf(format, args...)
		return c, nil
	}
	if size < s.size {
		return wrong("has %d bytes, and had %d when it was sealed", size, s.size)
	}
	index, _, err := r.readIndex(ctx, key, 0, -1)
	if err != nil {
		return c, err
	}
	if len(index) == 0 {
		return c, store.ErrNotFound // it was there a moment ago
	}
	if want := s.size/logStride*8 + sealSize; int64(len(index)) != want {
		return wrong("has an index of %d bytes, expected %d", len(index), want)
	}
	if quick {
		return c, nil
	}
	rd, _, err := r.store.Get(ctx, key, 0, s.size)
	if err != nil {
		return c, err
	}
	defer rd.Close()
	x := newIndexer()
	if c.Read, err = io.Copy(x, rd); err != nil {
		return c, err
	}
	switch now := x.seal(); {
	case now.sum != s.sum || now.size != s.size:
		return wrong("is damaged: its %d bytes have the SHA-256 %s, and had %s", now.size, now.digest(), s.digest())
	case now.newlines != s.newlines || !bytes.Equal(x.pending, index[:len(index)-sealSize]):
		return wrong("has a damaged index: its lines are looked for in the wrong places")
	}
	return c, nil
}

// IndexedLog is the log, by its name in the build's folder, to which an object of
// that folder is the index.
func IndexedLog(name string) (log string, ok bool) {
	if !strings.HasPrefix(name, DirLogs) {
		return "", false
	}
	return strings.CutSuffix(name, indexSuffix)
}
