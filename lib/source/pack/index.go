package pack

import (
	"bufio"
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"hash/crc32"
	"io"
	"slices"
	"sort"

	"golang.org/x/sys/unix"

	"github.com/go-git/go-git/v5/plumbing"
)

func checksum(b []byte) uint32 { return crc32.ChecksumIEEE(b) }

func unmap(b []byte) {
	if b != nil {
		unix.Munmap(b)
	}
}

var idxMagic = []byte{0xff, 't', 'O', 'c', 0, 0, 0, 2}

// writeIndex writes the index of a pack, in version 2 of its format.
func writeIndex(f io.Writer, entries []*entry, packSum [sha1.Size]byte) error {
	slices.SortFunc(entries, func(a, b *entry) int { return bytes.Compare(a.id[:], b.id[:]) })
	h := sha1.New()
	buf := bufio.NewWriterSize(f, 1<<16)
	w := io.MultiWriter(buf, h)
	w.Write(idxMagic) // a failed write is reported by Flush
	var n [8]byte
	put32 := func(v uint32) {
		binary.BigEndian.PutUint32(n[:4], v)
		w.Write(n[:4])
	}
	i := 0
	for first := range 256 {
		for i < len(entries) && int(entries[i].id[0]) <= first {
			i++
		}
		put32(uint32(i))
	}
	for _, e := range entries {
		w.Write(e.id[:])
	}
	for _, e := range entries {
		put32(e.crc)
	}
	var far []int64
	for _, e := range entries {
		if e.off < 1<<31 {
			put32(uint32(e.off))
		} else {
			put32(1<<31 | uint32(len(far)))
			far = append(far, e.off)
		}
	}
	for _, off := range far {
		binary.BigEndian.PutUint64(n[:], uint64(off))
		w.Write(n[:])
	}
	w.Write(packSum[:])
	buf.Write(h.Sum(nil))
	return buf.Flush()
}

// index is a mapped index.
type index struct {
	b     []byte
	count int
}

func openIndex(name string) (*index, error) {
	b, err := mapFile(name)
	if err != nil {
		return nil, err
	}
	if len(b) < 8+1024+40 || !bytes.Equal(b[:8], idxMagic) {
		unmap(b)
		return nil, corrupt("%s is no index of version 2", name)
	}
	i := &index{b: b}
	i.count = int(i.fan(255))
	if len(b) < 8+1024+i.count*28+40 {
		unmap(b)
		return nil, corrupt("%s is cut off", name)
	}
	return i, nil
}

func (i *index) fan(first int) uint32 { return binary.BigEndian.Uint32(i.b[8+4*first:]) }

// find tells where in the pack the object begins, or -1.
func (i *index) find(id plumbing.Hash) int64 {
	lo, hi := 0, min(int(i.fan(int(id[0]))), i.count)
	if id[0] > 0 {
		lo = min(int(i.fan(int(id[0])-1)), hi)
	}
	names := i.b[8+1024:]
	n := lo + sort.Search(hi-lo, func(k int) bool {
		return bytes.Compare(names[(lo+k)*20:(lo+k)*20+20], id[:]) >= 0
	})
	if n >= hi || !bytes.Equal(names[n*20:n*20+20], id[:]) {
		return -1
	}
	return i.offset(n)
}

// name is the name of object n, in their order.
func (i *index) name(n int) (id plumbing.Hash) {
	copy(id[:], i.b[8+1024+n*20:])
	return id
}

// offset is where in the pack object n begins, or -1.
func (i *index) offset(n int) int64 {
	offs := i.b[8+1024+i.count*24:]
	off := binary.BigEndian.Uint32(offs[n*4:])
	if off&(1<<31) == 0 {
		return int64(off)
	}
	far := i.count*4 + int(off&^(1<<31))*8
	if far+8 > len(offs)-40 {
		return -1
	}
	return int64(binary.BigEndian.Uint64(offs[far:]))
}
