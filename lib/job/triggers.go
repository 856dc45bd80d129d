package job

import "slices"

// Triggers says which deliveries of a forge's webhook start a build. Its zero
// value is that of a job that does not say: pushes to any branch.
type Triggers struct {
	Events       []string `json:"events"`       // see Wants
	Repositories []string `json:"repositories"` // this and the next two are patterns
	Branches     []string `json:"branches"`     // that are pushed to, or that a pull request is for
	Tags         []string `json:"tags"`
	Paths        Paths    `json:"paths"`
	Skip         []string `json:"skip"`  // words in a message; nil: see SkipWords
	Forks        bool     `json:"forks"` // pull requests from other repositories, too
}

// Paths are patterns for the files that a push changes.
type Paths struct {
	Include []string `json:"include"` // none: all
	Ignore  []string `json:"ignore"`
}

// Wants tells whether an event ("push", "tag" or "pull_request") is one that
// starts builds.
func (t Triggers) Wants(event string) bool {
	if len(t.Events) > 0 {
		return slices.Contains(t.Events, event)
	}
	return event == "push" || event == "tag" && len(t.Tags) > 0
}

// SkipWords are the words that keep a commit from being built, in lower or
// upper case.
func (t Triggers) SkipWords() []string {
	if t.Skip == nil {
		return []string{"[skip ci]", "[ci skip]", "[no ci]", "[skip build]"}
	}
	return t.Skip
}

// Status says where the builds of a forge's commits are told.
type Status struct {
	Forge   string `json:"forge"`   // "github", "gitlab" or "gitea"
	URL     string `json:"url"`     // of its API; never empty
	Secret  string `json:"secret"`  // the name of the secret that holds a token
	Context string `json:"context"` // the status's name at the forge; never empty
}

// complete fills in what a job does not say.
func (s *Status) complete(jobID string) *Status {
	if s == nil {
		return nil
	}
	c := *s
	if c.URL == "" {
		c.URL = map[string]string{"github": "https://api.github.com", "gitlab": "https://gitlab.com/api/v4"}[c.Forge]
	}
	if c.Context == "" {
		c.Context = "distci/" + jobID
	}
	return &c
}

// Room is how many bytes of parameters, names and values together, a build of
// the job can be begun with.
func (j *Job) Room() int { return min(maxParameters, maxInSteps/max(1, len(j.Steps))) }
