package s3

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// A head is, as the server stores it,
//
//	distci-s3 1 NAME CHAIN PREVIOUS SIZE TABLE\n
//	DATA SIZE\n …     the table: TABLE bytes, a line for each piece of data
//	the last bytes
//
// with fixed widths, so the first prologue bytes tell what Stat must know.
const (
	magic    = "distci-s3 1 "
	prologue = len(magic) + 3*33 + 21 + 11
	// tailMax is how many bytes an object's head holds at most.
	tailMax = 128 << 10
	// A head with a table has a multiple of step bytes, so a listing alone
	// tells the size of nearly every object that has none.
	step = 1024
)

// head is an object as it is at one time.
type head struct {
	name     string  // random; this head's own
	chain    string  // name of the head with which the object began: what has the same chain differs by Appends only
	previous string  // of the head that this one replaced, its fingerprint; or noPrevious
	pieces   []piece // the data before tail
	tail     []byte

	etag     string
	modified time.Time
}

// piece is some data, in an S3 object of its own.
type piece struct {
	name string
	size int64
}

var noPrevious = strings.Repeat("-", 32)

func newHead() *head {
	n := randomName()
	return &head{name: n, chain: n, previous: noPrevious}
}

func randomName() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// fingerprint is an ETag as "previous" has it: of one length, whatever the
// server's are.
func fingerprint(etag string) string { return digest([]byte(etag)) }

// digest is the ETag of an object that was put at once, on most servers.
func digest(p []byte) string {
	sum := md5.Sum(p)
	return hex.EncodeToString(sum[:])
}

// before is the number of bytes in pieces.
func (h *head) before() (n int64) {
	for _, p := range h.pieces {
		n += p.size
	}
	return n
}

func (h *head) size() int64 { return h.before() + int64(len(h.tail)) }

func (h *head) info(key string) store.Info {
	return store.Info{Key: key, Size: h.size(), Version: h.etag, Modified: h.modified}
}

func (h *head) encode() []byte {
	var table bytes.Buffer
	for _, p := range h.pieces {
		fmt.Fprintf(&table, "%s %d\n", p.name, p.size)
	}
	if len(h.pieces) > 0 {
		if over := (prologue + table.Len() + len(h.tail)) % step; over > 0 {
			table.WriteString(strings.Repeat(" ", step-over))
		}
	}
	b := make([]byte, 0, prologue+table.Len()+len(h.tail))
	b = fmt.Appendf(b, "%s%s %s %s %020d %010d\n", magic, h.name, h.chain, h.previous, h.size(), table.Len())
	return append(append(b, table.Bytes()...), h.tail...)
}

var errNotOurs = fault.Errorf(fault.Config, "the bucket holds something else there")

// decodePrologue reads a head's beginning: its size and its table's.
func decodePrologue(b []byte) (h head, size int64, table int, err error) {
	if len(b) < prologue || string(b[:len(magic)]) != magic {
		return h, 0, 0, errNotOurs
	}
	f := strings.Split(string(b[len(magic):prologue-1]), " ")
	if len(f) != 5 || len(f[0]) != 32 || len(f[1]) != 32 || len(f[2]) != 32 {
		return h, 0, 0, errNotOurs
	}
	h = head{name: f[0], chain: f[1], previous: f[2]}
	size, err = strconv.ParseInt(f[3], 10, 64)
	if err == nil {
		table, err = strconv.Atoi(f[4])
	}
	if err != nil || size < 0 || table < 0 {
		return h, 0, 0, errNotOurs
	}
	return h, size, table, nil
}

func decode(b []byte) (*head, error) {
	h, size, table, err := decodePrologue(b)
	if err != nil {
		return nil, err
	}
	b = b[prologue:]
	if table > len(b) {
		return nil, errNotOurs
	}
	for line := range strings.Lines(strings.TrimRight(string(b[:table]), " ")) {
		name, n, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		p := piece{name: name}
		if p.size, err = strconv.ParseInt(n, 10, 64); err != nil || p.size <= 0 || p.size > size || name == "" || strings.Contains(name, "/") {
			return nil, errNotOurs
		}
		h.pieces = append(h.pieces, p)
	}
	h.tail = b[table:]
	if h.size() != size {
		return nil, errNotOurs
	}
	return &h, nil
}

func headName(key string) string { return "o/" + key }

// rereads is how often a head is read again that has another's ETag.
const rereads = 4

