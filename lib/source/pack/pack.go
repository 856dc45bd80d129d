// Package pack receives, indexes and reads git packs.
//
// The formats are git's own: gitformat-pack(5). The package exists because the
// generic parser and reader of go-git take several times as long as git does
// for the same pack, on one core; here the second pass of indexing and all
// reading use every core, and files are mapped instead of read.
package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/flate"
	"github.com/pjbgf/sha1cd"
	"golang.org/x/sys/unix"

	"github.com/go-git/go-git/v5/plumbing"
)

// ErrCorrupt means that a pack or its index does not hold what it should.
var ErrCorrupt = errors.New("corrupt pack")

// ErrNotFound means that no pack holds the object.
var ErrNotFound = errors.New("object not found")

// maxObject bounds the size that an object may claim, so that a hostile header
// cannot ask for any amount of memory.
const maxObject = 4 << 30

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrCorrupt}, args...)...)
}

// HashOf names an object as git does, with a hash that notices the known
// attacks on SHA-1.
func HashOf(typ plumbing.ObjectType, content []byte) plumbing.Hash {
	h := sha1cd.New()
	fmt.Fprintf(h, "%s %d\x00", typ, len(content))
	h.Write(content)
	var id plumbing.Hash
	h.Sum(id[:0])
	return id
}

// header is what stands before an object's compressed bytes.
type header struct {
	typ      plumbing.ObjectType
	size     int64         // of what is compressed
	baseOff  int64         // OFSDeltaObject: distance back to the base
	baseHash plumbing.Hash // REFDeltaObject
}

func readHeader(r io.ByteReader) (header, error) {
	b, err := r.ReadByte()
	if err != nil {
		return header{}, err
	}
	h := header{typ: plumbing.ObjectType(b >> 4 & 7), size: int64(b & 15)}
	for shift := 4; b&0x80 != 0; shift += 7 {
		if b, err = r.ReadByte(); err != nil {
			return h, err
		}
		if shift > 46 {
			return h, corrupt("an object's size is out of range")
		}
		h.size |= int64(b&0x7f) << shift
	}
	if h.size > maxObject {
		return h, corrupt("an object claims %d bytes", h.size)
	}
	switch h.typ {
	case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
	case plumbing.OFSDeltaObject:
		if b, err = r.ReadByte(); err != nil {
			return h, err
		}
		h.baseOff = int64(b & 0x7f)
		for b&0x80 != 0 {
			if b, err = r.ReadByte(); err != nil {
				return h, err
			}
			if h.baseOff > 1<<48 {
				return h, corrupt("a delta's base is out of range")
			}
			h.baseOff = (h.baseOff+1)<<7 | int64(b&0x7f)
		}
	case plumbing.REFDeltaObject:
		for i := range h.baseHash {
			if h.baseHash[i], err = r.ReadByte(); err != nil {
				return h, err
			}
		}
	default:
		return h, corrupt("unknown type of object %d", h.typ)
	}
	return h, nil
}

// inflater undoes the compression of one object after the other.
type inflater struct {
	src bytes.Reader
	zr  io.ReadCloser
}

// inflate reads an object's content from the compressed bytes that data
// begins with. The checksum at their end is not looked at: every object is
// compared with its name.
func (z *inflater) inflate(data []byte, size int64) ([]byte, error) {
	if len(data) < 2 {
		return nil, corrupt("an object is cut off")
	}
	z.src.Reset(data[2:]) // behind zlib's header
	if z.zr == nil {
		z.zr = flate.NewReader(&z.src)
	} else if err := z.zr.(flate.Resetter).Reset(&z.src, nil); err != nil {
		return nil, err
	}
	buf := make([]byte, size)
	if _, err := io.ReadFull(z.zr, buf); err != nil {
		return nil, corrupt("an object does not inflate: %v", err)
	}
	return buf, nil
}

// applyDelta rebuilds an object from its base.
func applyDelta(base, delta []byte) ([]byte, error) {
	baseSize, n := binary.Uvarint(delta)
	if n <= 0 || baseSize != uint64(len(base)) {
		return nil, corrupt("a delta does not fit its base")
	}
	delta = delta[n:]
	size, n := binary.Uvarint(delta)
	if n <= 0 || size > maxObject {
		return nil, corrupt("a delta claims %d bytes", size)
	}
	delta = delta[n:]
	// A delta that repeats parts of its base makes more than that; a claim alone
	// gets no memory.
	out := make([]byte, 0, min(size, uint64(len(base)+len(delta))))
	for len(delta) > 0 {
		op := delta[0]
		delta = delta[1:]
		switch {
		case op&0x80 != 0: // copy from the base
			var off, length uint32
			for i := range 7 {
				if op&(1<<i) == 0 {
					continue
				}
				if len(delta) == 0 {
					return nil, corrupt("a delta is cut off")
				}
				if i < 4 {
					off |= uint32(delta[0]) << (8 * i)
				} else {
					length |= uint32(delta[0]) << (8 * (i - 4))
				}
				delta = delta[1:]
			}
			if length == 0 {
				length = 0x10000
			}
			end := uint64(off) + uint64(length)
			if end > uint64(len(base)) || uint64(len(out))+uint64(length) > size {
				return nil, corrupt("a delta copies beyond its base")
			}
			out = append(out, base[off:end]...)
		case op != 0: // literal bytes
			if int(op) > len(delta) || uint64(len(out))+uint64(op) > size {
				return nil, corrupt("a delta is cut off")
			}
			out = append(out, delta[:op]...)
			delta = delta[op:]
		default:
			return nil, corrupt("a delta holds a reserved instruction")
		}
	}
	if uint64(len(out)) != size {
		return nil, corrupt("a delta makes %d bytes instead of %d", len(out), size)
	}
	return out, nil
}

// mapFile maps a whole file for reading.
func mapFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() == 0 || !info.Mode().IsRegular() {
		return nil, corrupt("%s is empty", name)
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mapping %s: %w", name, err)
	}
	return b, nil
}
