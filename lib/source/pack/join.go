package pack

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"io"
	"path/filepath"
	"slices"

	"github.com/go-git/go-git/v5/plumbing"
)

// Join makes one pack of all packs in a folder and returns the path of its
// index. Compressed bytes are copied as they are; only the distance from a
// delta to its base is written anew. An object that several packs hold is
// taken once. The old packs remain; the caller removes them.
func Join(ctx context.Context, dir string) (idx string, err error) {
	s, err := Open(dir)
	if err != nil {
		return "", err
	}
	for _, p := range s.packs {
		if end := len(p.data) - sha1.Size; [sha1.Size]byte(p.data[end:]) != sha1.Sum(p.data[:end]) {
			s.Close()
			return "", corrupt("the checksum of %s.pack does not match", p.name)
		}
	}
	// The joined pack is received like any other, so it is checked and indexed
	// by the same code.
	r, w := io.Pipe()
	done := make(chan struct{})
	defer func() { r.Close(); <-done; s.Close() }() // in this order: the packs are mapped
	go func() {
		defer close(done)
		w.CloseWithError(s.join(w))
	}()
	name, err := Receive(ctx, dir, r)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "pack-"+name+".idx"), nil
}

// join writes the pack.
func (s *Store) join(w io.Writer) error {
	unique := map[plumbing.Hash]int64{} // → place in the joined pack
	for _, p := range s.packs {
		for n := range p.idx.count {
			unique[p.idx.name(n)] = -1
		}
	}
	out := bufio.NewWriterSize(w, 1<<20)
	h := sha1.New()
	all := io.MultiWriter(out, h)
	head := binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(unique)))
	if _, err := all.Write(head); err != nil {
		return err
	}
	pos := int64(len(head))
	for _, p := range s.packs {
		placed := map[int64]int64{} // places in p → in the joined pack
		objects := p.objects()
		for i, o := range objects {
			if at := unique[o.id]; at >= 0 {
				placed[o.off] = at
				continue
			}
			end := int64(len(p.data) - sha1.Size)
			if i+1 < len(objects) {
				end = objects[i+1].off
			}
			if o.off < 0 || o.off >= end || end > int64(len(p.data)) {
				return corrupt("%s.idx: a place is out of range", p.name)
			}
			unique[o.id], placed[o.off] = pos, pos
			b, err := moved(p.data[o.off:end], o.off, pos, placed)
			if err != nil {
				return err
			}
			for _, part := range b {
				if _, err := all.Write(part); err != nil {
					return err
				}
				pos += int64(len(part))
			}
		}
	}
	out.Write(h.Sum(nil)) // a failed write is reported by Flush
	return out.Flush()
}

// moved returns an object's bytes, in parts, for its new place.
func moved(b []byte, off, pos int64, placed map[int64]int64) ([][]byte, error) {
	src := bytes.NewReader(b)
	h, err := readHeader(src)
	if err != nil || h.typ != plumbing.OFSDeltaObject {
		return [][]byte{b}, err
	}
	base, ok := placed[off-h.baseOff]
	if !ok {
		return nil, corrupt("the base of a delta is missing")
	}
	size := 1 // of the type and the size, which stay
	for b[size-1]&0x80 != 0 {
		size++
	}
	return [][]byte{b[:size], distance(pos - base), b[len(b)-src.Len():]}, nil
}

// distance writes how far back a delta's base is: 7 bits a byte, the highest
// first, each byte but the last less by one than it says.
func distance(d int64) []byte {
	b := []byte{byte(d & 0x7f)}
	for d >>= 7; d > 0; d >>= 7 {
		d--
		b = append(b, byte(d&0x7f)|0x80)
	}
	slices.Reverse(b)
	return b
}

type object struct {
	off int64
	id  plumbing.Hash
}

// objects lists what is in a pack, by place.
func (p *packFile) objects() []object {
	list := make([]object, p.idx.count)
	for n := range list {
		list[n] = object{p.idx.offset(n), p.idx.name(n)}
	}
	slices.SortFunc(list, func(a, b object) int { return cmp.Compare(a.off, b.off) })
	return list
}
