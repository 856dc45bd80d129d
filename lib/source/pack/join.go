package pack

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"io"
	"path/filepath"
	"strings"
)

// Join makes one pack of all packs in a folder and returns the path of its
// index. The packs follow each other byte for byte, which needs no compression:
// a delta names its base by the distance, and that stays. An object that two
// packs hold stays twice, which costs space only. The old packs remain; the
// caller removes them.
func Join(ctx context.Context, dir string) (idx string, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "pack-*.idx"))
	if err != nil {
		return "", err
	}
	var packs [][]byte
	defer func() {
		for _, b := range packs {
			unmap(b)
		}
	}()
	var count uint32
	for _, name := range names {
		b, err := mapFile(strings.TrimSuffix(name, ".idx") + ".pack")
		if err != nil {
			return "", err
		}
		packs = append(packs, b)
		if len(b) < 32 || [sha1.Size]byte(b[len(b)-sha1.Size:]) != sha1.Sum(b[:len(b)-sha1.Size]) {
			return "", corrupt("the checksum of the pack of %s does not match", name)
		}
		count += binary.BigEndian.Uint32(b[8:])
	}
	// The joined pack is received like any other, so it is checked and indexed
	// by the same code.
	r, w := io.Pipe()
	done := make(chan struct{})
	defer func() { r.Close(); <-done }() // before the packs are unmapped
	go func() {
		defer close(done)
		out := bufio.NewWriterSize(w, 1<<20)
		h := sha1.New()
		all := io.MultiWriter(out, h)
		all.Write(binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), count))
		for _, b := range packs {
			if _, err := all.Write(b[12 : len(b)-sha1.Size]); err != nil {
				w.CloseWithError(err)
				return
			}
		}
		out.Write(h.Sum(nil))
		w.CloseWithError(out.Flush())
	}()
	name, err := Receive(ctx, dir, r)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "pack-"+name+".idx"), nil
}
