package secret

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
)

// MinMasked is how many bytes a line of a secret must have to be masked. What is
// shorter turns up everywhere, and masking it would tell what it is.
const MinMasked = 4

// stars is what stands in a secret's place.
var stars = []byte("***")

// Masker finds secrets in texts. It may be used by several goroutines.
//
// What it looks for are the lines of the secrets, without the blanks around
// them: so it need never hold back more than a part of the text's last line,
// and finds a key also where somebody has indented it.
type Masker struct {
	patterns [][]byte            // sorted
	first    map[uint32][][]byte // by their first four bytes, the longest first
	longest  int

	// shift is for the search by Wu and Manber (1994): the block of two bytes
	// that ends the first m bytes of a place in the text tells how far the next
	// place is at which a pattern may begin; 0: it may begin here.
	m     int
	shift [1 << 16]uint8
}

// maxM bounds m: beyond it little is won, and each write's last m bytes have to
// be looked at one by one.
const maxM = 16

// NewMasker makes one for the secrets. The second result names those that have
// nothing that is long enough to be masked.
func NewMasker(secrets []Secret) (m *Masker, short []string) {
	m = &Masker{first: map[uint32][][]byte{}}
	for _, s := range secrets {
		found := false
		for line := range bytes.FieldsFuncSeq(s.Value, func(r rune) bool { return r == '\n' || r == '\r' }) {
			if line = bytes.TrimSpace(line); len(line) >= MinMasked {
				m.patterns, found = append(m.patterns, line), true
			}
		}
		if !found {
			short = append(short, s.Name)
		}
	}
	slices.SortFunc(m.patterns, bytes.Compare)
	m.patterns = slices.CompactFunc(m.patterns, bytes.Equal)
	m.index()
	return m, short
}

func (m *Masker) index() {
	m.m = maxM
	for _, p := range m.patterns {
		m.m, m.longest = min(m.m, len(p)), max(m.longest, len(p))
		key := binary.LittleEndian.Uint32(p)
		m.first[key] = append(m.first[key], p)
	}
	for _, ps := range m.first {
		slices.SortFunc(ps, func(a, b []byte) int { return len(b) - len(a) })
	}
	for i := range m.shift {
		m.shift[i] = uint8(m.m - 1)
	}
	for _, p := range m.patterns {
		for end := 2; end <= m.m; end++ {
			block := binary.LittleEndian.Uint16(p[end-2:])
			m.shift[block] = min(m.shift[block], uint8(m.m-end))
		}
	}
}

// at tells how many bytes a secret has that begins where p does, the longest if
// there are several, and whether a longer one may begin there, of which p does
// not have the end.
func (m *Masker) at(p []byte) (length int, more bool) {
	if len(p) < MinMasked {
		i, _ := slices.BinarySearchFunc(m.patterns, p, bytes.Compare)
		return 0, i < len(m.patterns) && bytes.HasPrefix(m.patterns[i], p)
	}
	for _, s := range m.first[binary.LittleEndian.Uint32(p)] {
		switch {
		case len(s) > len(p):
			more = more || bytes.HasPrefix(s, p)
		case bytes.HasPrefix(p, s):
			return len(s), more
		}
	}
	return 0, more
}

// next is the first place from i on at which a secret may begin; len(p) if there
// is none.
func (m *Masker) next(p []byte, i int) int {
	for ; i+m.m <= len(p); i++ {
		s := m.shift[binary.LittleEndian.Uint16(p[i+m.m-2:])]
		if s == 0 {
			return i
		}
		i += int(s) - 1
	}
	return i
}

// mask appends p to out with stars for each secret in it; what overlaps is one.
// The first covered bytes of p belong to a secret whose stars are in out. Unless
// it is the end, it stops where a secret may begin that p does not have the end
// of, and returns what is left, and how much of that is covered.
func (m *Masker) mask(out, p []byte, covered int, end bool) (masked, rest []byte, left int) {
	shown := covered // what is before it has been dealt with
	for i := 0; i < len(p); i++ {
		if i = m.next(p, i); i >= len(p) {
			break
		}
		n, more := m.at(p[i:])
		if more && !end {
			if i > shown {
				out = append(out, p[shown:i]...)
			}
			return out, p[i:], max(0, shown-i)
		}
		if n == 0 {
			continue
		}
		if i >= shown {
			out = append(append(out, p[shown:i]...), stars...)
		}
		shown = max(shown, i+n)
	}
	return append(out, p[shown:]...), nil, 0
}

// String is s with stars for each secret in it.
func (m *Masker) String(s string) string {
	if len(m.patterns) == 0 {
		return s
	}
	out, _, _ := m.mask(nil, []byte(s), 0, true)
	return string(out)
}

// Writer is what passes all on to another writer, with stars for each secret,
// also for one that comes in pieces. It holds back what may be the beginning of
// one, and nothing else, until it is known or Flush is called.
type Writer struct {
	m       *Masker
	w       io.Writer
	held    []byte // the beginning of a secret, perhaps
	covered int    // so many of held belong to one whose stars are written
	out     []byte
	err     error
}

// Writer makes a writer in front of w. Only one goroutine may use it at a time.
func (m *Masker) Writer(w io.Writer) *Writer { return &Writer{m: m, w: w} }

// Write takes all of p, unless the other writer has failed.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if len(w.m.patterns) == 0 {
		return w.w.Write(p)
	}
	text := p
	if len(w.held) > 0 {
		text = append(w.held, p...)
	}
	out, rest, covered := w.m.mask(w.out[:0], text, w.covered, false)
	w.pass(out)
	w.held, w.covered = append(w.held[:0], rest...), covered
	return len(p), w.err
}

// Flush passes on what was held back.
func (w *Writer) Flush() error {
	out, _, _ := w.m.mask(w.out[:0], w.held, w.covered, true)
	w.held, w.covered = w.held[:0], 0
	w.pass(out)
	return w.err
}

func (w *Writer) pass(out []byte) {
	w.out = out
	if len(out) > 0 && w.err == nil {
		_, w.err = w.w.Write(out)
	}
}
