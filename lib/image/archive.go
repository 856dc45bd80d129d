package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// From is what is at path: an archive, a folder with an OCI layout, or a root
// file system. Of a layout ref names the image; it may be empty if there is
// but one.
func From(path, ref string) (Source, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fault.Errorf(fault.Usage, "image: %w", err)
	}
	_, err = os.Lstat(filepath.Join(path, "oci-layout"))
	layout := st.IsDir() && err == nil
	switch {
	case layout:
		return &layoutSource{path, ref}, nil
	case ref != "":
		return nil, fault.Errorf(fault.Usage, "image: %s is no OCI layout, so it has no image %q", path, ref)
	case st.IsDir():
		return &folderSource{path: path}, nil
	}
	return fileSource(path), nil
}

// fileSource is a file, or something else that can be read as one.
type fileSource string

func (s fileSource) String() string { return string(s) }

func (s fileSource) fill(ctx context.Context, t *target) error {
	f, err := os.Open(string(s))
	if err != nil {
		return err
	}
	defer f.Close()
	return Archive(f, string(s)).fill(ctx, t)
}

// Archive is a tar of a root file system: plain, or compressed with gzip,
// zstd, or, if the program xz is there, xz.
func Archive(r io.Reader, what string) Source { return &archiveSource{r, what} }

type archiveSource struct {
	r    io.Reader
	what string
}

func (s *archiveSource) String() string { return s.what }

func (s *archiveSource) fill(ctx context.Context, t *target) error {
	in := bufio.NewReader(s.r)
	if magic, _ := in.Peek(6); bytes.Equal(magic, []byte("\xfd7zXZ\x00")) {
		var said tail
		cmd, stop, err := command(ctx, "xz", "--decompress", "--stdout", "--memlimit-decompress=256MiB")
		if err != nil {
			return err
		}
		defer stop()
		cmd.Stdin, cmd.Stderr = in, &said
		err = t.applyOutput(ctx, cmd, stop)
		if text := strings.TrimSpace(said.String()); err != nil && text != "" {
			err = fault.Errorf(fault.BadTicket, "%w: %s", err, text)
		}
		return err
	}
	return t.apply(ctx, in, false)
}

// command prepares a program, which ends with ctx, or when stop is called, by
// SIGTERM.
func command(ctx context.Context, name string, args ...string) (cmd *exec.Cmd, stop func(), err error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, nil, fault.Errorf(fault.Config, "this needs the program %s, which is not installed", name)
	}
	ctx, stop = context.WithCancel(ctx)
	cmd = exec.CommandContext(ctx, path, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 20 * time.Second
	return cmd, stop, nil
}

// applyOutput unpacks the archive that a program writes to its standard
// output. That the program succeeds is part of it.
func (t *target) applyOutput(ctx context.Context, cmd *exec.Cmd, stop func()) error {
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	err = t.apply(ctx, out, false)
	if err == nil {
		_, err = io.Copy(io.Discard, out) // so that it does not die of a closed pipe
	}
	if err != nil {
		stop()
	}
	e := cmd.Wait()
	var exit *exec.ExitError
	switch {
	case e == nil, ctx.Err() != nil:
		return cmp.Or(err, ctx.Err())
	case err == nil:
		return fault.Errorf(fault.Unavailable, "%s: %w", filepath.Base(cmd.Path), e)
	case errors.As(e, &exit) && exit.Exited():
		return fmt.Errorf("%w (%s: %w)", err, filepath.Base(cmd.Path), e)
	}
	return err
}

// tail keeps the end of what is written to it.
type tail struct{ bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	const most = 2000
	t.Buffer.Write(p)
	if over := t.Len() - most; over > 0 {
		t.Next(over)
	}
	return len(p), nil
}

// folderSource is a root file system in a folder. It takes the way of an
// archive, so that there is one place where trees are made.
type folderSource struct {
	path string
	omit func(path string) bool // files that are not to be taken; nil: none
}

func (s *folderSource) String() string { return s.path }

func (s *folderSource) fill(ctx context.Context, t *target) error {
	root, err := openRoot(s.path)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	var own unix.Stat_t
	if err := unix.Stat(t.store, &own); err != nil {
		return err
	}
	r, w := io.Pipe()
	done := make(chan error, 1)
	p := &packer{tar: tar.NewWriter(w), omit: s.omit, own: inode{own.Dev, own.Ino}, links: map[inode]string{}, notes: t.notes}
	go func() {
		err := walk(ctx, root, p.add)
		if err == nil {
			err = p.tar.Close()
		}
		w.CloseWithError(err)
		done <- err
	}()
	err = t.apply(ctx, r, false)
	r.CloseWithError(err)
	if e := <-done; err == nil || e != nil && errors.Is(err, e) {
		return e // the cause, as it was
	}
	return err
}

// packer writes the files of a walk as a tar.
type packer struct {
	tar   *tar.Writer
	omit  func(string) bool
	own   inode // the store's folder
	links map[inode]string
	notes *notes
}

func (p *packer) add(e *entry) error {
	st := &e.st
	id := inode{st.Dev, st.Ino}
	h := tar.Header{
		Name: e.path, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if id == p.own {
			return fs.SkipDir
		}
		if e.mount {
			p.notes.leftOut(e.path, "what is mounted there")
		}
		h.Typeflag, h.Name = tar.TypeDir, e.path+"/"
		if e.path == "" {
			h.Name = "./"
		}
	case unix.S_IFLNK:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.target
	case unix.S_IFREG:
		if p.omit != nil && p.omit(e.path) {
			return nil
		}
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			break
		}
		if st.Nlink > 1 {
			p.links[id] = e.path
		}
		return p.file(e, h)
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFSOCK:
		p.notes.leftOut(e.path, "a socket")
		return nil
	default:
		h.Typeflag = tar.TypeChar
	}
	return p.tar.WriteHeader(&h)
}

func (p *packer) file(e *entry, h tar.Header) error {
	f, err := e.open()
	if err != nil {
		return &os.PathError{Op: "open", Path: e.path, Err: err}
	}
	defer f.Close()
	h.Typeflag, h.Size = tar.TypeReg, e.st.Size
	if err := p.tar.WriteHeader(&h); err != nil {
		return err
	}
	n, err := io.Copy(p.tar, io.LimitReader(f, h.Size))
	if err == nil && n != h.Size {
		err = fault.Errorf(fault.Temporary, "%q changed while it was read", e.path)
	}
	return err
}
