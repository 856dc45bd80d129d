package workspace

import (
	"archive/tar"
	"context"
	"io"
)

// MaxOwner is the highest number of a user or group in a root file system:
// containers have the range from 0 up to it.
const MaxOwner = 65535

// Root says how the tree of a root file system is unpacked. It differs from a
// workspace: it has owners, which are kept as numbers; it may mention devices
// and named pipes, which are left out; its attributes are not kept; and a path
// with a leading "/" begins at its own root.
type Root struct {
	// Owners: each file gets its owner and group, for which the process needs
	// the privilege. Without it all belongs to the process, which may always
	// read it: modes get what that takes.
	Owners bool
	// Layer: whiteouts have their meaning. Else they are refused.
	Layer bool
	// Note is called for each entry that is left out, with what it was; nil is
	// allowed.
	Note func(path, what string)
}

// Unpacked counts what an archive has held.
type Unpacked struct {
	Files int   // entries, and the folders that they needed
	Bytes int64 // of files' contents
	Names int64 // of the entries' paths
}

// ApplyRoot is Apply for root file systems.
func ApplyRoot(ctx context.Context, dir string, r io.Reader, lim Limits, root Root) (Unpacked, error) {
	a, err := openArchive(ctx, r, lim, root.Layer)
	if err != nil {
		return Unpacked{}, failed("unpack", err)
	}
	defer a.close()
	a.rootfs = &root
	err = a.unpack(ctx, dir)
	return Unpacked{a.files, a.bytes, a.names}, failed("unpack", err)
}

// admit finishes an item of a root file system.
func (r *Root) admit(it *item, h *tar.Header) error {
	switch it.kind {
	case aDirectory:
		if !r.Owners {
			it.mode |= 0o700
		}
	case aFile:
		if !r.Owners {
			it.mode |= 0o400
		}
	case aSymlink:
	default:
		return nil // nothing with an owner of its own
	}
	it.uid, it.gid = h.Uid, h.Gid
	for _, id := range []int{it.uid, it.gid} {
		if r.Owners && (id < 0 || id > MaxOwner) {
			return invalid(h.Name, "the owner %d:%d; containers have the numbers from 0 to %d", it.uid, it.gid, MaxOwner)
		}
	}
	return nil
}

// owner gives what the item has made its owner.
func (u *unpacker) owner(it *item, chown func(uid, gid int) error) error {
	if r := u.archive.rootfs; r == nil || !r.Owners {
		return nil
	}
	return chown(it.uid, it.gid)
}

// leaveOut makes nothing of the item, but what the layers below have at its
// path is hidden as if it had.
func (u *unpacker) leaveOut(it *item) error {
	what := it.target
	if it.kind == aLink {
		what = "a hard link to " + quote(it.target) + ", which was left out"
	}
	if u.left == nil {
		u.left = map[string]bool{}
	}
	u.left[it.path] = true
	if note := u.archive.rootfs.Note; note != nil {
		note(it.path, what)
	}
	dir, base := split(it.path)
	return u.hide(dir, base)
}
