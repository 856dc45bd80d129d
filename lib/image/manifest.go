package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// The manifest has a line for each file of a tree, in the order of walk:
//
//	TYPE MODE UID GID MTIME SIZE CONTENTS PATH [TARGET]
//
// TYPE is "d", "f", "l" for a symbolic link, or "h" for a file that is in the
// list before, with TARGET as its first path. MODE is twelve bits in octal,
// MTIME seconds and nanoseconds, CONTENTS the SHA-256 in hex. What a type does
// not have is "-". Paths are quoted as in Go, with ASCII alone. The digest of
// the manifest is that of the image.
const manifestLine = "%s %s %s %s %s %s %s %s"

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func validDigest(s string) bool { return digestPattern.MatchString(s) }

// summary is what is known of a tree once its manifest is written.
type summary struct {
	digest string
	files  int
	size   int64
}

// writeManifest reads the tree at dir and writes its manifest to w.
func writeManifest(ctx context.Context, dir string, w io.Writer) (summary, error) {
	root, err := openRoot(dir)
	if err != nil {
		return summary{}, err
	}
	defer unix.Close(root)
	h := sha256.New()
	m := manifest{ctx: ctx, out: bufio.NewWriterSize(io.MultiWriter(w, h), 64<<10), seen: map[inode]string{}, hash: sha256.New(), buf: make([]byte, 256<<10)}
	if err := walk(ctx, root, m.add); err != nil {
		return summary{}, err
	}
	if err := m.out.Flush(); err != nil {
		return summary{}, err
	}
	m.sum.digest = digestPrefix + hex.EncodeToString(h.Sum(nil))
	return m.sum, nil
}

type inode struct{ dev, ino uint64 }

type manifest struct {
	ctx  context.Context
	out  *bufio.Writer
	seen map[inode]string // first paths of files with more than one
	hash hash.Hash
	buf  []byte
	sum  summary
}

func (m *manifest) add(e *entry) error {
	m.sum.files++
	st := &e.st
	typ, size, contents, target := "", "-", "-", ""
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		typ = "d"
	case unix.S_IFLNK:
		typ, target = "l", e.target
	case unix.S_IFREG:
		id := inode{st.Dev, st.Ino}
		if first, ok := m.seen[id]; ok {
			return m.line(e.path, first, "h", "-", "-", "-", "-", "-", "-")
		}
		if st.Nlink > 1 {
			m.seen[id] = e.path
		}
		sum, err := m.contents(e)
		if err != nil {
			return &os.PathError{Op: "read", Path: e.path, Err: err}
		}
		typ, size, contents = "f", strconv.FormatInt(st.Size, 10), sum
		m.sum.size += st.Size
	default:
		return fault.Errorf(fault.Internal, "%q: neither a file nor a folder nor a link", e.path)
	}
	mtime := fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec)
	return m.line(e.path, target, typ, fmt.Sprintf("%04o", st.Mode&0o7777), fmt.Sprint(st.Uid), fmt.Sprint(st.Gid), mtime, size, contents)
}

func (m *manifest) line(path, target string, fields ...any) error {
	if path == "" {
		path = "."
	}
	if _, err := fmt.Fprintf(m.out, manifestLine, append(fields, strconv.QuoteToASCII(path))...); err != nil {
		return err
	}
	if target != "" {
		m.out.WriteString(" " + strconv.QuoteToASCII(target))
	}
	return m.out.WriteByte('\n')
}

func (m *manifest) contents(e *entry) (string, error) {
	f, err := e.open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	m.hash.Reset()
	for {
		if err := m.ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(m.buf)
		m.hash.Write(m.buf[:n])
		if err == io.EOF {
			return hex.EncodeToString(m.hash.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// verify compares a tree with its manifest, and that with its digest. The
// error is ErrDamaged and names the first file that differs.
func verify(ctx context.Context, path, digest string) error {
	f, err := os.Open(filepath.Join(path, "manifest"))
	if err != nil {
		return damaged("%s", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := digestPrefix + hex.EncodeToString(h.Sum(nil)); got != digest {
		return damaged("the manifest of %s has the digest %s", digest, got)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	c := &comparer{want: bufio.NewReaderSize(f, 64<<10)}
	_, err = writeManifest(ctx, filepath.Join(path, "rootfs"), c)
	if errors.Is(err, fs.ErrNotExist) {
		return damaged("%s", err)
	}
	if err != nil {
		return err
	}
	if line, err := c.want.ReadBytes('\n'); err != io.EOF || len(line) > 0 {
		return damaged("the manifest goes on: %s", line)
	}
	return nil
}

func damaged(format string, args ...any) error {
	return fault.Errorf(fault.Config, "%w: %s; import the image again", ErrDamaged, fmt.Sprintf(format, args...))
}

// comparer compares what is written to it with what it reads, line by line.
type comparer struct {
	want *bufio.Reader
	part []byte // a line that is not complete
}

func (c *comparer) Write(p []byte) (int, error) {
	n := len(p)
	for {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			c.part = append(c.part, p...)
			return n, nil
		}
		c.part = append(c.part, p[:i+1]...)
		want, err := c.want.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return 0, err
		}
		if !bytes.Equal(c.part, want) {
			return 0, damaged("the tree has %q where the manifest has %q", bytes.TrimSpace(c.part), bytes.TrimSpace(want))
		}
		c.part, p = c.part[:0], p[i+1:]
	}
}
