// Package bundle makes one archive of many files, a zip or a tar.zst, as a
// stream: nothing is kept but a buffer, whatever the files' number and size.
package bundle

import (
	"archive/tar"
	"archive/zip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/zstd"

	"github.com/distci/distci/lib/fault"
)

// Format is a kind of archive, as the ending of its file's name without the
// dot.
type Format string

// The formats.
const (
	// Zip has the sizes behind the files (data descriptors), and 64-bit ones
	// where they are needed.
	Zip Format = "zip"
	// TarZstd is a tar in the pax format, compressed with zstd.
	TarZstd Format = "tar.zst"
)

var formats = []Format{Zip, TarZstd}

// ParseFormat reads the name of a format. Errors are of kind Usage and list
// those that there are.
func ParseFormat(s string) (Format, error) {
	if f := Format(s); slices.Contains(formats, f) {
		return f, nil
	}
	return "", fault.Errorf(fault.Usage, "the format %.40q: expected zip or tar.zst", s)
}

// FormatOf is the format that a file's name asks for; "" if it is not an
// archive's.
func FormatOf(name string) Format {
	for _, f := range formats {
		if strings.HasSuffix(name, "."+string(f)) {
			return f
		}
	}
	return ""
}

// MediaType is what HTTP calls the format.
func (f Format) MediaType() string {
	if f == Zip {
		return "application/zip"
	}
	return "application/zstd"
}

// File is a file to be packed.
type File struct {
	ID     string
	Path   []string // parts; may be anything
	Step   string   // that it comes from; may be empty
	Size   int64
	SHA256 string
	Time   time.Time // zero: now
}

// Mode is that of a program if the first bytes of a file are one's.
func Mode(head []byte) fs.FileMode {
	if s := string(head); strings.HasPrefix(s, "\x7fELF") || strings.HasPrefix(s, "#!") {
		return 0o755
	}
	return 0o644
}

// Write packs the files, under their names, into w. Each is read from what open
// returns, in the order given. An archive that Write has not ended without an
// error cannot be mistaken for a whole one.
func Write(ctx context.Context, w io.Writer, f Format, files []Placed, open func(context.Context, File) (io.ReadCloser, error)) error {
	var p packer
	if f == Zip {
		p = newZip(w)
	} else {
		t, err := newTar(w)
		if err != nil {
			return err
		}
		p = t
	}
	buf := make([]byte, 256<<10)
	now := time.Now()
	for _, file := range files {
		if file.Time.IsZero() {
			file.Time = now
		}
		if err := add(ctx, p, file, buf, open); err != nil {
			return fmt.Errorf("packing %q: %w", file.Name, err)
		}
	}
	return p.Close()
}

func add(ctx context.Context, p packer, file Placed, buf []byte, open func(context.Context, File) (io.ReadCloser, error)) error {
	r, err := open(ctx, file.File)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.ReadFull(r, buf)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return err
	}
	head := buf[:n]
	w, err := p.Create(file, Mode(head))
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	k, err := copyBuffer(ctx, w, r, buf)
	if err == nil && int64(n)+k != file.Size {
		err = fault.Errorf(fault.Temporary, "%d bytes came instead of %d", int64(n)+k, file.Size)
	}
	return err
}

// copyBuffer copies until the context is done.
func copyBuffer(ctx context.Context, w io.Writer, r io.Reader, buf []byte) (total int64, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return total, err
		}
		n, err := r.Read(buf)
		total += int64(n)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return total, err
			}
		}
		if err == io.EOF {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// packer is one of the formats.
type packer interface {
	Create(Placed, fs.FileMode) (io.Writer, error)
	Close() error
}

type zipPacker struct{ *zip.Writer }

// newZip compresses quickly. Files that are only stored could not be read by
// programs that read a zip as a stream.
func newZip(w io.Writer) zipPacker {
	z := zip.NewWriter(w)
	z.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestSpeed) })
	return zipPacker{z}
}

func (z zipPacker) Create(f Placed, mode fs.FileMode) (io.Writer, error) {
	h := &zip.FileHeader{Name: f.Name, Method: zip.Deflate, Modified: f.Time}
	h.SetMode(mode)
	return z.CreateHeader(h)
}

type tarPacker struct {
	*tar.Writer
	z *zstd.Encoder
}

// newTar has no goroutines: after an error there is nothing to be closed, which
// would give the archive a proper end.
func newTar(w io.Writer) (tarPacker, error) {
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithLowerEncoderMem(true), zstd.WithWindowSize(1<<20))
	return tarPacker{tar.NewWriter(z), z}, err
}

func (t tarPacker) Create(f Placed, mode fs.FileMode) (io.Writer, error) {
	return t.Writer, t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.Name, Size: f.Size, Mode: int64(mode), ModTime: f.Time.Truncate(time.Second)})
}

func (t tarPacker) Close() error {
	if err := t.Writer.Close(); err != nil {
		return err
	}
	return t.z.Close()
}
