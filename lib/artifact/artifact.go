// Package artifact moves files between a workspace and where artefacts are
// kept: a server, or a folder for those who work without one.
//
// Nothing that a workspace, a ticket, a server or a folder's index says leads
// outside the workspace or the folder: every name is resolved by [os.Root].
// What arrives is compared by size and SHA-256 with what was sent.
package artifact

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/fault"
)

// Artifact is a published file.
type Artifact = client.Artifact

// Sink is where files are published to. It is used by several goroutines.
type Sink interface {
	// Put stores the size bytes of r, and returns the artefact with the size
	// and digest of what is stored.
	Put(ctx context.Context, p []string, mode fs.FileMode, r io.ReadSeeker, size int64) (Artifact, error)
	// String tells people where that is.
	String() string
}

// Source is where artefacts are copied from. It is used by several
// goroutines.
type Source interface {
	// List returns all artefacts by id, with size and digest.
	List(ctx context.Context) (map[string]Artifact, error)
	// Open returns an artefact's bytes from offset on. A mode of 0 is one that
	// the source does not know.
	Open(ctx context.Context, a Artifact, offset int64) (io.ReadCloser, fs.FileMode, error)
	String() string
}

// localKind sorts the errors of a file system: what the job has made of its
// workspace is the job's failure, what the machine lacks may be there later or
// elsewhere.
func localKind(err error) fault.Kind {
	var no syscall.Errno
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fault.Denied
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrExist):
		return fault.Verdict
	case !errors.As(err, &no): // os.Root's own refusal
		return fault.Verdict
	case slices.Contains([]syscall.Errno{syscall.ENOTDIR, syscall.EISDIR, syscall.ELOOP, syscall.ENAMETOOLONG, syscall.ENOTEMPTY}, no):
		return fault.Verdict
	}
	return fault.Temporary
}

// local adds to err what was being done. An error of a file system gets its
// kind; what has one already keeps it.
func local(err error, format string, args ...any) error {
	err = fmt.Errorf("artifact: %s: %w", fmt.Sprintf(format, args...), cause(err))
	var f *fault.Error
	if errors.As(err, &f) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fault.Wrap(localKind(err), err)
}

// cause leaves out the operation and the path, which the caller says better.
func cause(err error) error {
	switch e := err.(type) {
	case *fs.PathError:
		return e.Err
	case *os.LinkError:
		return e.Err
	}
	return err
}

// absent tells whether err says that there is nothing of that name.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// shown is a name as people get to see it: quoted if it could be mistaken or
// could disturb a terminal.
func shown(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar || r == '"' }) {
		return strconv.Quote(name)
	}
	return name
}

// relative cleans a path that stays where it is, and refuses any other.
func relative(p string) (string, error) {
	switch {
	case strings.Contains(p, "\x00"):
		return "", errors.New("contains a NUL")
	case path.IsAbs(p):
		return "", errors.New("is absolute; it must be relative to the workspace")
	case slices.Contains(strings.Split(p, "/"), ".."):
		return "", errors.New(`contains ".."; nothing outside the workspace is touched`)
	}
	return path.Clean(p), nil
}

// checkParts refuses a list of path parts that is not the path of a file.
func checkParts(parts []string) error {
	if len(parts) == 0 {
		return errors.New("an empty path")
	}
	for _, p := range parts {
		if p == "" || p == "." || p == ".." || strings.ContainsAny(p, "/\x00") {
			return fmt.Errorf("the path %q", parts)
		}
	}
	return nil
}

var errShorter = fault.Errorf(fault.Temporary, "the file became shorter while it was read")

// digester reads so many bytes and computes their digest.
type digester struct {
	ctx  context.Context
	r    io.Reader
	sum  hash.Hash
	left int64

	short bool // it could not
}

func (d *digester) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	if err := d.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := d.r.Read(p[:min(int64(len(p)), d.left)])
	d.sum.Write(p[:n])
	d.left -= int64(n)
	if err == io.EOF && d.left > 0 {
		err, d.short = errShorter, true
	}
	return n, err
}
