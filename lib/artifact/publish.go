package artifact

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// PublishOptions is what Publish is to do.
type PublishOptions struct {
	Workspace  string   // folder
	Globs      []string // see distci-publish(1)
	AllowEmpty bool     // a glob without a match is no failure
	Jobs       int      // files at the same time
	Log        *slog.Logger
}

// Publish puts the files of a workspace that match any of the globs into sink,
// and returns them in the order of their paths.
func Publish(ctx context.Context, o PublishOptions, sink Sink) ([]Artifact, error) {
	root, err := os.OpenRoot(o.Workspace)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "artifact: workspace: %w", err)
	}
	defer root.Close()
	names, err := o.match(ctx, root, sink)
	if err != nil {
		return nil, err
	}
	if err := fits(names); err != nil {
		return nil, err
	}
	done := make([]Artifact, len(names))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, o.Jobs))
	for i, name := range names {
		g.Go(func() (err error) {
			if err = ctx.Err(); err == nil { // another one has failed
				done[i], err = o.put(ctx, root, name, sink)
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var bytes int64
	for _, a := range done {
		bytes += a.Size
	}
	o.Log.Info("published", "files", len(done), "bytes", bytes, "to", sink.String())
	return done, nil
}

// match lists the files that are to be published, in order.
func (o *PublishOptions) match(ctx context.Context, root *os.Root, sink Sink) ([]string, error) {
	var patterns []*pattern
	for _, g := range o.Globs {
		p, err := parsePattern(g)
		if err != nil {
			return nil, fault.Errorf(fault.BadTicket, "artifact: the pattern %q %w", g, err)
		}
		patterns = append(patterns, p)
	}
	f := &finder{root: root, log: o.Log, found: map[string]bool{}}
	if folder, ok := sink.(*Folder); ok {
		f.avoid = folder.info
	}
	for _, p := range patterns {
		n, err := f.find(ctx, p)
		if err != nil {
			return nil, err
		}
		if n > 0 {
			continue
		}
		if !o.AllowEmpty {
			return nil, fault.Errorf(fault.Verdict, "artifact: no file matches %q (folders are not looked into except by ** or by a / at the end)", p.text)
		}
		o.Log.Info("no file matches " + shown(p.text))
	}
	return slices.Sorted(maps.Keys(f.found)), nil
}

// fits refuses more files than a ticket can name, before any is sent.
func fits(names []string) error {
	const id, rest = 48, 64 << 10 // bytes: an id with its punctuation; what else there is
	size := rest
	for _, name := range names {
		b, err := json.Marshal(strings.Split(name, "/"))
		if err != nil {
			return err
		}
		size += len(b) + id
	}
	if size > ticket.MaxSize {
		return fault.Errorf(fault.Verdict, "artifact: %d files match, more than a ticket can name; publish an archive of them", len(names))
	}
	return nil
}

// put publishes one file.
func (o *PublishOptions) put(ctx context.Context, root *os.Root, name string, sink Sink) (Artifact, error) {
	// It could have become a pipe meanwhile, which must not block.
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Artifact{}, local(err, "%s", shown(name))
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return Artifact{}, local(err, "%s", shown(name))
	}
	if !before.Mode().IsRegular() {
		return Artifact{}, fault.Errorf(fault.Verdict, "artifact: %s is no longer a regular file", shown(name))
	}
	// What is added meanwhile stays out: the size is sent ahead.
	r := io.NewSectionReader(f, 0, before.Size())
	a, err := sink.Put(ctx, strings.Split(name, "/"), before.Mode()&fs.ModePerm, r, before.Size())
	if err != nil {
		return a, local(err, "%s", shown(name))
	}
	if after, err := f.Stat(); err == nil && (after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime())) {
		o.Log.Warn(shown(name) + " changed while it was published")
	}
	o.Log.Info("published "+shown(name), "size", a.Size, "sha256", a.SHA256[:12])
	return a, nil
}
