package api

import (
	"context"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/distci/distci/lib/repo"
)

// position is how far in a build's logs a client has read. As text it is the id
// of an event: the log and the byte behind it, as "0001.01:4096"; the logs before
// that one, in their order, it has, and of those after it nothing but what is
// said behind a comma: "0001.01:4096,console:17".
type position struct {
	log    string // "": nothing was read
	offset int64
	others map[string]int64
}

// maxPosition bounds the text of a position that is read.
const maxPosition = 4 << 10

func readPosition(s string) (p position, err error) {
	if s == "" {
		return p, nil
	}
	bad := status(http.StatusBadRequest, "Last-Event-ID: expected the id of an event of this stream")
	if len(s) > maxPosition {
		return p, bad
	}
	p.others = map[string]int64{}
	for i, part := range strings.Split(s, ",") {
		log, digits, _ := strings.Cut(part, ":")
		var offset int64
		if !isLog(log) || !number(digits, &offset) {
			return position{}, bad
		}
		if i == 0 {
			p.log, p.offset = log, offset
		} else {
			p.others[log] = offset
		}
	}
	return p, nil
}

func (p position) String() string {
	var b strings.Builder
	b.WriteString(p.log + ":" + strconv.FormatInt(p.offset, 10))
	for _, log := range slices.Sorted(maps.Keys(p.others)) {
		b.WriteString("," + log + ":" + strconv.FormatInt(p.others[log], 10))
	}
	return b.String()
}

// read tells how many bytes of each log were read.
func (p position) read(logs []repo.LogInfo) map[string]int64 {
	read := map[string]int64{}
	if p.log == "" {
		return read
	}
	for _, l := range logs {
		if l.Name < p.log {
			read[l.Name] = l.Size
		}
	}
	maps.Copy(read, p.others)
	read[p.log] = p.offset
	return read
}

// has tells whether all of the logs were read.
func (p position) has(logs []repo.LogInfo) bool {
	if p.log == "" {
		return false
	}
	read := p.read(logs)
	return !slices.ContainsFunc(logs, func(l repo.LogInfo) bool { return read[l.Name] < l.Size })
}

// move is the position after something was read up to an offset.
func (p position) move(log string, offset int64) position {
	others := p.others
	if log != p.log {
		others = maps.Clone(p.others)
		if others == nil {
			others = map[string]int64{}
		}
		if p.log > log { // else all of it is implied
			others[p.log] = p.offset
		}
		maps.DeleteFunc(others, func(name string, _ int64) bool { return name <= log })
	}
	return position{log, offset, others}
}

// maxPiece bounds the text of one event, in bytes of the log.
const maxPiece = 32 << 10

// pieces makes events of what comes of logs. An event holds whole characters,
// so that those of one log joined are its text.
type pieces struct {
	s    *stream
	at   position
	rest []byte // the beginning of a character, behind at
}

// piece is called with each piece of a log; offset is where it begins.
func (p *pieces) piece(log string, offset int64, b []byte) error {
	if len(p.rest) > 0 {
		if log != p.at.log || offset != p.at.offset+int64(len(p.rest)) {
			if err := p.flush(); err != nil {
				return err
			}
		} else {
			b, offset = append(p.rest, b...), p.at.offset
			p.rest = nil
		}
	}
	for len(b) > 0 {
		k := whole(b[:min(len(b), maxPiece)])
		if k == 0 { // a character that is not all there
			p.at, p.rest = p.at.move(log, offset), slices.Clone(b)
			return nil
		}
		if err := p.send(log, offset, b[:k]); err != nil {
			return err
		}
		b, offset = b[k:], offset+int64(k)
	}
	return nil
}

// flush sends what is left of a character that never became whole.
func (p *pieces) flush() error {
	rest := p.rest
	if p.rest = nil; len(rest) == 0 {
		return nil
	}
	return p.send(p.at.log, p.at.offset, rest)
}

func (p *pieces) send(log string, offset int64, text []byte) error {
	p.at = p.at.move(log, offset+int64(len(text)))
	return p.s.event("log", p.at.String(), struct {
		Log    string `json:"log"`
		Offset int64  `json:"offset"`
		Text   string `json:"text"`
	}{log, offset, string(text)})
}

// whole is how much of b ends with a whole character, or with what is none.
func whole(b []byte) int {
	for i := 1; i <= min(len(b), utf8.UTFMax-1); i++ {
		tail := b[len(b)-i:]
		if utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return len(b) - i
			}
			break
		}
	}
	return len(b)
}

// logPieces is the writer of one log.
type logPieces struct {
	p      *pieces
	log    string
	offset int64
}

func (w *logPieces) Write(b []byte) (int, error) {
	if err := w.p.piece(w.log, w.offset, b); err != nil {
		return 0, err
	}
	w.offset += int64(len(b))
	return len(b), nil
}

// copyText writes what there is of a log from start on.
func copyText(ctx context.Context, w io.Writer, t *repo.Text, start int64) error {
	rd := t.Open(ctx, start, -1)
	defer rd.Close()
	_, err := io.Copy(w, rd)
	return err
}
