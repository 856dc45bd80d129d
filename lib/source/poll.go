package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/transport"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source/pack"
)

// PollOptions says what to look for.
type PollOptions struct {
	Access
	Repository string
	// Refs are patterns for full names, or for those of branches and tags
	// without refs/heads/ or refs/tags/; "*" stays within a part of the name, and
	// "**" does not. None means all branches.
	Refs []string
	// State is the file that remembers what was seen. It may serve any number of
	// repositories and of processes.
	State string
	// All makes the first poll of a repository report all of its history, instead
	// of the newest commit of each ref.
	All bool
}

// Event is a commit that is new on a ref.
type Event struct {
	Repository string    `json:"repository"` // without passwords
	Ref        string    `json:"ref"`
	Commit     string    `json:"commit"`
	Parents    []string  `json:"parents"`
	Author     string    `json:"author"`
	Time       time.Time `json:"time"` // of the commit, not of its authoring
	Subject    string    `json:"subject"`
}

// pollState is the state file: what was last seen, by repository and ref.
type pollState struct {
	Repositories map[string]map[string]string `json:"repositories"`
}

// Poll reports to emit every commit that is new since the last poll, for each
// ref on its own, oldest first. What was reported is remembered after emit has
// returned for all of it, so a crash between leads to a repeat, not to a loss.
//
// A ref that moved without a new commit, and one that is new on old commits,
// is reported by its tip. A ref that is gone is forgotten.
func Poll(ctx context.Context, o PollOptions, emit func(Event) error) error {
	a, err := o.Access.open()
	if err != nil {
		return err
	}
	loc, err := parseLocation(o.Repository)
	if err != nil {
		return err
	}
	for _, p := range o.Refs {
		if !doublestar.ValidatePattern(p) {
			return fault.Errorf(fault.Usage, "poll: %q is not a pattern", p)
		}
	}
	if err := a.poll(ctx, loc, o, emit); err != nil {
		return a.blame(ctx, "poll of "+loc.String(), err)
	}
	return nil
}

func (a *access) poll(ctx context.Context, loc location, o PollOptions, emit func(Event) error) error {
	if err := os.MkdirAll(filepath.Dir(o.State), 0o700); err != nil {
		return fault.Wrap(fault.Config, err)
	}
	lock, err := lockFile(ctx, o.State+".lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	state, err := readState(o.State)
	if err != nil {
		return err
	}
	m := newMirror(a, loc)
	if a.Mirror == "" {
		var remove func()
		if m, remove, err = scratch(a, loc); err != nil {
			return err
		}
		defer remove()
	}
	key := loc.clean()
	events, seen, err := m.news(ctx, state.Repositories[key], o)
	if damaged(err) {
		a.log.Warn("the mirror is damaged and is made anew", "repository", loc, "reason", err)
		if err := m.discard(ctx); err != nil {
			return err
		}
		events, seen, err = m.news(ctx, state.Repositories[key], o)
	}
	if err != nil {
		return err
	}
	for _, e := range events {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		e.Repository = loc.String()
		if err := emit(e); err != nil {
			return err
		}
	}
	state.Repositories[key] = seen
	b, err := json.MarshalIndent(state, "", "\t")
	if err != nil {
		return err
	}
	if err := writeAtomic(o.State, append(b, '\n')); err != nil {
		return fault.Errorf(fault.Temporary, "writing the state: %w", err)
	}
	return nil
}

func readState(name string) (pollState, error) {
	s := pollState{}
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return s, fault.Errorf(fault.Config, "state file %s: %w", name, err)
	}
	if s.Repositories == nil {
		s.Repositories = map[string]map[string]string{}
	}
	return s, nil
}

