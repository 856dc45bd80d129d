package workspace

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// maxWindow bounds the memory that a layer's compression makes us use.
const maxWindow = 32 << 20

// kind is what an entry of an archive asks for.
type kind int

const (
	aDirectory kind = iota
	aFile
	aSymlink
	aLink
	aWhiteout // path is what it hides
	anOpaque  // path is the directory of which it hides the contents
	aSpecial  // a device or a named pipe, of a root file system; target says which
)

// item is one entry of an archive, its paths checked.
type item struct {
	kind   kind
	path   string // clean and relative; "" for the root
	target string // of a link: a clean path; of a symlink: verbatim
	size   int64
	mode   uint32 // twelve bits
	mtime  unix.Timespec
	attrs  map[string]string
	uid    int // as the archive has it, of a root file system
	gid    int
}

// archive reads a tar that is plain, or compressed with zstd or gzip, and
// trusts nothing in it.
type archive struct {
	*tar.Reader   // for the contents of the present item
	lim           Limits
	layer         bool  // whiteouts are whiteouts; else they are refused
	rootfs        *Root // nil for a workspace
	raw           *meter
	files         int
	bytes         int64
	names         int64 // bytes of their paths
	closeDecoders func()
}

// openArchive begins to read r, which the caller closes.
func openArchive(ctx context.Context, r io.Reader, lim Limits, layer bool) (*archive, error) {
	lim = lim.withDefaults()
	in := bufio.NewReaderSize(&cancelReader{ctx, r}, 64<<10)
	a := &archive{lim: lim, layer: layer, closeDecoders: func() {}}
	magic, err := in.Peek(4)
	if err != nil && err != io.EOF {
		return nil, a.damaged(err)
	}
	var plain io.Reader = in
	switch {
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(4*maxWindow), zstd.WithDecoderConcurrency(2), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, a.damaged(err)
		}
		plain, a.closeDecoders = d, d.Close
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		if plain, err = gzip.NewReader(in); err != nil {
			return nil, a.damaged(err)
		}
	}
	a.raw = &meter{r: plain, left: lim.Bytes}
	a.Reader = tar.NewReader(a.raw)
	return a, nil
}

// cancelReader ends with its context. An error of the reader itself is marked,
// so that it is not taken for a fault of the archive.
type cancelReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *cancelReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, &sourceError{err}
	}
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF {
		err = &sourceError{err}
	}
	return n, err
}

// sourceError is an error of where the archive is read from.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// meter stops a decompression that has become too large.
type meter struct {
	r    io.Reader
	left int64
	over bool
}

func (m *meter) Read(p []byte) (int, error) {
	if m.left <= 0 {
		var one [1]byte
		n, err := m.r.Read(one[:])
		if n > 0 {
			m.over = true
			return 0, ErrLimit
		}
		return 0, err
	}
	n, err := m.r.Read(p[:min(int64(len(p)), m.left)])
	m.left -= int64(n)
	return n, err
}

// damaged explains why reading the archive has failed.
func (a *archive) damaged(err error) error {
	var src *sourceError
	switch {
	case a.raw != nil && a.raw.over:
		return overLimit("it unpacks to more than %d bytes", a.lim.Bytes)
	case errors.As(err, &src):
		return src.err
	}
	return invalid("", "%s", err)
}

func (a *archive) close() { a.closeDecoders() }

// drain reads what follows the last entry, as only the end of a compressed
// stream tells whether all of it has come.
func (a *archive) drain() error {
	if _, err := io.Copy(io.Discard, a.raw); err != nil {
		return a.damaged(err)
	}
	return nil
}

