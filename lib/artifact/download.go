package artifact

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/bundle"
	"github.com/distci/distci/lib/fault"
)

// DownloadOptions is what Download is to do.
type DownloadOptions struct {
	Output string   // a folder, or a file whose name ends in .zip or .tar.zst
	Globs  []string // see Fnmatch; none: all
	Jobs   int      // files at the same time, into a folder
	Log    *slog.Logger
}

// Download brings the artefacts of src that match any of the globs into a
// folder or an archive; see [bundle.Place] for their names there. All of them
// are compared with their digests.
//
// In a folder a file appears when it is whole. What a broken download has left
// of it is taken up by the next one, and what is there already is not fetched.
func Download(ctx context.Context, o DownloadOptions, src Source) error {
	globs := o.Globs
	if len(globs) == 0 {
		globs = []string{"*"}
	}
	list, err := matching(ctx, src, globs)
	if err != nil {
		return err
	}
	files := make([]bundle.File, len(list))
	for i, a := range list {
		files[i] = bundle.File{ID: a.ID, Path: a.Path, Step: a.Step, Size: a.Size, SHA256: a.SHA256, Time: a.Time}
	}
	placed := bundle.Place(files)
	if f := bundle.FormatOf(o.Output); f != "" {
		err = o.pack(ctx, f, placed, src)
	} else {
		err = o.unpacked(ctx, placed, src)
	}
	if err != nil {
		return err
	}
	var bytes int64
	for _, p := range placed {
		bytes += p.Size
	}
	o.Log.Info("downloaded", "files", len(placed), "bytes", bytes, "from", src.String(), "to", o.Output)
	return nil
}

// artifactOf is what a source needs to know of a file.
func artifactOf(f bundle.File) Artifact {
	return Artifact{ID: f.ID, Path: f.Path, Size: f.Size, SHA256: f.SHA256}
}

// pack makes an archive, which appears when it is whole.
func (o *DownloadOptions) pack(ctx context.Context, f bundle.Format, files []bundle.Placed, src Source) error {
	root, err := os.OpenRoot(path.Dir(o.Output))
	if err != nil {
		return fault.Errorf(fault.Config, "artifact: %w", err)
	}
	defer root.Close()
	err = replace(root, path.Base(o.Output), func(w *os.File) error {
		err := bundle.Write(ctx, w, f, files, func(ctx context.Context, file bundle.File) (io.ReadCloser, error) {
			return newWhole(ctx, src, artifactOf(file)), nil
		})
		return errors.Join(err, w.Chmod(0o644))
	})
	if err != nil {
		return local(err, "%s", shown(o.Output))
	}
	return nil
}

// unpacked brings files into a folder.
func (o *DownloadOptions) unpacked(ctx context.Context, files []bundle.Placed, src Source) error {
	if err := os.MkdirAll(o.Output, 0o777); err != nil {
		return fault.Errorf(fault.Config, "artifact: %w", err)
	}
	root, err := os.OpenRoot(o.Output)
	if err != nil {
		return fault.Errorf(fault.Config, "artifact: %w", err)
	}
	defer root.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, o.Jobs))
	for _, p := range files {
		g.Go(func() error {
			if err := ctx.Err(); err != nil { // another one has failed
				return err
			}
			if err := o.fetch(ctx, root, src, p); err != nil {
				return local(err, "%s", shown(p.Name))
			}
			return nil
		})
	}
	return g.Wait()
}

// fetch makes one file whole.
func (o *DownloadOptions) fetch(ctx context.Context, root *os.Root, src Source, p bundle.Placed) error {
	if same, err := holds(ctx, root, p); same || err != nil {
		return err
	}
	if err := root.MkdirAll(path.Dir(p.Name), 0o777); err != nil {
		return err
	}
	part, name, err := openPart(root, p)
	if err != nil {
		return err
	}
	defer part.Close()
	mode, err := o.fill(ctx, part, src, p)
	var wrong *otherBytes
	if errors.As(err, &wrong) { // what was there was, or the way is: from the beginning, once
		o.Log.Warn(shown(p.Name) + ": " + err.Error() + "; fetching it again")
		if err = part.Truncate(0); err == nil {
			mode, err = o.fill(ctx, part, src, p)
		}
		if errors.As(err, &wrong) {
			_ = root.Remove(name) // nothing to begin with
		}
	}
	if err != nil {
		if info, e := part.Stat(); e == nil && info.Size() == 0 {
			_ = root.Remove(name)
		}
		return err
	}
	if err := part.Chmod(mode); err != nil {
		return err
	}
	if err := root.Rename(name, p.Name); err != nil {
		return err
	}
	o.Log.Info("downloaded "+shown(p.Name), "size", p.Size, "sha256", p.SHA256[:min(12, len(p.SHA256))])
	return nil
}

// holds tells whether a file is there with the right bytes.
func holds(ctx context.Context, root *os.Root, p bundle.Placed) (bool, error) {
	info, err := root.Lstat(p.Name)
	if absent(err) || err == nil && (!info.Mode().IsRegular() || info.Size() != p.Size) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	f, err := root.OpenFile(p.Name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(&writer{ctx: ctx, w: sum}, f); err != nil {
		return false, err
	}
	return hex.EncodeToString(sum.Sum(nil)) == p.SHA256, nil
}

// openPart opens what there is of a file so far. Its name is that of these
// bytes under this name only, and while it is open nobody else writes to it.
func openPart(root *os.Root, p bundle.Placed) (part *os.File, name string, err error) {
	id := sha256.Sum256([]byte(p.Name + "\x00" + p.SHA256))
	name = path.Join(path.Dir(p.Name), ".distci-"+hex.EncodeToString(id[:16])+".part")
	part, err = root.OpenFile(name, os.O_RDWR|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, "", err
	}
	err = syscall.Flock(int(part.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		var mine, there fs.FileInfo
		if mine, err = part.Stat(); err == nil {
			there, err = root.Lstat(name)
		}
		if err == nil && !os.SameFile(mine, there) || absent(err) {
			err = syscall.EWOULDBLOCK // the other one has just ended
		}
	}
	if err == syscall.EWOULDBLOCK {
		err = fault.Errorf(fault.Temporary, "another download is at work on it")
	}
	if err != nil {
		part.Close()
		return nil, "", err
	}
	return part, name, nil
}

// fill brings what is still missing of a file. The error is an otherBytes if
// the whole is not what it should be.
func (o *DownloadOptions) fill(ctx context.Context, part *os.File, src Source, p bundle.Placed) (fs.FileMode, error) {
	a := artifactOf(p.File)
	sum := sha256.New()
	tee := &writer{ctx: ctx, w: sum}
	have, err := begin(part, tee, a.Size)
	if err != nil {
		return 0, err
	}
	if have > 0 {
		o.Log.Info("going on with "+shown(p.Name), "from", have, "size", a.Size)
	}
	r := &resumer{ctx: ctx, src: src, a: a, at: have}
	defer r.Close()
	tee.w = io.MultiWriter(part, sum)
	n, err := io.Copy(tee, r)
	if err != nil {
		return 0, err
	}
	if err := check(src, a, have+n, sum, nil); err != nil {
		return 0, err
	}
	if r.mode != 0 {
		return r.mode, nil
	}
	return bundle.Mode(tee.head), nil
}

// begin reads what is there of a file, which must not be more than all of it.
func begin(part *os.File, w io.Writer, size int64) (int64, error) {
	info, err := part.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() > size {
		if err := part.Truncate(0); err != nil {
			return 0, err
		}
	}
	if _, err := part.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	return io.Copy(w, part)
}
