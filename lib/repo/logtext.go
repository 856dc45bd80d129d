package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// ErrNoLog is of kind Unavailable.
var ErrNoLog = fault.Errorf(fault.Unavailable, "no such log")

// Text is a log, or several one behind the other, as far as it goes at one
// moment. A line ends behind a newline; the last one may do without. It is for
// one goroutine.
type Text struct {
	Size   int64
	Sealed bool   // nothing will ever be added
	Tag    string // differs when the bytes do
	store  store.Store
	parts  []*part
}

// part is one of a text's objects.
type part struct {
	storedLog
	base   int64 // where it begins in the text
	counts *counts
}

// LogText is the log of that name, as Logs lists them. That of an attempt which
// has not printed anything yet is empty. Errors: ErrNoBuild, ErrNoLog.
func (r *Repo) LogText(ctx context.Context, job string, n ticket.Number, name string) (*Text, error) {
	key := buildPrefix(job, n) + DirLogs + name
	info, err := r.store.Stat(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return &Text{store: r.store, Tag: "0"}, r.begins(ctx, job, n, name)
	}
	if err != nil {
		return nil, err
	}
	l := storedLog{name: name, key: key, size: info.Size, version: info.Version}
	s, err := r.readSeal(ctx, key, info.Size)
	if err != nil {
		return nil, err
	}
	t := &Text{store: r.store, Tag: hex.EncodeToString([]byte(info.Version))}
	if s != nil {
		t.Sealed, t.Tag = true, "sha256-"+s.digest()
		l.size = min(l.size, s.size)
	}
	t.add(l)
	return t, nil
}

// begins tells whether a log that is not in the store may yet be.
func (r *Repo) begins(ctx context.Context, job string, n ticket.Number, name string) error {
	b, err := r.Build(ctx, job, n)
	if err != nil || name == consoleName {
		return err
	}
	step, attempt, ok := splitLogName(name)
	for key, t := range b.State.Tasks {
		if ok && stepKey(key) == step && attempt <= max(t.Attempt, 1) {
			return nil
		}
	}
	return ErrNoLog
}

// ConsoleText is a build's whole log: those of the attempts at its steps, one
// after the other. Errors: ErrNoBuild.
func (r *Repo) ConsoleText(ctx context.Context, job string, n ticket.Number) (*Text, error) {
	if err := r.exists(ctx, job, n); err != nil {
		return nil, err
	}
	logs, err := r.listLogs(ctx, job, n)
	if err != nil {
		return nil, err
	}
	t := &Text{store: r.store}
	tag := sha256.New()
	for _, l := range logs {
		if l.index > 0 && !l.whole() {
			s, err := r.readSeal(ctx, l.key, l.size)
			if err != nil {
				return nil, err
			}
			if s != nil {
				l.size = min(l.size, s.size)
			}
		}
		fmt.Fprintln(tag, l.name, l.size, l.version)
		t.add(l)
	}
	t.Tag = hex.EncodeToString(tag.Sum(nil)[:16])
	return t, nil
}

func (t *Text) add(l storedLog) {
	t.parts = append(t.parts, &part{storedLog: l, base: t.Size})
	t.Size += l.size
}

// Open reads n bytes from offset on; n < 0: to the end. The objects are opened
// when they are reached.
func (t *Text) Open(ctx context.Context, offset, n int64) io.ReadCloser {
	if n < 0 || n > t.Size-offset {
		n = max(0, t.Size-offset)
	}
	return &textReader{ctx: ctx, t: t, at: offset, end: offset + n}
}

type textReader struct {
	ctx     context.Context
	t       *Text
	i       int // of the part that is read
	at, end int64
	rd      io.ReadCloser
}

func (r *textReader) Read(b []byte) (int, error) {
	for r.at < r.end && len(b) > 0 {
		p := r.t.parts[r.i]
		if r.at >= p.base+p.size {
			r.Close()
			r.i++
			continue
		}
		if r.rd == nil {
			rd, _, err := r.t.store.Get(r.ctx, p.key, r.at-p.base, min(r.end, p.base+p.size)-r.at)
			if err != nil {
				return 0, err
			}
			r.rd = rd
		}
		n, err := r.rd.Read(b)
		r.at += int64(n)
		if err == io.EOF && r.at < min(r.end, p.base+p.size) {
			err = io.ErrUnexpectedEOF
		} else if err == io.EOF {
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	if len(b) == 0 {
		return 0, nil
	}
	return 0, io.EOF
}

func (r *textReader) Close() error {
	if r.rd == nil {
		return nil
	}
	err := r.rd.Close()
	r.rd = nil
	return err
}

// Lines finds the bytes of the lines from to to, which count from 1; to < 0:
// up to the last. Lines that are not there have none.
func (t *Text) Lines(ctx context.Context, from, to int64) (start, end int64, err error) {
	if to >= 0 && to < from {
		return t.Size, t.Size, nil
	}
	if start, err = t.behind(ctx, from-1); err != nil || to < 0 {
		return start, t.Size, err
	}
	end, err = t.behind(ctx, to)
	return start, end, err
}

// behind is where the text goes on behind its nth newline, if it has so many;
// else its end.
func (t *Text) behind(ctx context.Context, n int64) (int64, error) {
	if n <= 0 {
		return 0, nil
	}
	for _, p := range t.parts {
		at, newlines, err := t.seek(ctx, p, n)
		if err != nil {
			return 0, err
		}
		if at >= 0 {
			return p.base + at, nil
		}
		n -= newlines
	}
	return t.Size, nil
}

// Count is the number of lines.
func (t *Text) Count(ctx context.Context) (int64, error) {
	lines := int64(0)
	for _, p := range t.parts {
		k, err := t.newlines(ctx, p)
		if err != nil {
			return 0, err
		}
		lines += k
	}
	if t.Size == 0 {
		return 0, nil
	}
	last := make([]byte, 1)
	if err := t.readAt(ctx, last, t.Size-1); err != nil {
		return 0, err
	}
	if last[0] != '\n' {
		lines++
	}
	return lines, nil
}

// near is how much of the end is looked through for its last lines before the
// index is asked.
const near = 8 * logStride

// Tail is where the last n lines begin.
func (t *Text) Tail(ctx context.Context, n int64) (int64, error) {
	if n <= 0 || t.Size == 0 {
		return t.Size, nil
	}
	// A newline at the very end begins no line.
	last, left := t.Size-1, n
	buf := make([]byte, logStride)
	for end := last; t.Size-end < near; {
		b := buf[:min(end, logStride)]
		end -= int64(len(b))
		if err := t.readAt(ctx, b, end); err != nil {
			return 0, err
		}
		for i := len(b); left > 0; left-- {
			if i = bytes.LastIndexByte(b[:i], '\n'); i < 0 {
				break
			}
			if left == 1 {
				return end + int64(i) + 1, nil
			}
		}
		if end == 0 {
			return 0, nil
		}
	}
	lines, err := t.Count(ctx)
	if err != nil {
		return 0, err
	}
	return t.behind(ctx, lines-n)
}

func (t *Text) readAt(ctx context.Context, b []byte, offset int64) error {
	rd := t.Open(ctx, offset, int64(len(b)))
	defer rd.Close()
	_, err := io.ReadFull(rd, b)
	return err
}