// next returns the next item; io.EOF after the last.
func (a *archive) next() (*item, error) {
	for {
		h, err := a.Reader.Next()
		if err == io.EOF {
			return nil, io.EOF
		}
		if err != nil {
			return nil, a.damaged(err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader { // a comment, as git archive writes it
			continue
		}
		a.files++
		a.bytes += h.Size
		a.names += int64(len(h.Name))
		switch {
		case a.files > a.lim.Files:
			return nil, overLimit("it has more than %d entries", a.lim.Files)
		case h.Size < 0 || a.bytes < 0 || a.bytes > a.lim.Bytes: // sparse files are small only in the archive
			return nil, overLimit("it unpacks to more than %d bytes", a.lim.Bytes)
		case a.names > a.lim.Names:
			return nil, overLimit("its paths are more than %d bytes together", a.lim.Names)
		}
		return a.item(h)
	}
}

// item checks one header.
func (a *archive) item(h *tar.Header) (*item, error) {
	path, err := a.clean(h.Name)
	if err != nil {
		return nil, err
	}
	it := &item{path: path, mode: uint32(h.Mode) & 0o7777, mtime: timespec(h.ModTime)}
	switch h.Typeflag {
	case tar.TypeDir:
		it.kind = aDirectory
	case tar.TypeReg, tar.TypeGNUSparse:
		it.kind, it.size = aFile, h.Size
	case tar.TypeSymlink:
		it.kind, it.target = aSymlink, h.Linkname
		if it.target == "" || len(it.target) >= MaxPath || strings.ContainsRune(it.target, 0) {
			return nil, invalid(h.Name, "a symbolic link without a valid target")
		}
	case tar.TypeLink:
		it.kind = aLink
		if it.target, err = a.clean(h.Linkname); err != nil {
			return nil, err
		}
		if it.target == "" || it.target == path {
			return nil, invalid(h.Name, "a hard link to %s", quote(it.target))
		}
	case tar.TypeChar, tar.TypeBlock:
		it.kind, it.target = aSpecial, "a device"
	case tar.TypeFifo:
		it.kind, it.target = aSpecial, "a named pipe"
	default:
		return nil, invalid(h.Name, "an entry of unknown type %q", h.Typeflag)
	}
	if path == "" && it.kind != aDirectory {
		return nil, invalid(h.Name, "it would replace the root itself")
	}
	if it.kind == aSpecial && a.rootfs == nil {
		return nil, invalid(h.Name, "%s", it.target)
	}
	for name, value := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(name, attrRecord); ok && a.rootfs == nil && strings.HasPrefix(attr, attrPrefix) {
			if it.attrs == nil {
				it.attrs = map[string]string{}
			}
			it.attrs[attr] = value
		}
	}
	if err := a.whiteout(it, h.Name); err != nil || a.rootfs == nil {
		return it, err
	}
	return it, a.rootfs.admit(it, h)
}

// clean checks a path and brings it to its one form.
func (a *archive) clean(name string) (string, error) {
	if a.rootfs != nil {
		name = strings.TrimLeft(name, "/") // its own root is meant
	}
	switch {
	case len(name) > a.lim.Path+2: // "./" may come before it or "/" behind
		return "", overLimit("a path of %d bytes; at most %d are allowed", len(name), a.lim.Path)
	case strings.HasPrefix(name, "/"):
		return "", invalid(name, "an absolute path")
	case strings.ContainsRune(name, 0):
		return "", invalid(name, "a path with a zero byte")
	}
	parts := make([]string, 0, 16)
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			return "", invalid(name, "a path that leads upwards")
		default:
			parts = append(parts, part)
		}
	}
	for i, part := range parts {
		if strings.HasPrefix(part, whiteoutPrefix) && (!a.layer || i < len(parts)-1) {
			return "", invalid(name, "a name that begins with %q, which only a layer's whiteouts may have", whiteoutPrefix)
		}
	}
	return strings.Join(parts, "/"), nil
}

// whiteout makes an item whose name says so a whiteout.
func (a *archive) whiteout(it *item, name string) error {
	_, target := split(it.target)
	if it.kind == aLink && strings.HasPrefix(target, whiteoutPrefix) {
		return invalid(name, "a hard link to a whiteout")
	}
	dir, base := split(it.path)
	hidden, ok := strings.CutPrefix(base, whiteoutPrefix)
	if !ok {
		return nil
	}
	if it.kind != aFile {
		return invalid(name, "a whiteout that is not a regular file")
	}
	if base == opaqueName {
		it.kind, it.path = anOpaque, dir
		return nil
	}
	if hidden == "" || hidden == "." || hidden == ".." || strings.HasPrefix(hidden, whiteoutPrefix) {
		return invalid(name, "a whiteout of nothing that can be in a layer")
	}
	it.kind, it.path = aWhiteout, join(dir, hidden)
	return nil
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}
