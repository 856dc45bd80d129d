package source

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/index"
)

// gitDir is a .git folder, or a bare repository, whose objects are all in packs.
type gitDir struct{ path string }

func (g *gitDir) packs() string { return filepath.Join(g.path, "objects", "pack") }

// init makes an empty one, which must be absent or empty.
func (g *gitDir) init() error {
	for _, dir := range []string{"objects/pack", "objects/info", "refs/heads", "refs/tags", "info"} {
		if err := os.MkdirAll(filepath.Join(g.path, dir), 0o777); err != nil {
			return err
		}
	}
	return nil
}

// finish makes a folder with objects into a repository whose HEAD is commit.
// The index comes last.
func (g *gitDir) finish(loc location, s repoState, commit plumbing.Hash, idx *index.Index) error {
	branch, onBranch := strings.CutPrefix(s.want.name, heads)
	var config bytes.Buffer
	fmt.Fprintf(&config, "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n"+
		"[remote \"origin\"]\n\turl = %s\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n", quote(loc.clean()))
	if onBranch {
		fmt.Fprintf(&config, "[branch %s]\n\tremote = origin\n\tmerge = %s\n", quote(branch), quote(s.want.name))
	}
	local := refs{}
	for name, h := range s.refs {
		if b, ok := strings.CutPrefix(name, heads); ok {
			name = "refs/remotes/origin/" + b
		}
		local[name] = h
	}
	head := commit.String()
	if onBranch {
		local[s.want.name] = commit
		head = "ref: " + s.want.name
	}
	files := map[string][]byte{
		"config":       config.Bytes(),
		"HEAD":         []byte(head + "\n"),
		"packed-refs":  packedRefs(local, s.peeled),
		"description":  []byte("checked out by distci\n"),
		"info/exclude": nil,
	}
	if len(s.shallow) > 0 {
		var b bytes.Buffer
		for _, h := range s.shallow {
			fmt.Fprintln(&b, h)
		}
		files["shallow"] = b.Bytes()
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(g.path, name), content, 0o666); err != nil {
			return err
		}
	}
	if b, ok := strings.CutPrefix(s.head, heads); ok && s.refs[s.head] != plumbing.ZeroHash {
		dir := filepath.Join(g.path, "refs/remotes/origin")
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "HEAD"), []byte("ref: refs/remotes/origin/"+b+"\n"), 0o666); err != nil {
			return err
		}
	}
	return g.writeIndex(idx)
}

// writeIndex puts the index in its place at once.
func (g *gitDir) writeIndex(idx *index.Index) error {
	f, err := os.Create(filepath.Join(g.path, "index.lock"))
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<16)
	if err := index.NewEncoder(w).Encode(idx); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(g.path, "index"))
}

// packedRefs is the text of a packed-refs file.
func packedRefs(r, peeled refs) []byte {
	var b bytes.Buffer
	b.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
	for _, name := range r.names("") {
		fmt.Fprintf(&b, "%s %s\n", r[name], name)
		if h, ok := peeled[name]; ok {
			fmt.Fprintf(&b, "^%s\n", h)
		}
	}
	return b.Bytes()
}

// quote writes a value, or a subsection's name, for git's configuration.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
