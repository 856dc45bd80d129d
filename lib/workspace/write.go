package workspace

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
)

const (
	attrRecord = "SCHILY.xattr." // as GNU tar and libarchive call it
	// window bounds what a reader of the layer must hold in memory.
	window = 4 << 20
)

// layerWriter writes one layer: a tar without owners and with exact times,
// compressed, and both digests of it.
type layerWriter struct {
	tar   *tar.Writer
	zstd  *zstd.Encoder
	inner hash.Hash // of the tar
	outer hash.Hash // of the layer
	out   *counter
	layer Layer
}

func newLayerWriter(w io.Writer) (*layerWriter, error) {
	lw := &layerWriter{inner: sha256.New(), outer: sha256.New(), out: new(counter)}
	enc, err := zstd.NewWriter(io.MultiWriter(w, lw.outer, lw.out),
		zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithWindowSize(window), zstd.WithEncoderConcurrency(2), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, err
	}
	lw.zstd = enc
	lw.tar = tar.NewWriter(io.MultiWriter(enc, lw.inner))
	return lw, nil
}

// counter counts the bytes that are written to it.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// header begins an entry. The PAX format is the one that has room for any
// name, size and time.
func (w *layerWriter) header(h tar.Header) error {
	h.Format = tar.FormatPAX
	w.layer.Files++
	return w.tar.WriteHeader(&h)
}

func headerOf(e *entry, attrs map[string]string) tar.Header {
	h := tar.Header{Name: e.path, Mode: int64(e.mode & 0o7777), ModTime: time.Unix(e.mtime.Unix())}
	if len(attrs) > 0 {
		h.PAXRecords = make(map[string]string, len(attrs))
		for name, value := range attrs {
			h.PAXRecords[attrRecord+name] = value
		}
	}
	return h
}

func (w *layerWriter) directory(e *entry, attrs map[string]string) error {
	h := headerOf(e, attrs)
	h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	if e.path == "" {
		h.Name = "./"
	}
	return w.header(h)
}

// file begins a regular file, whose contents are then to be written.
func (w *layerWriter) file(e *entry, attrs map[string]string) error {
	h := headerOf(e, attrs)
	h.Typeflag, h.Size = tar.TypeReg, e.size
	w.layer.Bytes += e.size
	return w.header(h)
}

func (w *layerWriter) Write(p []byte) (int, error) { return w.tar.Write(p) }

func (w *layerWriter) symlink(e *entry, target string) error {
	h := headerOf(e, nil)
	h.Typeflag, h.Linkname = tar.TypeSymlink, target
	return w.header(h)
}

// link makes e another name of first, which was written before.
func (w *layerWriter) link(e *entry, first string) error {
	h := headerOf(e, nil)
	h.Typeflag, h.Linkname = tar.TypeLink, first
	return w.header(h)
}

func (w *layerWriter) whiteout(path string) error {
	dir, base := split(path)
	return w.marker(join(dir, whiteoutPrefix+base))
}

// marker writes the empty file that a whiteout is.
func (w *layerWriter) marker(path string) error {
	return w.header(tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o644, ModTime: time.Unix(0, 0)})
}

// close ends the layer.
func (w *layerWriter) close() (Layer, error) {
	if err := w.tar.Close(); err != nil {
		return Layer{}, err
	}
	if err := w.zstd.Close(); err != nil {
		return Layer{}, err
	}
	w.layer.Digest, w.layer.DiffID, w.layer.Size = digestOf(w.outer), digestOf(w.inner), w.out.n
	return w.layer, nil
}

// abandon ends the encoder's goroutines, if close has not done so.
func (w *layerWriter) abandon() {
	w.zstd.Reset(io.Discard)
	_ = w.zstd.Close()
}

func digestOf(h hash.Hash) string { return digestPrefix + hex.EncodeToString(h.Sum(nil)) }
