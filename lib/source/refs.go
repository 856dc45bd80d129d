package source

import (
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/distci/distci/lib/fault"
)

const (
	heads = "refs/heads/"
	tags  = "refs/tags/"
)

// refs are a repository's refs by their full names, without HEAD.
type refs map[string]plumbing.Hash

// repoState is what a server has, and what of it is wanted.
type repoState struct {
	refs    refs // branches and tags, and the wanted ref
	peeled  refs // what annotated tags stand for
	head    string
	want    resolved
	shallow []plumbing.Hash
}

// resolved is what a ref stands for.
type resolved struct {
	name string // full; "" for a commit id
	hash plumbing.Hash
}

// advertised sorts what a server said. Names that git would refuse are left
// out: they end up in file names and lines.
func advertised(adv *packp.AdvRefs) (s repoState) {
	s.refs, s.peeled = refs{}, refs{}
	for name, h := range adv.References {
		if validRef(name) {
			s.refs[name] = h
		}
	}
	for name, h := range adv.Peeled {
		if validRef(name) {
			s.peeled[name] = h
		}
	}
	for _, link := range adv.Capabilities.Get(capability.SymRef) {
		if target, ok := strings.CutPrefix(link, "HEAD:"); ok && validRef(target) {
			s.head = target
		}
	}
	if s.head == "" && adv.Head != nil { // a server that does not tell
		for _, name := range slices.Concat([]string{heads + "main", heads + "master"}, s.refs.names(heads)) {
			if s.refs[name] == *adv.Head {
				s.head = name
				break
			}
		}
	}
	return s
}

// validRef tells whether name is a full name by the rules of
// git-check-ref-format(1).
func validRef(name string) bool {
	if !strings.HasPrefix(name, "refs/") || strings.HasSuffix(name, ".") ||
		strings.Contains(name, "..") || strings.Contains(name, "@{") || strings.ContainsAny(name, " ~^:?*[\\\x7f") {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part[0] == '.' || strings.HasSuffix(part, ".lock") {
			return false
		}
	}
	return !strings.ContainsFunc(name, func(r rune) bool { return r < 0x20 })
}

// names lists the names under a prefix, in order.
func (r refs) names(prefix string) []string {
	var names []string
	for name := range r {
		if strings.HasPrefix(name, prefix) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// resolve finds what ref stands for: a full name; a branch; a tag; a name
// below refs/; a commit id; or for "" and HEAD the default branch.
func (s *repoState) resolve(ref string) (resolved, error) {
	switch {
	case ref == "" || ref == "HEAD":
		if h, ok := s.refs[s.head]; ok {
			return resolved{s.head, h}, nil
		}
		return resolved{}, fault.Errorf(fault.Unavailable, "the repository has no default branch; %s", s.some())
	case plumbing.IsHash(ref):
		return resolved{"", plumbing.NewHash(ref)}, nil
	}
	for _, prefix := range []string{"", heads, tags, "refs/"} {
		name := prefix + ref
		if h, ok := s.refs[name]; ok && strings.HasPrefix(name, "refs/") {
			return resolved{name, h}, nil
		}
	}
	return resolved{}, fault.Errorf(fault.Unavailable, "no ref %q; %s", ref, s.some())
}

// some names a few of the refs that there are.
func (s *repoState) some() string {
	list := func(what, prefix string) string {
		names := s.refs.names(prefix)
		if len(names) == 0 {
			return "no " + what
		}
		text := what + " "
		for i, name := range names {
			switch {
			case i == 5:
				return text + ", …"
			case i > 0:
				text += ", "
			}
			text += strings.TrimPrefix(name, prefix)
		}
		return text
	}
	return "there are " + list("branches", heads) + " and " + list("tags", tags)
}

// common are the refs that every clone has, and the wanted one.
func (s *repoState) common() refs {
	c := refs{}
	for name, h := range s.refs {
		if strings.HasPrefix(name, heads) || strings.HasPrefix(name, tags) || name == s.want.name {
			c[name] = h
		}
	}
	return c
}

// hashes are the distinct objects that refs name, in an order that repeats.
func (r refs) hashes() []plumbing.Hash {
	var hs []plumbing.Hash
	for _, h := range r {
		hs = append(hs, h)
	}
	plumbing.HashesSort(hs)
	return slices.Compact(hs)
}
