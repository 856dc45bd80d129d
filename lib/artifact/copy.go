package artifact

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/fault"
)

// CopyOptions is what Copy is to do.
type CopyOptions struct {
	Workspace string
	Target    string   // folder in the workspace; "": the workspace itself
	Globs     []string // see Fnmatch
	Flatten   bool     // leave out the artefacts' folders
	Jobs      int      // files at the same time
	Log       *slog.Logger
}

// download is an artefact and where it goes.
type download struct {
	Artifact
	to string
}

// Copy copies the artefacts of src that match any of the globs into the
// workspace, which is created if need be. A file that is there is replaced.
func Copy(ctx context.Context, o CopyOptions, src Source) error {
	target, err := relative(o.Target)
	if err != nil {
		return fault.Errorf(fault.BadTicket, "artifact: the target directory %q %w", o.Target, err)
	}
	o.Target = target
	list, err := o.choose(ctx, src)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(o.Workspace, 0o777); err != nil {
		return fault.Errorf(fault.Config, "artifact: workspace: %w", err)
	}
	root, err := os.OpenRoot(o.Workspace)
	if err != nil {
		return fault.Errorf(fault.Config, "artifact: workspace: %w", err)
	}
	defer root.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, o.Jobs))
	for _, d := range list {
		g.Go(func() error {
			if err := ctx.Err(); err != nil { // another one has failed
				return err
			}
			return o.copy(ctx, root, src, d)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	var bytes int64
	for _, d := range list {
		bytes += d.Size
	}
	o.Log.Info("copied", "files", len(list), "bytes", bytes, "from", src.String())
	return nil
}

// choose selects what is to be copied, in the order of where it goes.
func (o *CopyOptions) choose(ctx context.Context, src Source) ([]download, error) {
	globs := make([]func(string) bool, len(o.Globs))
	for i, g := range o.Globs {
		globs[i] = Fnmatch(g)
	}
	all, err := src.List(ctx)
	if err != nil {
		return nil, err
	}
	met := make([]bool, len(globs))
	byPlace := map[string]download{}
	var names []string
	for id, a := range all {
		if err := checkParts(a.Path); err != nil {
			return nil, fault.Errorf(fault.Denied, "artifact: %s lists %w, which is not one of a file", src, err)
		}
		a.ID = id
		name := strings.Join(a.Path, "/")
		names = append(names, name)
		wanted := false
		for i, match := range globs {
			if match(name) {
				met[i], wanted = true, true
			}
		}
		if !wanted {
			continue
		}
		d := download{a, path.Join(o.Target, name)}
		if o.Flatten {
			d.to = path.Join(o.Target, path.Base(name))
		}
		if other, ok := byPlace[d.to]; ok && other.SHA256 != a.SHA256 {
			return nil, fault.Errorf(fault.BadTicket, "artifact: two different artefacts would become %s: %s and %s",
				shown(d.to), shown(strings.Join(other.Path, "/")), shown(name))
		}
		byPlace[d.to] = d
	}
	if i := slices.Index(met, false); i >= 0 {
		return nil, fault.Errorf(fault.Unavailable, "artifact: %s has no artefact that matches %q; it has %s", src, o.Globs[i], few(names))
	}
	var list []download
	for _, d := range byPlace {
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b download) int { return cmp.Compare(a.to, b.to) })
	return list, nil
}

// few names some of what there is.
func few(names []string) string {
	const some = 5
	if len(names) == 0 {
		return "none at all"
	}
	slices.Sort(names)
	var s []string
	for _, n := range names[:min(some, len(names))] {
		s = append(s, shown(n))
	}
	list := strings.Join(s, ", ")
	if len(names) > some {
		list += fmt.Sprintf(" and %d more", len(names)-some)
	}
	return list
}

// copy copies one artefact. If what comes is not what the list says, it is
// fetched once more.
func (o *CopyOptions) copy(ctx context.Context, root *os.Root, src Source, d download) error {
	if err := root.MkdirAll(path.Dir(d.to), 0o777); err != nil {
		return local(err, "%s: creating its folder", shown(d.to))
	}
	for n := 1; ; n++ {
		wrong := false
		err := replace(root, d.to, func(w *os.File) error {
			sum := sha256.New()
			tee := &writer{ctx: ctx, w: io.MultiWriter(w, sum)}
			size, mode, err := fetch(ctx, src, d.Artifact, tee)
			if err != nil {
				return err
			}
			if got := hex.EncodeToString(sum.Sum(nil)); size != d.Size || got != d.SHA256 {
				wrong = true
				return fault.Errorf(fault.Temporary, "expected %d bytes with SHA-256 %s from %s, found %d with %s",
					d.Size, d.SHA256, src, size, got)
			}
			if mode == 0 {
				mode = tee.mode()
			}
			return w.Chmod(mode)
		})
		if err != nil && wrong && n == 1 {
			o.Log.Warn(shown(d.to) + ": " + err.Error() + "; fetching it again")
			continue
		}
		if err != nil {
			return local(err, "%s", shown(d.to))
		}
		break
	}
	o.Log.Info("copied "+shown(d.to), "size", d.Size, "sha256", d.SHA256[:12])
	return nil
}

// resumes is how often a transfer that got no further is taken up again.
const resumes = 4

// fetch copies an artefact's bytes to w, and takes up a broken transfer where
// it was. It reads at most one byte more than the artefact should have.
func fetch(ctx context.Context, src Source, a Artifact, w *writer) (size int64, mode fs.FileMode, err error) {
	for n := 1; ; n++ {
		r, m, err := src.Open(ctx, a, size)
		if err != nil {
			return size, m, err
		}
		k, err := io.Copy(w, io.LimitReader(r, a.Size-size+1))
		r.Close()
		size += k
		if k > 0 {
			n = 1
		}
		if err == nil || w.err != nil || fault.Of(err) != fault.Temporary || n == resumes {
			return size, m, err
		}
		select {
		case <-ctx.Done():
			return size, m, ctx.Err()
		case <-time.After(100 * time.Millisecond << n):
		}
	}
}

// writer knows its own errors from those of the reader, and how the bytes
// began.
type writer struct {
	ctx  context.Context
	w    io.Writer
	err  error
	head []byte
}

func (w *writer) Write(p []byte) (int, error) {
	if k := 4 - len(w.head); k > 0 {
		w.head = append(w.head, p[:min(k, len(p))]...)
	}
	if w.err = w.ctx.Err(); w.err != nil {
		return 0, w.err
	}
	n, err := w.w.Write(p)
	w.err = err
	return n, err
}

// mode is that of a program if the bytes are one: the server does not know.
func (w *writer) mode() fs.FileMode {
	if s := string(w.head); s == "\x7fELF" || strings.HasPrefix(s, "#!") {
		return 0o755
	}
	return 0o644
}
