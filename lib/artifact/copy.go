package artifact

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/bundle"
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
	list, err := matching(ctx, src, o.Globs)
	if err != nil {
		return nil, err
	}
	byPlace := map[string]download{}
	for _, a := range list {
		name := strings.Join(a.Path, "/")
		if err := checkParts(a.Path); err != nil {
			return nil, fault.Errorf(fault.Denied, "artifact: %s lists %w, which is not one of a file", src, err)
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
	var chosen []download
	for _, d := range byPlace {
		chosen = append(chosen, d)
	}
	slices.SortFunc(chosen, func(a, b download) int { return cmp.Compare(a.to, b.to) })
	return chosen, nil
}

// matching lists the artefacts of src, with their ids, that match any of the
// globs, each of which must match some.
func matching(ctx context.Context, src Source, globs []string) (list []Artifact, err error) {
	match := make([]func(string) bool, len(globs))
	for i, g := range globs {
		match[i] = Fnmatch(g)
	}
	all, err := src.List(ctx)
	if err != nil {
		return nil, err
	}
	met := make([]bool, len(globs))
	var known []string
	for id, a := range all {
		a.ID = id
		name := strings.Join(a.Path, "/")
		known = append(known, name)
		wanted := false
		for i, match := range match {
			if match(name) {
				met[i], wanted = true, true
			}
		}
		if wanted {
			list = append(list, a)
		}
	}
	if i := slices.Index(met, false); i >= 0 {
		return nil, fault.Errorf(fault.Unavailable, "artifact: %s has no artefact that matches %q; it has %s", src, globs[i], few(known))
	}
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
		err := replace(root, d.to, func(w *os.File) error {
			sum := sha256.New()
			tee := &writer{ctx: ctx, w: io.MultiWriter(w, sum)}
			r := &resumer{ctx: ctx, src: src, a: d.Artifact}
			defer r.Close()
			size, err := io.Copy(tee, r)
			if err != nil {
				return err
			}
			if err := check(src, d.Artifact, size, sum, nil); err != nil {
				return err
			}
			mode := r.mode
			if mode == 0 { // the server does not know
				mode = bundle.Mode(tee.head)
			}
			return w.Chmod(mode)
		})
		var wrong *otherBytes
		if errors.As(err, &wrong) && n == 1 {
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

// writer ends with its context, and knows how the bytes began.
type writer struct {
	ctx  context.Context
	w    io.Writer
	head []byte
}

func (w *writer) Write(p []byte) (int, error) {
	if k := 4 - len(w.head); k > 0 {
		w.head = append(w.head, p[:min(k, len(p))]...)
	}
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}