// news brings the mirror up to date and compares it with what was seen (nil:
// nothing, ever). It returns the events and what has been seen with them.
func (m *mirror) news(ctx context.Context, before map[string]string, o PollOptions) ([]Event, map[string]string, error) {
	unlock, err := m.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	s, err := m.update(ctx, "", false)
	if errors.Is(err, transport.ErrEmptyRemoteRepository) { // no commits yet
		return nil, map[string]string{}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	store, err := pack.Open(m.packs())
	if err != nil {
		return nil, nil, err
	}
	defer store.Close()
	h := &history{store: store, commits: map[plumbing.Hash]*Event{}}
	var known []plumbing.Hash
	for _, id := range before {
		if h := plumbing.NewHash(id); store.Has(h) {
			known = append(known, h)
		}
	}
	var events []Event
	seen := map[string]string{}
	for _, name := range s.refs.names("") {
		if !matches(o.Refs, name) {
			continue
		}
		tip, err := peel(store, s.refs[name])
		if fault.Of(err) == fault.Unavailable {
			continue // a tag of something that is no commit
		}
		if err != nil {
			return nil, nil, err
		}
		id := tip.Hash.String()
		seen[name] = id
		last, followed := before[name]
		if last == id {
			continue
		}
		old := known
		if id := plumbing.NewHash(last); followed && store.Has(id) {
			old = []plumbing.Hash{id}
		}
		list := []plumbing.Hash{tip.Hash}
		// Without a commit to begin at (the first time, or all was rewritten and
		// the mirror is younger) the tip alone is news.
		if len(old) > 0 || len(before) == 0 && (before != nil || o.All) {
			if list, err = h.between(ctx, old, tip.Hash); err != nil {
				return nil, nil, err
			}
		}
		if len(list) == 0 {
			list = []plumbing.Hash{tip.Hash}
		}
		for _, id := range list {
			e, err := h.get(id)
			if err != nil {
				return nil, nil, err
			}
			event := *e
			event.Ref = name
			events = append(events, event)
		}
	}
	return events, seen, nil
}

// matches tells whether a ref's name fits one of the patterns.
func matches(patterns []string, name string) bool {
	if len(patterns) == 0 {
		return strings.HasPrefix(name, heads)
	}
	for _, p := range patterns {
		for _, prefix := range []string{"", heads, tags} {
			if short, ok := strings.CutPrefix(name, prefix); ok {
				if ok, err := doublestar.Match(p, short); ok && err == nil {
					return true
				}
			}
		}
	}
	return false
}

// history reads commits once.
type history struct {
	store   *pack.Store
	commits map[plumbing.Hash]*Event
}

func (h *history) get(id plumbing.Hash) (*Event, error) {
	if e, ok := h.commits[id]; ok {
		return e, nil
	}
	c, err := readCommit(h.store, id)
	if err != nil {
		return nil, err
	}
	e := &Event{
		Commit:  id.String(),
		Parents: []string{},
		Author:  fmt.Sprintf("%s <%s>", c.Author.Name, c.Author.Email),
		Time:    c.Committer.When,
		Subject: subject(c),
	}
	for _, p := range c.ParentHashes {
		e.Parents = append(e.Parents, p.String())
	}
	h.commits[id] = e
	return e, nil
}

// between lists the commits that tip leads to and none of old does, parents
// before children.
func (h *history) between(ctx context.Context, old []plumbing.Hash, tip plumbing.Hash) ([]plumbing.Hash, error) {
	seen := map[plumbing.Hash]bool{}
	// below marks all that id leads to, children after parents.
	below := func(id plumbing.Hash) ([]plumbing.Hash, error) {
		var order []plumbing.Hash
		type step struct {
			id   plumbing.Hash
			done bool // its parents are in order
		}
		for stack := []step{{id, false}}; len(stack) > 0; {
			top := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			if top.done {
				order = append(order, top.id)
				continue
			}
			if seen[top.id] {
				continue
			}
			seen[top.id] = true
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			e, err := h.get(top.id)
			if err != nil {
				return nil, err
			}
			stack = append(stack, step{top.id, true})
			for _, p := range slices.Backward(e.Parents) {
				stack = append(stack, step{plumbing.NewHash(p), false})
			}
		}
		return order, nil
	}
	for _, id := range old {
		if _, err := below(id); err != nil {
			return nil, err
		}
	}
	return below(tip)
}
