package engine

import (
	"slices"
	"strings"
)

// defaultPath is what a program has that nobody has given a PATH.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is a program's: what it was given, above what its image asks
// for. Of variables that come more than once the last one counts, as there is
// no telling which of them a program would take.
func environment(image, given []string) []string {
	env := slices.Concat([]string{defaultPath}, image, given)
	last := map[string]int{}
	for i, v := range env {
		name, _, _ := strings.Cut(v, "=")
		last[name] = i
	}
	kept := env[:0]
	for i, v := range env {
		if name, _, _ := strings.Cut(v, "="); last[name] == i {
			kept = append(kept, v)
		}
	}
	return kept
}
