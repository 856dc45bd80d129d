package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"strings"

	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// Beside a log that is long stands its index, and behind the index, as soon as
// the log is complete, its seal. Numbers have 8 bytes, the highest first.
//
//	n × newlines in the first 64 KiB, in the first 128 KiB, …
//	seal: "\xffsealed\n", size of the log, newlines in it, its SHA-256
//
// So the index is a function of the log: whoever adds to it adds the same
// bytes, and one that is missing or behind only costs the time to read the rest
// of the log. What follows the seal in the log is not of it: a worker that had
// lost its claim has written it.
const (
	indexSuffix = ".index"
	logStride   = 64 << 10 // bytes of the log for each number
	sealMagic   = "\xffsealed\n"
	sealSize    = 8 + 8 + 8 + sha256.Size
	// indexLag is how much of a log may be stored before its index is, so that
	// a log of a few lines costs one object and a long one few operations more.
	indexLag = 16 * logStride
)

func indexKey(log string) string { return log + indexSuffix }

// seal says that a log is complete, and what it is.
type seal struct {
	size, newlines int64
	sum            [sha256.Size]byte
}

func (s *seal) digest() string { return hex.EncodeToString(s.sum[:]) }

func (s *seal) append(b []byte) []byte {
	b = append(b, sealMagic...)
	b = binary.BigEndian.AppendUint64(b, uint64(s.size))
	b = binary.BigEndian.AppendUint64(b, uint64(s.newlines))
	return append(b, s.sum[:]...)
}

// parseSeal reads the seal that an index ends with, if it does.
func parseSeal(index []byte) (s seal, ok bool) {
	if len(index) < sealSize {
		return s, false
	}
	b := index[len(index)-sealSize:]
	if string(b[:8]) != sealMagic {
		return s, false
	}
	s.size, s.newlines = int64(binary.BigEndian.Uint64(b[8:])), int64(binary.BigEndian.Uint64(b[16:]))
	copy(s.sum[:], b[24:])
	return s, s.size >= 0 && s.newlines >= 0
}

// indexer makes the index of a log that it is given piece by piece.
type indexer struct {
	size, newlines int64
	sum            hash.Hash
	stored         int64  // bytes of the index that are in the store
	pending        []byte // those behind them
}

func newIndexer() *indexer { return &indexer{sum: sha256.New()} }

func (x *indexer) Write(p []byte) (int, error) {
	x.sum.Write(p)
	n := len(p)
	for len(p) > 0 {
		k := min(int64(len(p)), logStride-x.size%logStride)
		x.newlines += int64(bytes.Count(p[:k], []byte{'\n'}))
		x.size += k
		p = p[k:]
		if x.size%logStride == 0 {
			x.pending = binary.BigEndian.AppendUint64(x.pending, uint64(x.newlines))
		}
	}
	return n, nil
}

// seal is that of the log as it is now.
func (x *indexer) seal() *seal {
	s := &seal{size: x.size, newlines: x.newlines}
	x.sum.Sum(s.sum[:0])
	return s
}

// readSeal looks for the seal of a log that has size bytes, or had a moment
// ago; nil: it is not sealed.
func (r *Repo) readSeal(ctx context.Context, key string, size int64) (*seal, error) {
	// Here it is, unless more was written behind it.
	b, info, err := r.readIndex(ctx, key, size/logStride*8, sealSize)
	if err != nil {
		return nil, err
	}
	if s, ok := parseSeal(b); ok {
		return &s, nil
	}
	if info.Size < sealSize || info.Size%8 != 0 {
		return nil, nil
	}
	if b, _, err = r.readIndex(ctx, key, info.Size-sealSize, sealSize); err != nil {
		return nil, err
	}
	if s, ok := parseSeal(b); ok {
		return &s, nil
	}
	return nil, nil
}

// readIndex reads a part of a log's index; one that is not there is empty.
func (r *Repo) readIndex(ctx context.Context, key string, offset, n int64) ([]byte, store.Info, error) {
	rd, info, err := r.store.Get(ctx, indexKey(key), offset, n)
	if errors.Is(err, store.ErrNotFound) {
		return nil, store.Info{}, nil
	}
	if err != nil {
		return nil, info, err
	}
	defer rd.Close()
	b, err := io.ReadAll(rd)
	return b, info, err
}

// SealLog seals the log of an attempt that is over, if its writer has not done
// so: it was killed, or speaks REST.
func (r *Repo) SealLog(ctx context.Context, job string, n ticket.Number, step string, attempt int) error {
	return r.sealLog(ctx, logKey(job, n, step, attempt))
}

func (r *Repo) sealLog(ctx context.Context, key string) error {
	for sealed := int64(-1); ; {
		info, err := r.store.Stat(ctx, key)
		if errors.Is(err, store.ErrNotFound) || err == nil && info.Size == sealed {
			return nil
		}
		if err != nil {
			return err
		}
		version := ""
		if index, err := r.store.Stat(ctx, indexKey(key)); err == nil {
			version = index.Version
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		// What was added while we sealed it is taken in, too: a request that was
		// under way has been answered that it is in the log.
		old, err := r.readSeal(ctx, key, info.Size)
		if err != nil || old != nil && old.size != sealed {
			return err
		}
		if err := r.store.Sync(ctx, key); err != nil {
			return err
		}
		x := newIndexer()
		rd, _, err := r.store.Get(ctx, key, 0, info.Size)
		if err != nil {
			return err
		}
		_, err = io.Copy(x, rd)
		rd.Close()
		if err != nil {
			return err
		}
		whole := x.seal().append(x.pending)
		_, err = r.store.Swap(ctx, indexKey(key), version, bytes.NewReader(whole))
		if err == nil {
			sealed = x.size
		} else if !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnknown) {
			return err
		}
	}
}

// sealLogs seals those logs of a build's steps that are not sealed.
func (r *Repo) sealLogs(ctx context.Context, job string, n ticket.Number) error {
	logs, err := r.listLogs(ctx, job, n)
	if err != nil {
		return err
	}
	for _, l := range logs {
		if l.name == consoleName || l.whole() {
			continue
		}
		if err := r.sealLog(ctx, l.key); err != nil {
			return err
		}
	}
	return nil
}

// consoleName is the log of a build for what belongs to none of its steps. It
// is never sealed.
const consoleName = "console"

// storedLog is a log as the list of a build's objects shows it.
type storedLog struct {
	name, key string
	size      int64
	version   string
	index     int64 // size of the index; 0: there is none
}

// whole tells whether the index is one of a log of this size with a seal.
func (l *storedLog) whole() bool { return l.index == l.size/logStride*8+sealSize }

// listLogs lists a build's logs, in the order in which they are shown.
func (r *Repo) listLogs(ctx context.Context, job string, n ticket.Number) ([]storedLog, error) {
	prefix := buildPrefix(job, n) + DirLogs
	var logs []storedLog
	for after := ""; ; {
		infos, err := r.store.List(ctx, prefix, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			after = i.Key
			if log, ok := strings.CutSuffix(i.Key, indexSuffix); !ok {
				logs = append(logs, storedLog{name: i.Key[len(prefix):], key: i.Key, size: i.Size, version: i.Version})
			} else if k := len(logs) - 1; k >= 0 && logs[k].key == log {
				logs[k].index = i.Size
			}
		}
		if len(infos) < 1000 {
			return logs, nil
		}
	}
}
