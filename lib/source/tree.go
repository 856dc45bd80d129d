package source

import (
	"bytes"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source/pack"
)

// tree is a folder of a commit.
type tree struct {
	path    string // "" for the top
	entries []treeEntry
}

// treeEntry is a file, a link, a folder or a submodule.
type treeEntry struct {
	name string
	mode filemode.FileMode // Regular, Executable, Symlink, Dir or Submodule
	hash plumbing.Hash
	dir  *tree // for Dir
}

// maxTreeDepth bounds how deep folders may lie in each other.
const maxTreeDepth = 1000

// readTree reads a tree with all that is below.
func readTree(s *pack.Store, id plumbing.Hash) (*tree, error) {
	return readTreeAt(s, id, "", 0)
}

func readTreeAt(s *pack.Store, id plumbing.Hash, path string, depth int) (*tree, error) {
	typ, b, err := s.Get(id)
	if err != nil {
		return nil, err
	}
	if typ != plumbing.TreeObject || depth > maxTreeDepth {
		return nil, badTree(path, "it is not a tree, or too deep")
	}
	t := &tree{path: path}
	names := map[string]bool{}
	for len(b) > 0 {
		e, rest, ok := readTreeEntry(b)
		if !ok {
			return nil, badTree(path, "it cannot be read")
		}
		b = rest
		if err := checkName(path, e.name); err != nil {
			return nil, err
		}
		// With two entries of one name, a link could lead the writing of the other.
		if names[e.name] {
			return nil, badTree(path, "it has two entries "+e.name)
		}
		names[e.name] = true
		if e.mode == filemode.Dir {
			if e.dir, err = readTreeAt(s, e.hash, join(path, e.name), depth+1); err != nil {
				return nil, err
			}
		}
		t.entries = append(t.entries, e)
	}
	return t, nil
}

func readTreeEntry(b []byte) (e treeEntry, rest []byte, ok bool) {
	head, rest, ok := bytes.Cut(b, []byte{0})
	if !ok || len(rest) < len(e.hash) {
		return e, nil, false
	}
	octal, name, ok := strings.Cut(string(head), " ")
	if !ok {
		return e, nil, false
	}
	mode, err := filemode.New(octal)
	if err != nil {
		return e, nil, false
	}
	switch {
	case mode == filemode.Symlink || mode == filemode.Dir || mode == filemode.Submodule:
	case mode&0o170000 == 0o100000 && mode&0o100 != 0:
		mode = filemode.Executable
	case mode&0o170000 == 0o100000: // also 100664, which old versions wrote
		mode = filemode.Regular
	default:
		return e, nil, false
	}
	e.name, e.mode = name, mode
	copy(e.hash[:], rest)
	return e, rest[len(e.hash):], true
}

// checkName refuses names that would lead elsewhere or into a .git.
func checkName(path, name string) error {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/'):
	case strings.EqualFold(name, ".git") || strings.EqualFold(name, "git~1"):
	default:
		return nil
	}
	return badTree(path, "it has an entry named \""+name+"\"")
}

func badTree(path, why string) error {
	if path == "" {
		path = "."
	}
	return fault.Errorf(fault.Unavailable, "the commit's folder %s is not acceptable: %s", path, why)
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
