package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
)

// lab is what GitLab sends for a push, the push of a tag, or a merge request.
type lab struct {
	ObjectKind string `json:"object_kind"`
	Ref        string
	Before     string
	After      string
	Checkout   string    `json:"checkout_sha"` // the commit, also of a tag that is an object; null if deleted
	UserName   string    `json:"user_name"`
	Username   string    `json:"user_username"`
	Message    string    // of the tag
	Commits    []labItem // the newest ones
	Total      *int      `json:"total_commits_count"`
	Project    struct {
		Path string `json:"path_with_namespace"`
		URL  string `json:"web_url"`
	}

	User  struct{ Name, Username string }
	Merge *labMerge `json:"object_attributes"`
}

type labItem struct {
	ID       string
	Message  string
	Author   struct{ Name, Email string }
	Added    []string
	Removed  []string
	Modified []string
}

type labMerge struct {
	Number int `json:"iid"`
	Title  string
	URL    string
	Action string
	Old    string  `json:"oldrev"` // of an update that brought commits
	Source string  `json:"source_branch"`
	Target string  `json:"target_branch"`
	From   int64   `json:"source_project_id"`
	To     int64   `json:"target_project_id"`
	Last   labItem `json:"last_commit"`
}

// readLab reads a delivery of GitLab. What it is about is said in the body, for
// a system hook's, too, whose header says no more than that.
func readLab(e *Event, data []byte) error {
	var l lab
	if err := json.Unmarshal(data, &l); err != nil {
		// object_attributes are of other types for other events.
		var other struct {
			ObjectKind string `json:"object_kind"`
		}
		if json.Unmarshal(data, &other) != nil || l.known(other.ObjectKind) {
			return err
		}
		l = lab{ObjectKind: other.ObjectKind}
	}
	e.Repository, e.URL = l.Project.Path, l.Project.URL
	switch l.ObjectKind {
	case "push", "tag_push":
		return l.push(e)
	case "merge_request":
		return l.merge(e)
	}
	e.Nothing = fmt.Sprintf("events %.40q start no builds", l.ObjectKind)
	return nil
}

func (*lab) known(kind string) bool {
	return kind == "push" || kind == "tag_push" || kind == "merge_request"
}

func (l *lab) push(e *Event) error {
	if l.Ref == "" || l.After == "" {
		return errors.New("a push without ref and after")
	}
	e.pushed(l.Ref)
	e.Commit, e.Before, e.Sender = l.Checkout, l.Before, l.Username
	if e.Sender == "" {
		e.Sender = l.UserName
	}
	if isZero(e.Before) {
		e.Before = ""
	}
	if isZero(l.After) || l.Checkout == "" {
		e.Nothing = "the ref was deleted"
		return nil
	}
	e.Author, e.Message = l.UserName, l.Message
	for _, c := range l.Commits {
		if c.ID == l.Checkout {
			e.Author, e.Message = person(c.Author.Name, c.Author.Email), c.Message
		}
		e.Paths = append(append(append(e.Paths, c.Added...), c.Removed...), c.Modified...)
	}
	e.AllPaths = e.Before != "" && len(l.Commits) > 0 && l.Total != nil && *l.Total == len(l.Commits)
	return nil
}

func (l *lab) merge(e *Event) error {
	m := l.Merge
	if m == nil || m.Number <= 0 || m.Target == "" {
		return errors.New("a merge request without iid or target_branch")
	}
	e.Kind, e.URL, e.Sender = PullRequest, m.URL, l.User.Username
	e.Commit, e.Branch = m.Last.ID, m.Source
	e.Ref = fmt.Sprintf("refs/merge-requests/%d/head", m.Number)
	e.Author, e.Message = person(m.Last.Author.Name, m.Last.Author.Email), m.Last.Message
	e.Pull = &Pull{Number: m.Number, Title: m.Title, Target: m.Target, Fork: m.From == 0 || m.From != m.To}
	switch {
	case m.Action == "open", m.Action == "reopen", m.Action == "update" && m.Old != "":
	default:
		e.Nothing = fmt.Sprintf("a merge request's action %.40q that brings no commit", m.Action)
	}
	return nil
}
