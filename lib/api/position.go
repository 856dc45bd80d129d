package api

import (
	"context"
	"fmt"
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
// of an event: the log that was read last and the byte behind it, and then the
// others, each with its bytes or, if it was complete, without; those of steps
// that follow one another are one: "0004.01:4096,0000.01+3,console:17".
type position struct {
	log    string           // "": nothing was read
	offset int64            // in log
	ended  bool             // log is complete
	others map[string]int64 // complete: all of it
	text   string           // of others
}

// allRead is the offset of a log that was read and is complete.
const allRead = -1

// Bounds of a position as text, and of the logs that it names.
const (
	maxPosition = 4 << 10
	maxLogs     = 10_000
)

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
		var offset, more int64 = allRead, 0
		log, digits, partly := strings.Cut(part, ":")
		if partly && !number(digits, &offset) {
			return position{}, bad
		}
		log, digits, several := strings.Cut(log, "+")
		if several && (partly || !number(digits, &more)) || more > maxLogs || !isLog(log) || i == 0 && !partly {
			return position{}, bad
		}
		if i == 0 {
			p.log, p.offset = log, offset
			continue
		}
		p.others[log] = offset
		for ; more > 0; more-- {
			if log = following(log); log == "" || len(p.others) >= maxLogs {
				return position{}, bad
			}
			p.others[log] = offset
		}
	}
	delete(p.others, p.log)
	p.text = textOf(p.others)
	return p, nil
}

// following is the log of the step after that of log, of as many attempts; ""
// if its step has no number.
func following(log string) string {
	step, attempt, _ := strings.Cut(log, ".")
	n, err := strconv.Atoi(step)
	if err != nil || fmt.Sprintf("%04d", n) != step {
		return ""
	}
	return fmt.Sprintf("%04d.%s", n+1, attempt)
}

func (p position) String() string {
	return p.log + ":" + strconv.FormatInt(p.offset, 10) + p.text
}

// textOf is a list of logs as text, with a comma before each. What does not fit
// into an id is left out: a client that comes again gets it once more.
func textOf(logs map[string]int64) string {
	var b strings.Builder
	done := map[string]bool{}
	for _, log := range slices.Sorted(maps.Keys(logs)) {
		if done[log] {
			continue
		}
		part := "," + log
		if offset := logs[log]; offset != allRead {
			part += ":" + strconv.FormatInt(offset, 10)
		} else {
			more := 0
			for next := following(log); logs[next] == allRead; next = following(next) {
				done[next] = true
				more++
			}
			if more > 0 {
				part += "+" + strconv.Itoa(more)
			}
		}
		if b.Len()+len(part) > maxPosition-256 { // room for the first
			break
		}
		b.WriteString(part)
	}
	return b.String()
}

// read tells how many bytes of each log were read.
func (p position) read(logs []repo.LogInfo) map[string]int64 {
	read := map[string]int64{}
	for _, l := range logs {
		if offset, ok := p.others[l.Name]; ok && offset == allRead {
			read[l.Name] = l.Size
		} else if ok {
			read[l.Name] = offset
		}
	}
	if p.log != "" {
		read[p.log] = p.offset
	}
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
	if log == p.log {
		p.offset = offset
		return p
	}
	others := maps.Clone(p.others)
	if others == nil {
		others = map[string]int64{}
	}
	if p.log != "" {
		others[p.log] = p.offset
		if p.ended {
			others[p.log] = allRead
		}
	}
	delete(others, log)
	return position{log: log, offset: offset, others: others, text: textOf(others)}
}

// end is the position when a log that was read is complete.
func (p position) end(log string) position {
	if log == p.log {
		p.ended = true
		return p
	}
	if offset, ok := p.others[log]; ok && offset != allRead {
		p.others = maps.Clone(p.others)
		p.others[log] = allRead
		p.text = textOf(p.others)
	}
	return p
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

// piece is called with each piece of a log; offset is where it begins. One of
// no bytes is the log's end.
func (p *pieces) piece(log string, offset int64, b []byte) error {
	if len(b) == 0 {
		if log == p.at.log {
			if err := p.flush(); err != nil {
				return err
			}
		}
		p.at = p.at.end(log)
		return nil
	}
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
