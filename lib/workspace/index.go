package workspace

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Index is what a tree looked like at one time: everything that stat tells of
// every file, but no contents. It is meant for Diff, by the process that took
// it, on the machine where it was taken.
type Index struct {
	entries []entry // in tree order; the first is the root itself
}

// Len is the number of files, directories and links.
func (x *Index) Len() int { return len(x.entries) - 1 }

// entry is one file. Two entries of one path are equal when nothing has
// happened to the file in between: the system moves ctime on every change of
// contents, mode, attributes, links or name, and nobody can set it back.
type entry struct {
	path  string // relative, "" for the root
	mode  uint32 // as in st_mode, type included
	links bool   // it has more than one name
	size  int64
	mtime unix.Timespec
	ctime unix.Timespec // zero: unsure, so differs from every other
	dev   uint64
	ino   uint64
}

func newEntry(path string, st *unix.Stat_t) entry {
	return entry{
		path:  path,
		mode:  st.Mode,
		links: st.Nlink > 1 && !isDir(st.Mode),
		size:  st.Size,
		mtime: st.Mtim,
		ctime: st.Ctim,
		dev:   st.Dev,
		ino:   st.Ino,
	}
}

func isDir(mode uint32) bool { return mode&unix.S_IFMT == unix.S_IFDIR }

func (e *entry) isDir() bool { return isDir(e.mode) }

// same tells whether e is what stat says now.
func (e *entry) same(st *unix.Stat_t) bool {
	now := newEntry(e.path, st)
	now.links = e.links // the last other name may just have gone
	if (e.ctime == unix.Timespec{}) {
		now.ctime = e.ctime
	}
	return *e == now
}

// compare puts paths in tree order: a directory comes before what is in it,
// and nothing else comes in between. That is the order of bytes, with "/"
// before all others.
func compare(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			switch {
			case a[i] == '/':
				return -1
			case b[i] == '/':
				return 1
			case a[i] < b[i]:
				return -1
			}
			return 1
		}
	}
	return len(a) - len(b)
}

// inside tells whether path is below dir.
func inside(path, dir string) bool {
	return dir == "" && path != "" || strings.HasPrefix(path, dir) && len(path) > len(dir) && path[len(dir)] == '/'
}

// split cuts a path into its directory, "" for the root, and its last part.
func split(path string) (dir, base string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func join(dir, base string) string {
	if dir == "" {
		return base
	}
	return dir + "/" + base
}

// find returns the position of path, or -1.
func find(entries []entry, path string) int {
	i, ok := slices.BinarySearchFunc(entries, path, func(e entry, p string) int { return compare(e.path, p) })
	if !ok {
		return -1
	}
	return i
}

// changes compares two indexes. It marks the entries of new that a layer on
// top of old must hold, and lists the paths, in tree order, that it must hide.
func changes(old, new []entry) (mark []bool, gone []string) {
	mark = make([]bool, len(new))
	i, j := 0, 0
	skip := func(dir string) {
		for i < len(old) && inside(old[i].path, dir) {
			i++
		}
	}
	for i < len(old) || j < len(new) {
		var c int
		switch {
		case i == len(old):
			c = 1
		case j == len(new):
			c = -1
		default:
			c = compare(old[i].path, new[j].path)
		}
		switch {
		case c < 0: // whatever was in it is hidden with it
			gone = append(gone, old[i].path)
			i++
			skip(old[i-1].path)
		case c > 0:
			mark[j] = true
			j++
		default:
			was, is := &old[i], &new[j]
			mark[j] = *was != *is || is.ctime == unix.Timespec{}
			i, j = i+1, j+1
			if was.isDir() && !is.isDir() { // replaced, with all that was in it
				skip(was.path)
			}
		}
	}
	markLinks(new, mark)
	markParents(new, mark, gone)
	return mark, gone
}

// markLinks makes a layer hold all names of a file or none: one that arrives
// without the others would no longer be the same file as they are.
func markLinks(entries []entry, mark []bool) {
	groups := map[inode]bool{}
	for i := range entries {
		if e := &entries[i]; e.links && mark[i] {
			groups[inode{e.dev, e.ino}] = true
		}
	}
	if len(groups) == 0 {
		return
	}
	for i := range entries {
		if e := &entries[i]; e.links && groups[inode{e.dev, e.ino}] {
			mark[i] = true
		}
	}
}

// markParents adds the directories in which something is replaced or removed,
// as doing that moves their times, which are to be set right again.
func markParents(entries []entry, mark []bool, gone []string) {
	parent := func(path string) {
		dir, _ := split(path)
		if i := find(entries, dir); i >= 0 {
			mark[i] = true
		}
	}
	last := "\x00"
	for i := 1; i < len(entries); i++ { // forwards: not the parents' parents, whose times stay
		if dir, _ := split(entries[i].path); mark[i] && dir != last {
			parent(entries[i].path)
			last = dir
		}
	}
	for _, path := range gone {
		parent(path)
	}
}
