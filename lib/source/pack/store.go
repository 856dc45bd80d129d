package pack

import (
	"bytes"
	"crypto/sha1"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
)

// Store reads the objects of all packs in a folder. It may be used by several
// goroutines. Packs that appear later are not seen.
type Store struct {
	packs []*packFile

	mu    sync.Mutex
	cache map[place]cached // contents that deltas stand on
	size  int
	pool  sync.Pool // of *inflater
}

type packFile struct {
	name string
	data []byte
	idx  *index
}

type place struct {
	p   *packFile
	off int64
}

type cached struct {
	typ     plumbing.ObjectType
	content []byte
}

// cacheSize bounds the contents that are kept as bases of deltas, in bytes.
const cacheSize = 96 << 20

// maxChain is longer than any chain of deltas that git makes (4095).
const maxChain = 10000

// Open opens the packs of a folder. A pack without an index does not count.
func Open(dir string) (*Store, error) {
	s := &Store{cache: map[place]cached{}}
	s.pool.New = func() any { return new(inflater) }
	names, err := filepath.Glob(filepath.Join(dir, "pack-*.idx"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		p := &packFile{name: strings.TrimSuffix(name, ".idx")}
		s.packs = append(s.packs, p)
		if p.idx, err = openIndex(name); err == nil {
			p.data, err = mapFile(p.name + ".pack")
		}
		if err == nil && (len(p.data) < 32 || !bytes.HasPrefix(p.data, []byte("PACK"))) {
			err = corrupt("%s.pack does not begin as a pack", p.name)
		}
		if err != nil {
			s.Close()
			return nil, err
		}
	}
	return s, nil
}

// Close frees what Open took. No content that Get returned is affected.
func (s *Store) Close() error {
	for _, p := range s.packs {
		unmap(p.data)
		if p.idx != nil {
			unmap(p.idx.b)
		}
	}
	s.packs = nil
	return nil
}

// Len tells how many packs there are.
func (s *Store) Len() int { return len(s.packs) }

// Has tells whether the object is there.
func (s *Store) Has(id plumbing.Hash) bool {
	_, off := s.find(id)
	return off >= 0
}

func (s *Store) find(id plumbing.Hash) (*packFile, int64) {
	for _, p := range s.packs {
		if off := p.idx.find(id); off >= 0 {
			return p, off
		}
	}
	return nil, -1
}

// Get reads an object and compares it with its name. The content is shared and
// must not be changed. Errors: ErrNotFound, ErrCorrupt.
func (s *Store) Get(id plumbing.Hash) (plumbing.ObjectType, []byte, error) {
	p, off := s.find(id)
	if off < 0 {
		return 0, nil, &objectError{id, ErrNotFound}
	}
	z := s.pool.Get().(*inflater)
	defer s.pool.Put(z)
	typ, content, err := s.read(z, p, off)
	if err == nil && !matches(typ, content, id) {
		err = corrupt("the content does not match the name")
	}
	if err != nil {
		return 0, nil, &objectError{id, err}
	}
	return typ, content, nil
}

// matches looks for damage, for which SHA-1 as the processor does it is enough:
// Receive has named the object with care.
func matches(typ plumbing.ObjectType, content []byte, id plumbing.Hash) bool {
	h := sha1.New()
	fmt.Fprintf(h, "%s %d\x00", typ, len(content))
	h.Write(content)
	return [sha1.Size]byte(h.Sum(nil)) == id
}

type objectError struct {
	id  plumbing.Hash
	err error
}

func (e *objectError) Error() string { return "object " + e.id.String() + ": " + e.err.Error() }
func (e *objectError) Unwrap() error { return e.err }

// read follows the chain of deltas down to its base and applies it upwards.
func (s *Store) read(z *inflater, p *packFile, off int64) (plumbing.ObjectType, []byte, error) {
	type link struct {
		at    place
		delta []byte
	}
	var chain []link
	var base cached
	for base.content == nil {
		at := place{p, off}
		if c, ok := s.cached(at); ok && len(chain) > 0 {
			base = c
			break
		}
		if off < 0 || off >= int64(len(p.data)) || len(chain) > maxChain {
			return 0, nil, corrupt("%s.pack: a delta's base is out of range", p.name)
		}
		src := bytes.NewReader(p.data[off:])
		h, err := readHeader(src)
		if err != nil {
			return 0, nil, corrupt("%s.pack: %v", p.name, err)
		}
		content, err := z.inflate(p.data[len(p.data)-src.Len():], h.size)
		if err != nil {
			return 0, nil, err
		}
		switch h.typ {
		case plumbing.OFSDeltaObject:
			chain = append(chain, link{at, content})
			off -= h.baseOff
		case plumbing.REFDeltaObject:
			chain = append(chain, link{at, content})
			if p, off = s.find(h.baseHash); off < 0 {
				return 0, nil, errors.Join(corrupt("the base of a delta is missing"), ErrNotFound)
			}
		default:
			base = cached{h.typ, content}
			if len(chain) > 0 {
				s.keep(at, base)
			}
		}
	}
	for i := len(chain) - 1; i >= 0; i-- {
		content, err := applyDelta(base.content, chain[i].delta)
		if err != nil {
			return 0, nil, err
		}
		base.content = content
		if i > 0 {
			s.keep(chain[i].at, base)
		}
	}
	return base.typ, base.content, nil
}

func (s *Store) cached(at place) (cached, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.cache[at]
	return c, ok
}

// keep remembers a base. A full cache loses an arbitrary part of its contents,
// which serves as well as an order of use would for a tree that is read once.
func (s *Store) keep(at place, c cached) {
	if len(c.content) > cacheSize/8 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.cache[at]; ok {
		return
	}
	for k, old := range s.cache {
		if s.size+len(c.content) <= cacheSize {
			break
		}
		s.size -= len(old.content)
		delete(s.cache, k)
	}
	s.cache[at] = c
	s.size += len(c.content)
}
