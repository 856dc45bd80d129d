// Package workspace turns directories into layers and layers into directories.
//
// A workspace is a list of layers in the OCI image format: each is a tar,
// compressed with zstd, of what one step has changed; what the step removed is
// a whiteout, an empty file named ".wh.NAME". (OCI Image Format Specification
// 1.1, "Image Layer Filesystem Changeset".)
//
// What is kept, exactly: names of any bytes, contents, symbolic links, hard
// links among the workspace's own files, all twelve bits of the mode, times of
// modification to the nanosecond, and user.* attributes. Holes come back
// wherever a file has whole blocks of zeros. Not kept: owners (everything
// belongs to whoever restores it), access times, and other attributes, access
// control lists among them. Devices, pipes, sockets, mount points, and names
// that begin with ".wh." are refused.
//
// Neither taking nor restoring trusts what is in the directory or in the
// layer: every step along a path is made relative to an open directory and
// follows no link.
package workspace

import (
	"context"
	"errors"
	"fmt"

	"github.com/distci/distci/lib/fault"
)

// MediaType is the type of a layer.
const MediaType = "application/vnd.oci.image.layer.v1.tar+zstd"

// MaxPath is the longest path in a workspace, in bytes: no program could use a
// longer one (PATH_MAX).
const MaxPath = 4096

const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq" // hides all that the layers below have in its folder
)

// The reasons for which an archive is refused; test with errors.Is.
var (
	// ErrArchive: it is damaged, or holds something that has no place in such a
	// tree, as a path that leads outside or, in a workspace, a device.
	ErrArchive = errors.New("not a valid archive")
	// ErrLimit: it holds more than the Limits allow.
	ErrLimit = errors.New("over the limit")
	// errChanged: somebody is still at work in the directory.
	errChanged = errors.New("changed while it was being read")
)

// Layer describes a layer that Diff has written. The zero value means that
// nothing had changed and nothing was written.
type Layer struct {
	Digest string // "sha256:…" of the layer as written
	DiffID string // "sha256:…" of the tar inside
	Size   int64  // bytes of the layer as written
	Files  int    // entries, whiteouts included
	Bytes  int64  // bytes of files' contents
}

// Empty tells that nothing had changed.
func (l Layer) Empty() bool { return l.Digest == "" }

// Limits bounds what an archive may unpack to. A field that is zero stands for
// a default, which is generous.
type Limits struct {
	Bytes int64 // of the unpacked archive; default 1 TiB
	Files int   // entries; default 10 million
	Path  int   // bytes of a path; default and maximum MaxPath
	Names int64 // bytes of all paths together; default 1 GiB
}

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 1 << 40
	}
	if l.Files <= 0 {
		l.Files = 10_000_000
	}
	if l.Path <= 0 || l.Path > MaxPath {
		l.Path = MaxPath
	}
	if l.Names <= 0 {
		l.Names = 1 << 30
	}
	return l
}

// refused is the error for what a step has made and a layer cannot hold: the
// step's own failure, not the tools'.
func refused(path, format string, args ...any) error {
	return fault.Errorf(fault.Verdict, "%s: %s", quote(path), fmt.Sprintf(format, args...))
}

// invalid is the error for an archive that must not be unpacked.
func invalid(name, format string, args ...any) error {
	return fault.Errorf(fault.BadTicket, "%w: %s: %s", ErrArchive, quote(name), fmt.Sprintf(format, args...))
}

func overLimit(format string, args ...any) error {
	return fault.Errorf(fault.BadTicket, "%w: %s", ErrLimit, fmt.Sprintf(format, args...))
}

func changed(path string) error {
	return fault.Errorf(fault.Temporary, "%s: %w", quote(path), errChanged)
}

// quote makes a path of any bytes fit for a message.
func quote(path string) string {
	if path == "" {
		path = "."
	}
	return fmt.Sprintf("%q", path)
}

// failed ends an exported function: it says what was being done, and gives
// what came from the machine (no space, no such directory) a kind.
func failed(what string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("workspace: %s: %w", what, err)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fault.Wrap(fault.Temporary, err)
}
