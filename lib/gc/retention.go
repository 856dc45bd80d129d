package gc

import (
	"time"

	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/ticket"
)

// Keep says what is kept of a job's builds; 0 is for ever.
type Keep struct {
	Builds        int // the last ones, so many
	Days          int // after their end
	ArtifactsDays int // their artefacts
	WorkspaceDays int // their workspaces
	// DropLastSuccessful takes the last successful build away, too.
	DropLastSuccessful bool
}

// with is what a job says, and where it says nothing what k says.
func (k Keep) with(r job.Retention) Keep {
	for _, f := range []struct {
		own *int
		to  *int
	}{{r.Builds, &k.Builds}, {r.Days, &k.Days}, {r.ArtifactsDays, &k.ArtifactsDays}, {r.WorkspaceDays, &k.WorkspaceDays}} {
		if f.own != nil {
			*f.to = *f.own
		}
	}
	if r.KeepLastSuccessful != nil {
		k.DropLastSuccessful = !*r.KeepLastSuccessful
	}
	return k
}

// candidate is a finished build as the retention sees it.
type candidate struct {
	number  ticket.Number
	ended   time.Time
	success bool
	tagged  bool
}

// verdict is what goes of a build, and why; "": it stays.
type verdict struct {
	build, artifacts, workspace string
}

// judge decides on the builds of one job, which are in the order of their
// numbers. It is a pure function.
func (k Keep) judge(builds []candidate, now time.Time) []verdict {
	verdicts := make([]verdict, len(builds))
	last := -1 // the last successful one
	for i, b := range builds {
		if b.success {
			last = i
		}
	}
	old := func(b candidate, days int) bool {
		return days > 0 && now.Sub(b.ended) > time.Duration(days)*24*time.Hour
	}
	for i, b := range builds {
		v := &verdicts[i]
		if old(b, k.WorkspaceDays) {
			v.workspace = "its workspace is older than is kept"
		}
		if b.tagged || i == last && !k.DropLastSuccessful {
			continue
		}
		switch {
		case k.Builds > 0 && i < len(builds)-k.Builds:
			v.build = "more builds than are kept"
		case old(b, k.Days):
			v.build = "older than is kept"
		case old(b, k.ArtifactsDays):
			v.artifacts = "its artefacts are older than is kept"
		}
	}
	return verdicts
}
