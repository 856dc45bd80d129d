package artifact

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/distci/distci/lib/fault"
)

// pattern is one of the globs that select what is published.
//
// The wildcards are those of doublestar: * ? [a-z] {a,b} within a name, ** for
// any folders. They match files. A pattern that ends in "/", or that has no
// wildcard and names a folder, stands for all files below. What is called .git
// is met only by a pattern that says so.
type pattern struct {
	text    string // as it was given
	glob    string // that files must match; "": see literal
	literal string // the one name that is meant
	base    string // folder in which to look
	depth   int    // of folders below base; -1: any
	git     bool   // .git is named
}

// parsePattern reads a glob. The error says what is wrong with it, not which
// it is.
func parsePattern(text string) (*pattern, error) {
	if text == "" {
		return nil, errors.New("is empty")
	}
	clean, err := relative(text)
	if err != nil {
		return nil, err
	}
	if !doublestar.ValidatePattern(clean) {
		return nil, errors.New("is not a valid pattern")
	}
	p := &pattern{text: text, glob: clean, depth: -1, git: slices.Contains(strings.Split(clean, "/"), ".git")}
	if !strings.ContainsAny(clean, `*?[{\`) {
		p.glob, p.literal = "", clean
		if strings.HasSuffix(text, "/") && clean != "." {
			p.glob, p.literal, p.base = clean+"/**/*", "", clean
		}
		return p, nil
	}
	switch {
	case strings.HasSuffix(text, "/"):
		p.glob += "/**/*"
	case strings.HasSuffix(clean, "/**"):
		p.glob += "/*" // "a/**" is what is in a, not a file a
	}
	p.base, _ = doublestar.SplitPattern(p.glob)
	if !strings.Contains(p.glob, "**") {
		p.depth = strings.Count(strings.TrimPrefix(p.glob, p.base+"/"), "/")
	}
	return p, nil
}

func (p *pattern) match(name string) bool {
	if p.glob == "" {
		return true // below the folder that it names
	}
	ok, err := doublestar.Match(p.glob, name)
	return ok && err == nil
}

// finder collects files of a workspace.
type finder struct {
	root  *os.Root
	avoid fs.FileInfo // a folder in the workspace that is not looked into; may be nil
	log   *slog.Logger
	found map[string]bool
}

// find adds the files that p matches, and returns how many there are.
func (f *finder) find(ctx context.Context, p *pattern) (int, error) {
	if p.literal == "" {
		info, err := f.root.Stat(p.base)
		if absent(err) {
			return 0, nil
		}
		if err != nil {
			return 0, local(err, "%s", shown(p.base))
		}
		if !info.IsDir() {
			return 0, nil
		}
		return f.walk(ctx, p, p.base, p.depth)
	}
	info, err := f.root.Lstat(p.literal)
	switch {
	case absent(err):
		return 0, nil
	case err != nil:
		return 0, local(err, "%s", shown(p.literal))
	case info.IsDir():
		return f.walk(ctx, p, p.literal, -1)
	}
	return f.add(p.literal, info.Mode())
}

// walk looks into a folder and the folders below. Links to folders are not
// followed, as they could lead in a circle.
func (f *finder) walk(ctx context.Context, p *pattern, dir string, depth int) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	entries, err := f.list(dir)
	if err != nil || entries == nil {
		return 0, err
	}
	n := 0
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if e.Name() == ".git" && !p.git {
			continue
		}
		var k int
		var err error
		switch {
		case e.IsDir() && depth != 0:
			k, err = f.walk(ctx, p, name, depth-1)
		case !e.IsDir() && p.match(name):
			k, err = f.add(name, e.Type())
		}
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// list reads a folder. One that has gone meanwhile, or that is to be avoided,
// is empty.
func (f *finder) list(dir string) ([]fs.DirEntry, error) {
	d, err := f.root.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if absent(err) {
		return nil, nil
	}
	if err != nil {
		return nil, local(err, "%s", shown(dir))
	}
	defer d.Close()
	if info, err := d.Stat(); err == nil && f.avoid != nil && os.SameFile(info, f.avoid) {
		return nil, nil
	}
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, local(err, "%s", shown(dir))
	}
	return entries, nil
}

// add takes a file, or the file that a link in the workspace leads to.
func (f *finder) add(name string, mode fs.FileMode) (int, error) {
	if !utf8.ValidString(name) {
		return 0, fault.Errorf(fault.Verdict, "artifact: the name %q is not UTF-8, and cannot be published", name)
	}
	if mode.Type() == fs.ModeSymlink {
		info, err := f.root.Stat(name)
		if err != nil {
			to, _ := f.root.Readlink(name)
			return 0, local(err, "%s is a link to %s, which is no file in the workspace", shown(name), shown(to))
		}
		mode = info.Mode()
		if mode.IsDir() {
			f.log.Debug("not following the link " + shown(name) + " to a folder")
			return 0, nil
		}
	}
	if !mode.IsRegular() {
		f.log.Warn("leaving out " + shown(name) + ", which is not a regular file")
		return 0, nil
	}
	f.found[name] = true
	return 1, nil
}
