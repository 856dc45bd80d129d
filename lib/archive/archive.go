// Package archive moves jobs, builds, logs, artefacts and the layers of
// workspaces between clusters, by way of one file, which is also a backup.
//
// The file is a tar (POSIX, PAX) compressed with zstd. An entry is an object of
// the store, named by its key, as package repo has them; the PAX record
// DISTCI.sha256 is the SHA-256 of its contents. The order is:
//
//	distci-export.json        the format's number, 1, and what made it
//	jobs/JOB                  a job's configuration; then its builds, each
//	  layers/sha256/HEX       the layers that are not in the file yet
//	  builds/JOB/N/state      the record
//	  builds/JOB/N/…          everything else of the build
//	  ends/JOB/N              how many objects that were, and if that is all
//	  tags/JOB/TAG            of builds that are in the file
//	distci-export-end.json    how much it all was
//
// A build that was deleted or found damaged while it was read has an end that
// says so, and counts for nothing. A file without the last entry is not whole;
// what is whole in it can be used.
package archive

import (
	"encoding/json"
	"fmt"
	"path"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/ticket"
)

const (
	formatNumber = 1
	digestRecord = "DISTCI.sha256"
	headName     = "distci-export.json"
	tailName     = "distci-export-end.json"
)

// head is the first entry.
type head struct {
	Format int       `json:"format"`
	By     string    `json:"by"`
	Made   time.Time `json:"made"`
}

// end is the last entry of a build.
type end struct {
	Objects  int    `json:"objects"` // with the record
	Complete bool   `json:"complete"`
	Error    string `json:"error,omitempty"`
}

func endName(job string, n ticket.Number) string {
	return "ends" + path.Clean("/" + repo.BuildPrefix(job, n))[len("/builds"):]
}

// Report is what an archive has, or what was brought in from it.
type Report struct {
	Jobs      int   `json:"jobs"`
	Builds    int   `json:"builds"`
	Artifacts int   `json:"artifacts"`
	Layers    int   `json:"layers"`
	Objects   int   `json:"objects"` // all of them
	Bytes     int64 `json:"bytes"`   // in them
	// Equal is, after an import, how many of the builds were there already.
	Equal int `json:"equal,omitempty"`
	// Problems are what was left out, and why.
	Problems []string `json:"problems,omitempty"`
}

func (r *Report) problem(format string, args ...any) {
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

// chosen tells whether a job is one of those that the patterns name; no
// patterns name all.
func chosen(patterns []string, job string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, job); ok {
			return true
		}
	}
	return len(patterns) == 0
}

// checkPatterns refuses patterns that can name nothing.
func checkPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fault.Errorf(fault.Usage, "%q: %w", p, err)
		}
	}
	return nil
}

func encode(v any) []byte {
	b, _ := json.MarshalIndent(v, "", "  ") // of our own types
	return append(b, '\n')
}
