package rados

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// chunkSize is how much of an object one RADOS object holds.
const chunkSize = 4 << 20

// An entry says where the bytes of an object are. It is kept as text:
//
//	1 MODIFIED TAIL SEGMENT...
//
// that is the format, the time of the last Put in nanoseconds, the id of the
// tail or "-", and the segments before it, each as ID:SIZE:CHUNK in decimals.
type entry struct {
	modified time.Time
	segments []segment
	tail     string // the id of what can be appended to; "" if there is none
}

// segment is a part of an object that does not change any more.
type segment struct {
	id    string
	size  int64
	chunk int64 // bytes in each of its RADOS objects, but the last
}

// entryFormat begins each entry.
const entryFormat = "1"

func (e *entry) encode() []byte {
	var b strings.Builder
	tail := e.tail
	if tail == "" {
		tail = "-"
	}
	fmt.Fprintf(&b, "%s %d %s", entryFormat, e.modified.UnixNano(), tail)
	for _, s := range e.segments {
		fmt.Fprintf(&b, " %s:%d:%d", s.id, s.size, s.chunk)
	}
	return []byte(b.String())
}

func decodeEntry(raw []byte) (*entry, error) {
	f := strings.Split(string(raw), " ")
	if len(f) < 3 || f[0] != entryFormat {
		return nil, fmt.Errorf("an entry of the index is not of format %s: %.60q", entryFormat, raw)
	}
	bad := fmt.Errorf("an entry of the index is damaged: %.60q", raw)
	ns, err := strconv.ParseInt(f[1], 10, 64)
	if err != nil {
		return nil, bad
	}
	e := &entry{modified: time.Unix(0, ns)}
	if f[2] != "-" {
		if e.tail = f[2]; !validID(e.tail) {
			return nil, bad
		}
	}
	e.segments = make([]segment, 0, len(f)-3)
	for _, s := range f[3:] {
		p := strings.Split(s, ":")
		if len(p) != 3 || !validID(p[0]) {
			return nil, bad
		}
		size, err1 := strconv.ParseInt(p[1], 10, 64)
		chunk, err2 := strconv.ParseInt(p[2], 10, 64)
		if err1 != nil || err2 != nil || size < 0 || chunk < 1 || (size+chunk-1)/chunk > maxChunks {
			return nil, bad
		}
		e.segments = append(e.segments, segment{p[0], size, chunk})
	}
	if e.tail == "" && len(e.segments) == 0 {
		return nil, bad
	}
	return e, nil
}

// closed is the size of the segments.
func (e *entry) closed() (n int64) {
	for _, s := range e.segments {
		n += s.size
	}
	return n
}

// version of the object when its tail has the given size. Ids are never used
// again, and below an id an object only grows.
func (e *entry) version(tail int64) string {
	id := e.tail
	if len(e.segments) > 0 {
		id = e.segments[0].id
	}
	return id + "-" + strconv.FormatInt(e.closed()+tail, 36)
}

// closeTail makes the tail, which has the given size for good, a segment.
func (e *entry) closeTail(size int64) {
	if e.tail != "" && (size > 0 || len(e.segments) == 0) {
		e.segments = append(e.segments, segment{e.tail, size, max(size, 1)})
	}
	e.tail = ""
}

// objects are the names of the RADOS objects with the entry's bytes.
func (e *entry) objects() (names []string) {
	for _, s := range e.segments {
		for n := range (s.size + s.chunk - 1) / s.chunk {
			names = append(names, chunkName(s.id, n))
		}
	}
	if e.tail != "" {
		names = append(names, chunkName(e.tail, 0))
	}
	return names
}

// piece is a range of one RADOS object.
type piece struct {
	object    string
	offset, n int64
}

// piece returns the bytes from offset on that are in one RADOS object; those
// behind the segments are in the tail.
func (e *entry) piece(offset, n int64) piece {
	for _, s := range e.segments {
		if offset >= s.size {
			offset -= s.size
			continue
		}
		at := offset % s.chunk
		return piece{chunkName(s.id, offset/s.chunk), at, min(n, s.size-offset, s.chunk-at)}
	}
	return piece{chunkName(e.tail, 0), offset, n}
}

// An id is the time of its making, 12 hexadecimal digits of milliseconds, so
// that Sweep need not ask each object for its age, and 16 random ones.
const idLength = 12 + 16

// newID returns an id that nobody else has.
func newID() string {
	var b [8]byte
	rand.Read(b[:])
	return fmt.Sprintf("%012x%s", time.Now().UnixMilli()&(1<<48-1), hex.EncodeToString(b[:]))
}

func validID(id string) bool {
	_, err := hex.DecodeString(id)
	return len(id) == idLength && err == nil
}

// made is the time at which an id was made.
func made(id string) time.Time {
	ms, _ := strconv.ParseInt(id[:12], 16, 64)
	return time.UnixMilli(ms)
}

// maxChunks bounds an object at 64 TiB.
const maxChunks = 1 << 24

func chunkName(id string, n int64) string { return fmt.Sprintf("%s.%06x", id, n) }

// chunkID returns the id and the number in a chunk's name; "" if it is none.
func chunkID(name string) (string, int64) {
	id, number, _ := strings.Cut(name, ".")
	n, err := strconv.ParseInt(number, 16, 64)
	if !validID(id) || err != nil || chunkName(id, n) != name {
		return "", 0
	}
	return id, n
}