// readHead reads a head. A server that keeps objects in files may look up the
// ETag before it opens the file (versitygw 1.8 does), so that what is replaced
// meanwhile has that of what it was: where ETags are digests this is seen, and
// the head read again. If it goes on, the head is given with the older ETag, on
// which no change can be made.
func (s *bucket) readHead(ctx context.Context, key string) (*head, error) {
	for try := 0; ; try++ {
		b, info, err := s.fetch(ctx, headName(key), 0, -1)
		if err != nil {
			return nil, err
		}
		if s.digests && info.ETag != digest(b) && try < rereads {
			continue
		}
		h, err := decode(b)
		if err != nil {
			return nil, err
		}
		h.etag, h.modified = info.ETag, when(info)
		return h, nil
	}
}

// statHead reads as much of a head as tells what the object is.
func (s *bucket) statHead(ctx context.Context, key string) (store.Info, error) {
	b, info, err := s.fetch(ctx, headName(key), 0, int64(prologue))
	if err != nil {
		return store.Info{}, err
	}
	_, size, _, err := decodePrologue(b)
	return store.Info{Key: key, Size: size, Version: info.ETag, Modified: when(info)}, err
}

// when is an object's time, in whole seconds: that is all of it that a server
// tells everywhere.
func when(info minio.ObjectInfo) time.Time { return info.LastModified.UTC().Truncate(time.Second) }

// writeHead puts a head, and finds out what became of it if the answer is
// lost. Errors: ErrExists or ErrConflict, as the condition says; ErrUnknown.
func (s *bucket) writeHead(ctx context.Context, key string, h *head, c condition) error {
	if c.etag != "" {
		h.previous = fingerprint(c.etag)
	}
	b := h.encode()
	started := time.Now()
	var lost error // an earlier try whose outcome is unknown
	for try := 0; ; try++ {
		info, err := s.tryPut(ctx, headName(key), b, c)
		if err == nil {
			h.etag, h.modified = info.ETag, s.transport.now()
			return nil
		}
		if lost == nil && refused(err) {
			if c.absent {
				return store.ErrExists
			}
			return store.ErrConflict
		}
		again := false
		switch {
		case notApplied(err) && lost == nil:
			again = temporary(err)
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", store.ErrUnknown, err)
		default:
			lost = err
			if again, err = s.outcome(ctx, key, h, b, c, lost); err == nil && !again {
				return nil
			}
		}
		if !again || !s.pause(ctx, try, started) {
			if lost != nil && err == nil {
				err = fmt.Errorf("%w: %w", store.ErrUnknown, lost)
			}
			return err
		}
	}
}

// outcome finds out whether a head was put although the answer was lost: nil
// and false mean that it was. Again means that it was not yet, and that trying
// again is safe: with If-Match, of the two at most one can succeed.
func (s *bucket) outcome(ctx context.Context, key string, h *head, b []byte, c condition, lost error) (again bool, err error) {
	now, err := s.readHead(ctx, key)
	own := digest(b) // the ETag that it has or had, where ETags are digests
	switch {
	case err == nil && now.name == h.name:
		h.etag, h.modified = now.etag, now.modified
		return false, nil
	case err == nil && now.previous == fingerprint(own): // and then it was replaced
		h.etag, h.modified = own, now.modified
		return false, nil
	case err == nil && c.etag != "" && now.etag == c.etag:
		return true, nil
	case err == nil && c.etag != "" && now.previous == h.previous:
		return false, store.ErrConflict // what was to be replaced, another has replaced
	case err != nil && !errors.Is(err, store.ErrNotFound):
		lost = errors.Join(lost, err)
	}
	return false, fmt.Errorf("%w: %w", store.ErrUnknown, lost)
}

// digests are the sums by which the server checks what it gets.
func digests(p []byte) (md5Base64, sha256Hex string) {
	m, s := md5.Sum(p), sha256.Sum256(p)
	return base64.StdEncoding.EncodeToString(m[:]), hex.EncodeToString(s[:])
}

// readAt reads the object's bytes from offset up to end.
func (s *bucket) readAt(ctx context.Context, key string, h *head, offset, end int64) ([]byte, error) {
	r := &reader{s: s, ctx: ctx, key: key, head: h, offset: offset, end: end}
	defer r.Close()
	p := make([]byte, end-offset)
	_, err := io.ReadFull(r, p)
	return p, err
}
