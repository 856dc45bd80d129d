package bundle

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// Placed is a file and its name in an archive or a folder.
type Placed struct {
	File
	Name string
}

// Place gives each file a name that no other has and that leads nowhere else,
// and returns them in the order of their names.
//
// That is the file's path, if only one file has it. Several steps may publish
// the same path: of equal files there is one, and different ones go to a folder
// named for their step each, as does a file where others have a folder. A path
// that is not one, or that a program might take for another one, gives way to
// the file's id.
func Place(files []File) []Placed {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int {
		return cmp.Or(slices.Compare(a.Path, b.Path), cmp.Compare(a.Step, b.Step), cmp.Compare(a.ID, b.ID))
	})
	all := []func(File) string{path, inStep, id}
	placed := make([]Placed, 0, len(files))
	seen := map[string]bool{} // path and digest
	for _, f := range files {
		key := f.SHA256 + "/" + path(f)
		if f.SHA256 != "" && path(f) != "" && seen[key] {
			continue
		}
		seen[key] = true
		placed = append(placed, Placed{File: f})
	}
	// Each round names those that collide by the next rule, until none does.
	rule := make([]int, len(placed))
	for {
		count := map[string]int{}
		for i := range placed {
			p := &placed[i]
			for p.Name = ""; p.Name == ""; {
				if p.Name = all[rule[i]](p.File); p.Name == "" {
					rule[i]++
				}
			}
			count[p.Name]++
		}
		folders := map[string]bool{}
		for _, p := range placed {
			for name := p.Name; ; {
				i := strings.LastIndexByte(name, '/')
				if i < 0 || folders[name[:i]] {
					break
				}
				name = name[:i]
				folders[name] = true
			}
		}
		again := false
		for i, p := range placed {
			if (count[p.Name] > 1 || folders[p.Name]) && rule[i] < len(all)-1 {
				rule[i]++
				again = true
			}
		}
		if !again {
			break
		}
	}
	slices.SortFunc(placed, func(a, b Placed) int { return cmp.Compare(a.Name, b.Name) })
	return placed
}

// path is the file's own path; "" if it may not be used.
func path(f File) string {
	for _, part := range f.Path {
		if part == "" || part == "." || part == ".." || strings.ContainsAny(part, "/\\\x00") {
			return ""
		}
	}
	return strings.Join(f.Path, "/")
}

func inStep(f File) string {
	p := path(f)
	if f.Step == "" || p == "" {
		return ""
	}
	return "step-" + f.Step + "/" + p
}

func id(f File) string {
	if path(File{Path: []string{f.ID}}) == "" {
		sum := sha256.Sum256([]byte(f.ID))
		return "file-" + hex.EncodeToString(sum[:])
	}
	return f.ID
}
