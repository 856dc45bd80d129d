package webhook

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// hub is what GitHub and Gitea send for a push or a pull request; Gitea's is
// made after GitHub's.
type hub struct {
	Ref        string
	Before     string
	After      string
	Forced     bool // GitHub alone says so
	Deleted    bool // GitHub alone says so
	Compare    string
	CompareURL string `json:"compare_url"` // Gitea's Compare
	Commits    []hubCommit
	Total      *int       `json:"total_commits"` // Gitea's, which sends a few of them
	Head       *hubCommit `json:"head_commit"`
	Repository hubRepository
	Sender     struct{ Login string }

	Action string
	Number int
	Pull   *struct {
		Title string
		URL   string `json:"html_url"`
		User  struct{ Login string }
		Head  hubBranch
		Base  hubBranch
	} `json:"pull_request"`
}

type hubCommit struct {
	ID       string
	Message  string
	Author   struct{ Name, Email string }
	Added    []string
	Removed  []string
	Modified []string
}

type hubRepository struct {
	FullName string `json:"full_name"`
	URL      string `json:"html_url"`
}

type hubBranch struct {
	Ref  string
	SHA  string         `json:"sha"`
	Repo *hubRepository // nil if it has been deleted
}

// GitHub says of at most so many commits, and of so many files of each.
const (
	maxHubCommits = 2048
	maxHubFiles   = 3000
)

// readHub reads a delivery of GitHub or Gitea.
func readHub(e *Event, event string, data []byte) error {
	var h hub
	if err := json.Unmarshal(data, &h); err != nil {
		return err
	}
	e.Repository, e.Sender, e.URL = h.Repository.FullName, h.Sender.Login, h.Repository.URL
	switch event {
	case "":
		return errors.New("no header says which event it is of")
	case "push":
		return h.push(e)
	case "pull_request", "pull_request_sync": // the latter by Gitea before 1.12
		return h.pull(e)
	case "ping":
		e.Kind, e.Nothing = Ping, "it is a ping"
	default:
		e.Nothing = fmt.Sprintf("events %.40q start no builds", event)
	}
	return nil
}

func (h *hub) push(e *Event) error {
	if h.Ref == "" || h.After == "" {
		return errors.New("a push without ref and after")
	}
	e.pushed(h.Ref)
	e.Commit, e.Before = h.After, h.Before
	if isZero(e.Before) {
		e.Before = ""
	}
	for _, url := range []string{h.Compare, h.CompareURL} {
		if url != "" {
			e.URL = url
		}
	}
	if h.Deleted || isZero(h.After) {
		e.Nothing = "the ref was deleted"
		return nil
	}
	head := h.Head
	if head == nil { // Gitea's old versions do not single it out
		if i := slices.IndexFunc(h.Commits, func(c hubCommit) bool { return c.ID == h.After }); i >= 0 {
			head = &h.Commits[i]
		}
	}
	if head != nil {
		e.Author, e.Message = person(head.Author.Name, head.Author.Email), head.Message
		if e.Kind == Tag && head.ID != "" {
			e.Commit = head.ID // after is the tag, if that is an object of its own
		}
	}
	h.paths(e)
	return nil
}

// paths collects the files that the commits of a push change. That these are all
// is known if every commit is told, and if they follow on what was there before.
func (h *hub) paths(e *Event) {
	e.AllPaths = e.Before != "" && !h.Forced && len(h.Commits) > 0
	switch e.Forge {
	case GitHub:
		e.AllPaths = e.AllPaths && len(h.Commits) < maxHubCommits
	default:
		e.AllPaths = e.AllPaths && h.Total != nil && *h.Total == len(h.Commits)
	}
	for _, c := range h.Commits {
		if len(c.Added)+len(c.Removed)+len(c.Modified) >= maxHubFiles {
			e.AllPaths = false
		}
		e.Paths = append(append(append(e.Paths, c.Added...), c.Removed...), c.Modified...)
	}
}

func (h *hub) pull(e *Event) error {
	p := h.Pull
	if p == nil {
		return errors.New("a pull request without pull_request")
	}
	e.Kind, e.URL = PullRequest, p.URL
	e.Commit, e.Branch = p.Head.SHA, p.Head.Ref
	e.Ref = fmt.Sprintf("refs/pull/%d/head", h.Number)
	e.Author, e.Message = p.User.Login, p.Title
	fork := p.Head.Repo == nil || p.Base.Repo == nil || p.Head.Repo.FullName != p.Base.Repo.FullName
	e.Pull = &Pull{Number: h.Number, Title: p.Title, Target: p.Base.Ref, Fork: fork}
	switch h.Action {
	case "opened", "reopened", "synchronize", "synchronized": // the latter is Gitea's
	default:
		e.Nothing = fmt.Sprintf("a pull request that is %.40q changes no commit", h.Action)
	}
	if h.Number <= 0 || p.Base.Ref == "" {
		return errors.New("a pull request without number or base")
	}
	return nil
}

// person is somebody as git writes it.
func person(name, email string) string {
	if email == "" {
		return name
	}
	return name + " <" + email + ">"
}
