package pack

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/pjbgf/sha1cd"
	"golang.org/x/sync/errgroup"

	"github.com/go-git/go-git/v5/plumbing"
)

// entry is one object of a pack that is being indexed.
type entry struct {
	header
	off    int64
	end    int64 // of its compressed bytes
	data   int64 // where they begin
	id     plumbing.Hash
	crc    uint32
	solved bool
}

// inline is the size from which an object is hashed while it is inflated,
// instead of being kept in memory for another core.
const inline = 8 << 20

// Receive stores the pack that r delivers as pack-X.pack and pack-X.idx in the
// folder dir and returns X. Nothing is visible under these names before both
// are whole. An empty pack is not stored; its name is "". The pack must be
// self-contained.
func Receive(ctx context.Context, dir string, r io.Reader) (name string, err error) {
	f, err := os.CreateTemp(dir, "tmp_pack_")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	entries, sum, err := scan(ctx, io.TeeReader(r, f))
	if err != nil || len(entries) == 0 {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	data, err := mapFile(f.Name())
	if err != nil {
		return "", err
	}
	defer unmap(data)
	if err := solve(ctx, data, entries); err != nil {
		return "", err
	}
	name = hex.EncodeToString(sum[:])
	base := filepath.Join(dir, "pack-"+name)
	idx, err := os.CreateTemp(dir, "tmp_idx_")
	if err != nil {
		return "", err
	}
	defer os.Remove(idx.Name())
	defer idx.Close()
	if err := writeIndex(idx, entries, sum); err != nil {
		return "", err
	}
	if err := idx.Close(); err != nil {
		return "", err
	}
	for _, tmp := range []string{f.Name(), idx.Name()} {
		if err := os.Chmod(tmp, 0o444); err != nil {
			return "", err
		}
	}
	if err := os.Rename(f.Name(), base+".pack"); err != nil {
		return "", err
	}
	// git takes a pack for present when it sees the index, so that comes last.
	return name, os.Rename(idx.Name(), base+".idx")
}

// counter tells how far a buffered reader has been read.
type counter struct {
	*bufio.Reader
	got int64 // read from the source
	src io.Reader
	sum *digest
}

// digest hashes a stream without its last 20 bytes, which are its checksum.
type digest struct {
	h    interface{ Write([]byte) (int, error) }
	tail []byte
}

func (d *digest) add(p []byte) {
	d.tail = append(d.tail, p...)
	if n := len(d.tail) - sha1.Size; n > 0 {
		d.h.Write(d.tail[:n])
		d.tail = append(d.tail[:0], d.tail[n:]...)
	}
}

func (c *counter) source(p []byte) (int, error) {
	n, err := c.src.Read(p)
	c.got += int64(n)
	c.sum.add(p[:n])
	return n, err
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func (c *counter) offset() int64 { return c.got - int64(c.Buffered()) }

// scan is the first pass, made while the pack arrives: it finds where each
// object begins and names those that are no deltas.
func scan(ctx context.Context, r io.Reader) ([]*entry, [sha1.Size]byte, error) {
	var sum [sha1.Size]byte
	h := sha1.New()
	c := &counter{src: r, sum: &digest{h: h}}
	c.Reader = bufio.NewReaderSize(readerFunc(c.source), 256<<10)

	var head [12]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, sum, fmt.Errorf("receiving the pack: %w", unexpected(err))
	}
	if string(head[:4]) != "PACK" || binary.BigEndian.Uint32(head[4:]) != 2 {
		return nil, sum, corrupt("it does not begin as a pack of version 2")
	}
	count := binary.BigEndian.Uint32(head[8:])

	// Hashing runs beside inflating, which is what takes the time.
	type job struct {
		e       *entry
		content []byte
	}
	jobs := make(chan job, 64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for j := range jobs {
			j.e.id = HashOf(j.e.typ, j.content)
		}
	}()
	finish := func() { close(jobs); <-done }

	entries := make([]*entry, 0, min(count, 1<<20))
	var zr io.ReadCloser
	for i := range count {
		if i%256 == 0 && ctx.Err() != nil {
			finish()
			return nil, sum, context.Cause(ctx)
		}
		e := &entry{off: c.offset()}
		content, err := scanOne(c, e, &zr)
		if err != nil {
			finish()
			return nil, sum, fmt.Errorf("receiving object %d of %d: %w", i+1, count, unexpected(err))
		}
		e.end = c.offset()
		entries = append(entries, e)
		if content != nil {
			jobs <- job{e, content}
		}
	}
	finish()
	if _, err := io.ReadFull(c, sum[:]); err != nil {
		return nil, sum, fmt.Errorf("receiving the pack's end: %w", unexpected(err))
	}
	if n, err := io.Copy(io.Discard, c); err != nil {
		return nil, sum, fmt.Errorf("receiving the pack's end: %w", unexpected(err))
	} else if n > 0 {
		return nil, sum, corrupt("%d bytes follow its end", n)
	}
	if [sha1.Size]byte(h.Sum(nil)) != sum {
		return nil, sum, corrupt("its checksum does not match")
	}
	return entries, sum, nil
}

// scanOne reads one object. It returns the content if that is still to be
// hashed.
func scanOne(c *counter, e *entry, zr *io.ReadCloser) ([]byte, error) {
	h, err := readHeader(c)
	if err != nil {
		return nil, err
	}
	e.header, e.data = h, c.offset()
	if h.typ == plumbing.OFSDeltaObject && (h.baseOff <= 0 || h.baseOff > e.off) {
		return nil, corrupt("a delta's base is out of range")
	}
	if _, err := c.Discard(2); err != nil { // zlib's header
		return nil, err
	}
	if *zr == nil {
		*zr = flate.NewReader(c.Reader)
	} else if err := (*zr).(flate.Resetter).Reset(c.Reader, nil); err != nil {
		return nil, err
	}
	var content []byte
	var n int64
	switch {
	case h.typ == plumbing.OFSDeltaObject || h.typ == plumbing.REFDeltaObject:
		n, err = io.Copy(io.Discard, *zr)
	case h.size >= inline:
		hash := sha1cd.New()
		fmt.Fprintf(hash, "%s %d\x00", h.typ, h.size)
		n, err = io.Copy(hash, io.LimitReader(*zr, h.size+1))
		hash.Sum(e.id[:0])
	default:
		content = make([]byte, h.size)
		var m, more int
		if m, err = io.ReadFull(*zr, content); err == nil {
			// The end of the stream must be read for the place to be right.
			if more, err = (*zr).Read(make([]byte, 1)); err == io.EOF {
				err = nil
			}
		}
		n = int64(m + more)
	}
	if err != nil {
		return nil, err
	}
	if n != h.size {
		return nil, corrupt("an object has not the size that it claims")
	}
	_, err = c.Discard(4) // the checksum; the names are checked instead
	e.solved = h.typ.Valid() && !h.typ.IsDelta()
	return content, err
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// solver is the second pass: it names the deltas, all cores at once.
type solver struct {
	data   []byte
	byOff  map[int64][]*entry         // deltas by the place of their base
	mu     sync.Mutex                 // guards byHash
	byHash map[plumbing.Hash][]*entry // deltas by the name of their base
}

// named hands out the deltas upon an object's name, once: a pack may hold the
// object twice.
func (s *solver) named(id plumbing.Hash) []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	es := s.byHash[id]
	delete(s.byHash, id)
	return es
}

func solve(ctx context.Context, data []byte, entries []*entry) error {
	s := &solver{data: data, byOff: map[int64][]*entry{}, byHash: map[plumbing.Hash][]*entry{}}
	for _, e := range entries {
		e.crc = checksum(data[e.off:e.end])
		switch e.typ {
		case plumbing.OFSDeltaObject:
			s.byOff[e.off-e.baseOff] = append(s.byOff[e.off-e.baseOff], e)
		case plumbing.REFDeltaObject:
			s.byHash[e.baseHash] = append(s.byHash[e.baseHash], e)
		}
	}
	var roots []*entry
	for _, e := range entries {
		if e.solved && (len(s.byOff[e.off]) > 0 || len(s.byHash[e.id]) > 0) {
			roots = append(roots, e)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	next := make(chan *entry)
	g.Go(func() error {
		defer close(next)
		for _, e := range roots {
			select {
			case next <- e:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		return nil
	})
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			var z inflater
			for e := range next {
				if err := s.tree(ctx, &z, e); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, e := range entries {
		if !e.solved {
			return corrupt("the base of a delta is missing")
		}
	}
	return nil
}

// tree names all deltas that stand on root. It goes down before it goes on, so
// that few contents are in memory at once.
func (s *solver) tree(ctx context.Context, z *inflater, root *entry) error {
	content, err := z.inflate(s.data[root.data:root.end], root.size)
	if err != nil {
		return err
	}
	type step struct {
		e    *entry
		base []byte
	}
	var stack []step
	push := func(e *entry, content []byte) {
		for _, child := range s.byOff[e.off] {
			stack = append(stack, step{child, content})
		}
		for _, child := range s.named(e.id) {
			stack = append(stack, step{child, content})
		}
	}
	push(root, content)
	for len(stack) > 0 {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		top := stack[len(stack)-1]
		stack[len(stack)-1] = step{}
		stack = stack[:len(stack)-1]
		e := top.e
		delta, err := z.inflate(s.data[e.data:e.end], e.size)
		if err != nil {
			return err
		}
		content, err := applyDelta(top.base, delta)
		if err != nil {
			return err
		}
		e.id = HashOf(root.typ, content)
		e.solved = true
		push(e, content)
	}
	return nil
}
