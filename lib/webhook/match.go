package webhook

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/distci/distci/lib/job"
)

// Reject tells why a job's triggers do not want a build for an event, in words
// for people; "" if they do.
func Reject(t job.Triggers, e *Event) string {
	switch {
	case e.Nothing != "":
		return "nothing to build: " + e.Nothing
	case !t.Wants(string(e.Kind)):
		return fmt.Sprintf("the job's triggers.events do not have %q", e.Kind)
	case !matches(t.Repositories, e.Repository):
		return fmt.Sprintf("repository %q does not match the job's triggers.repositories", e.Repository)
	case e.Kind == Tag && !matches(t.Tags, e.Tag):
		return fmt.Sprintf("tag %q does not match the job's triggers.tags", e.Tag)
	case e.Kind == Push && !matches(t.Branches, e.Branch):
		return fmt.Sprintf("branch %q does not match the job's triggers.branches", e.Branch)
	case e.Kind == PullRequest && !matches(t.Branches, e.Pull.Target):
		return fmt.Sprintf("branch %q, which the pull request is for, does not match the job's triggers.branches", e.Pull.Target)
	case e.Kind == PullRequest && e.Pull.Fork && !t.Forks:
		return "the pull request comes from another repository, and the job's triggers.forks is not true"
	}
	if word := skipWord(t.SkipWords(), e); word != "" {
		return fmt.Sprintf("the commit's message has %q", word)
	}
	if e.Kind == Push && e.AllPaths && !slices.ContainsFunc(e.Paths, func(p string) bool { return concerns(t.Paths, p) }) {
		return "no file that was changed matches the job's triggers.paths"
	}
	return ""
}

// matches tells whether patterns mean a name; none mean every one. The last one
// that matches counts.
func matches(patterns []string, name string) bool {
	meant := len(patterns) == 0 || strings.HasPrefix(patterns[0], "!")
	for _, p := range patterns {
		glob, not := strings.CutPrefix(p, "!")
		if doublestar.MatchUnvalidated(glob, name) {
			meant = !not
		}
	}
	return meant
}

// concerns tells whether a file is one whose change matters.
func concerns(p job.Paths, file string) bool {
	return matches(p.Include, file) && (len(p.Ignore) == 0 || !matches(p.Ignore, file))
}

// skipWord finds one of the words in the message of an event.
func skipWord(words []string, e *Event) string {
	message := strings.ToLower(e.Message)
	if e.Pull != nil {
		message += "\n" + strings.ToLower(e.Pull.Title)
	}
	for _, w := range words {
		if strings.Contains(message, strings.ToLower(w)) {
			return w
		}
	}
	return ""
}
