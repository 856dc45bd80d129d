package workspace

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Flatten writes to w, as one tar.gz, the workspace that the layers make. It
// needs no room for the tree: it reads the layers twice, at first to find out
// which of their entries are still there in the end.
func (l *Layers) Flatten(ctx context.Context, digests []string, w io.Writer) error {
	return failed("flatten", l.flatten(ctx, digests, w))
}

func (l *Layers) flatten(ctx context.Context, digests []string, w io.Writer) error {
	files, err := l.openAll(ctx, digests)
	if err != nil {
		return err
	}
	defer closeAll(files)
	m := &merger{ctx: ctx, limits: l.limits, root: &node{item: &item{mode: 0o755}, names: map[string]*node{}}}
	for i, f := range files {
		if err := m.layer(i, f); err != nil {
			return fmt.Errorf("layer %d (%s): %w", i+1, digests[i], err)
		}
	}
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	m.out = tar.NewWriter(z)
	if err := m.write(files); err != nil {
		return err
	}
	if err := m.out.Close(); err != nil {
		return err
	}
	return z.Close()
}

// merger applies layers to a tree in memory, which has no contents.
type merger struct {
	ctx    context.Context
	limits Limits
	root   *node
	out    *tar.Writer
}

// node is a name in the tree. Names of one file share their content.
type node struct {
	item    *item            // without its path
	content *content         // nil for a directory
	names   map[string]*node // of a directory
	layer   int              // the last one that has put it, or something in it, there
}

// content says where the contents of a file are to be found.
type content struct {
	layer, entry int
	paths        []string // in the finished tree
}

// layer applies the layer number n.
func (m *merger) layer(n int, f *os.File) error {
	a, err := openArchive(m.ctx, f, m.limits, true)
	if err != nil {
		return err
	}
	defer a.close()
	for i := 0; ; i++ {
		it, err := a.next()
		if err == io.EOF {
			return a.drain()
		}
		if err != nil {
			return err
		}
		if err := m.apply(it, n, i); err != nil {
			return err
		}
	}
}

func (m *merger) apply(it *item, layer, entry int) error {
	dir, base := split(it.path)
	switch it.kind {
	case aWhiteout:
		if d := m.find(dir); d != nil {
			d.hide(base, layer)
		}
		return nil
	case anOpaque:
		if d := m.find(it.path); d != nil {
			for name := range d.names {
				d.hide(name, layer)
			}
		}
		return nil
	}
	if it.path == "" {
		m.root.item = it
		return nil
	}
	d := m.root
	for part := range parts(dir) {
		sub := d.names[part]
		if sub == nil {
			sub = &node{item: &item{mode: 0o755}, names: map[string]*node{}}
			d.names[part] = sub
		}
		if sub.names == nil {
			return invalid(it.path, "it leads through something that is not a directory")
		}
		sub.layer = layer
		d = sub
	}
	n := &node{item: it, layer: layer}
	switch it.kind {
	case aDirectory:
		n.names = map[string]*node{}
		if old := d.names[base]; old != nil && old.names != nil {
			n.names = old.names
		}
	case aLink:
		target := m.find(it.target)
		if target == nil || target.names != nil {
			return invalid(it.path, "a hard link to %s, which is not there", quote(it.target))
		}
		n.item, n.content = target.item, target.content
	default:
		n.content = &content{layer: layer, entry: entry}
	}
	d.names[base] = n
	return nil
}

// find returns the node at path, nil if there is none.
func (m *merger) find(path string) *node {
	n := m.root
	for part := range parts(path) {
		if n = n.names[part]; n == nil {
			return nil
		}
	}
	return n
}

// parts ranges over the parts of a clean path; none for the root.
func parts(path string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for path != "" {
			part, rest := path, ""
			for i := range len(path) {
				if path[i] == '/' {
					part, rest = path[:i], path[i+1:]
					break
				}
			}
			if !yield(part) {
				return
			}
			path = rest
		}
	}
}

// hide removes what is at name, except for what the same layer has put there.
func (n *node) hide(name string, layer int) {
	sub := n.names[name]
	switch {
	case sub == nil:
	case sub.layer != layer:
		delete(n.names, name)
	default:
		for name := range sub.names {
			sub.hide(name, layer)
		}
	}
}

// write writes the tree: directories and symbolic links, which need no
// contents, and then the files as they come in the layers.
func (m *merger) write(files []*os.File) error {
	wanted := make([]map[int]*content, len(files)) // by layer and entry
	for i := range wanted {
		wanted[i] = map[int]*content{}
	}
	if err := m.names("", m.root, wanted); err != nil {
		return err
	}
	for i, f := range files {
		if len(wanted[i]) == 0 {
			continue
		}
		if err := m.contents(f, wanted[i]); err != nil {
			return err
		}
	}
	return nil
}

// names writes what is at path and below, and collects the files.
func (m *merger) names(path string, n *node, wanted []map[int]*content) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	if n.names == nil {
		c := n.content
		c.paths = append(c.paths, path)
		switch {
		case n.item.kind == aFile:
			wanted[c.layer][c.entry] = c
			return nil
		case len(c.paths) > 1:
			return m.link(n.item, path, c.paths[0])
		}
		return m.header(n.item, tar.Header{Typeflag: tar.TypeSymlink, Name: path, Linkname: n.item.target})
	}
	name := path + "/"
	if path == "" {
		name = "./"
	}
	if err := m.header(n.item, tar.Header{Typeflag: tar.TypeDir, Name: name}); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(n.names)) {
		if err := m.names(join(path, name), n.names[name], wanted); err != nil {
			return err
		}
	}
	return nil
}

// contents copies the wanted entries of one layer.
func (m *merger) contents(f *os.File, wanted map[int]*content) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	a, err := openArchive(m.ctx, f, m.limits, true)
	if err != nil {
		return err
	}
	defer a.close()
	for i := 0; ; i++ {
		it, err := a.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		c := wanted[i]
		if c == nil {
			continue
		}
		if err := m.header(it, tar.Header{Typeflag: tar.TypeReg, Name: c.paths[0], Size: it.size}); err != nil {
			return err
		}
		if _, err := io.Copy(m.out, a); err != nil {
			return err
		}
		for _, path := range c.paths[1:] {
			if err := m.link(it, path, c.paths[0]); err != nil {
				return err
			}
		}
	}
}

func (m *merger) link(it *item, path, first string) error {
	return m.header(it, tar.Header{Typeflag: tar.TypeLink, Name: path, Linkname: first})
}

func (m *merger) header(it *item, h tar.Header) error {
	h.Format, h.Mode, h.ModTime = tar.FormatPAX, int64(it.mode), time.Unix(it.mtime.Unix())
	if len(it.attrs) > 0 && h.Typeflag != tar.TypeLink {
		h.PAXRecords = map[string]string{}
		for name, value := range it.attrs {
			h.PAXRecords[attrRecord+name] = value
		}
	}
	return m.out.WriteHeader(&h)
}
