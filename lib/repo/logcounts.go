package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sort"

	"github.com/distci/distci/lib/store"
)

// indexPage is how much of an index is read at a time: for 512 MiB of log.
const indexPage = 64 << 10

// counts is what is known of the newlines in a log.
type counts struct {
	entries int64 // of the index, that are of use
	pages   map[int64][]byte
	total   int64 // newlines in the log; -1: not known yet
	index   int64 // size of the index's object
	spoilt  bool  // it is of no use
}

// load reads the end of a log's index.
func (t *Text) load(ctx context.Context, p *part) (*counts, error) {
	if p.counts != nil {
		return p.counts, nil
	}
	c := &counts{pages: map[int64][]byte{}, total: -1}
	whole := p.size / logStride // entries of a complete index
	page := whole * 8 / indexPage
	b, info, err := t.readIndex(ctx, p, page*indexPage, indexPage+sealSize)
	if err != nil {
		return nil, err
	}
	c.index = info.Size
	if s, ok := parseSeal(b); ok && info.Size == whole*8+sealSize && s.size == p.size {
		c.entries, c.total = whole, s.newlines
	} else {
		c.entries = min(info.Size/8, whole)
	}
	c.pages[page] = b
	p.counts = c
	return c, nil
}

func (t *Text) readIndex(ctx context.Context, p *part, offset, n int64) ([]byte, store.Info, error) {
	return (&Repo{store: t.store}).readIndex(ctx, p.key, offset, n)
}

// count is the number of newlines in the first i strides of a log.
func (t *Text) count(ctx context.Context, p *part, i int64) (int64, error) {
	if i == 0 {
		return 0, nil
	}
	at := (i - 1) * 8
	page := at / indexPage
	b, ok := p.counts.pages[page]
	if !ok {
		var err error
		if b, _, err = t.readIndex(ctx, p, page*indexPage, indexPage); err != nil {
			return 0, err
		}
		p.counts.pages[page] = b
	}
	if at -= page * indexPage; at+8 > int64(len(b)) {
		return 0, io.ErrUnexpectedEOF
	}
	return int64(binary.BigEndian.Uint64(b[at:])), nil
}

// newlines is the number of newlines in a log.
func (t *Text) newlines(ctx context.Context, p *part) (int64, error) {
	c, err := t.load(ctx, p)
	if err != nil {
		return 0, err
	}
	if c.total >= 0 {
		return c.total, nil
	}
	_, n, err := t.scan(ctx, p, -1)
	return n, err
}

// seek finds where a log goes on behind its nth newline; -1 if it has fewer,
// and then how many it has.
func (t *Text) seek(ctx context.Context, p *part, n int64) (at, newlines int64, err error) {
	c, err := t.load(ctx, p)
	if err != nil {
		return 0, 0, err
	}
	if c.total >= 0 && c.total < n {
		return -1, c.total, nil
	}
	last, err := t.count(ctx, p, c.entries)
	if err != nil {
		return 0, 0, err
	}
	if last < n {
		return t.scan(ctx, p, n)
	}
	// The first stride up to whose end there are so many.
	i := 1 + int64(sort.Search(int(c.entries-1), func(i int) bool {
		k, e := t.count(ctx, p, int64(i)+1)
		err = errors.Join(err, e)
		return k >= n
	}))
	before, e := t.count(ctx, p, i-1)
	if err = errors.Join(err, e); err != nil {
		return 0, 0, err
	}
	b := make([]byte, logStride)
	if err := t.readAt(ctx, b, p.base+(i-1)*logStride); err != nil {
		return 0, 0, err
	}
	k := nth(b, n-before)
	if k < 0 { // the index is not this log's: a power cut may have lost parts of both
		c.entries, c.total, c.spoilt = 0, -1, true
		return t.scan(ctx, p, n)
	}
	return (i-1)*logStride + k, 0, nil
}

// nth is where b goes on behind its nth newline; -1 if it has fewer.
func nth(b []byte, n int64) int64 {
	at := int64(0)
	for ; n > 0; n-- {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return -1
		}
		at += int64(i) + 1
	}
	return at
}

// scan reads a log from where its index ends, up to its nth newline or, with
// n < 0, its end; the answer is that of seek. What it learns it adds to the
// index, so that nobody has to read all of a long log again.
func (t *Text) scan(ctx context.Context, p *part, n int64) (at, newlines int64, err error) {
	c := p.counts
	newlines, err = t.count(ctx, p, c.entries)
	if err != nil {
		return 0, 0, err
	}
	rd := t.Open(ctx, p.base+c.entries*logStride, p.size-c.entries*logStride)
	defer rd.Close()
	var learned []byte
	b := make([]byte, logStride)
	for at := c.entries * logStride; at < p.size; {
		b := b[:min(logStride, p.size-at)]
		if _, err := io.ReadFull(rd, b); err != nil {
			return 0, 0, err
		}
		k := int64(bytes.Count(b, []byte{'\n'}))
		if n >= 0 && newlines+k >= n {
			t.learn(ctx, p, learned)
			return at + nth(b, n-newlines), 0, nil
		}
		newlines += k
		at += int64(len(b))
		if at%logStride == 0 {
			learned = binary.BigEndian.AppendUint64(learned, uint64(newlines))
		}
	}
	t.learn(ctx, p, learned)
	c.total = newlines
	return -1, newlines, nil
}

// learn adds to an index what is missing there, if that is more than a writer
// who is at work leaves out. Whoever else does so adds the same; whether it
// works is of no importance.
func (t *Text) learn(ctx context.Context, p *part, learned []byte) {
	c := p.counts
	if int64(len(learned))/8*logStride < 4*indexLag || c.spoilt || c.index > c.entries*8 {
		return
	}
	_ = t.store.Append(ctx, indexKey(p.key), c.entries*8, learned)
}
