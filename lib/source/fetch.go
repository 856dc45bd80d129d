package source

import (
	"context"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source/pack"
)

// obtain asks the server for its refs, finds ref among them, and has fetch get
// what is needed: all branches and tags, and ref. For a commit id that none of
// those leads to, it goes on to ask for that commit alone, if the server allows
// that, and then for all other refs (those of pull requests, usually).
func (a *access) obtain(ctx context.Context, loc location, ref string, find bool,
	fetch func(*remote, []plumbing.Hash) error, has func(plumbing.Hash) bool) (repoState, error) {
	r, err := a.dial(ctx, loc)
	if err != nil {
		return repoState{}, err
	}
	defer func() { r.close() }()
	s := advertised(r.refs)
	if find {
		if s.want, err = s.resolve(ref); err != nil {
			return s, err
		}
	}
	// A session serves one pack.
	again := func(want []plumbing.Hash) error {
		r.close()
		next, err := a.dial(ctx, loc)
		if err != nil {
			return err
		}
		r = next
		return fetch(r, want)
	}
	common := s.common()
	if err := fetch(r, common.hashes()); err != nil {
		return s, err
	}
	want := s.want.hash
	if find && !has(want) {
		if direct(r) {
			a.log.Debug("asking for the commit itself", "commit", want)
			if err := again([]plumbing.Hash{want}); err != nil && ctx.Err() != nil {
				return s, err
			} // else the answer was no
		}
		if !has(want) {
			a.log.Debug("fetching all refs for the commit", "commit", want)
			if err := again(s.refs.hashes()); err != nil {
				return s, err
			}
		}
		if !has(want) {
			return s, fault.Errorf(fault.Unavailable, "no commit %s in the repository; %s", want, s.some())
		}
	}
	s.refs = common
	return s, nil
}

// direct tells whether a server gives objects that no ref names.
func direct(r *remote) bool {
	return r.refs.Capabilities.Supports(capability.AllowReachableSHA1InWant) ||
		r.refs.Capabilities.Supports("allow-any-sha1-in-want")
}

// direct fetches into a new .git, without a mirror.
func (a *access) direct(ctx context.Context, loc location, ref string, depth int, git *gitDir, begin func() error) (repoState, error) {
	if depth > 0 {
		s, err := a.shallow(ctx, loc, ref, depth, git, begin)
		if err == nil || ctx.Err() != nil || s.want.name != "" || s.want.hash.IsZero() {
			return s, err
		}
		// A commit that the server does not give alone is found in all of the
		// history.
		a.log.Debug("the server does not give this commit alone", "commit", s.want.hash, "answer", err)
	}
	if err := begin(); err != nil {
		return repoState{}, err
	}
	fetch := func(r *remote, want []plumbing.Hash) error {
		_, err := r.fetch(ctx, git.packs(), want, nil, 0)
		return err
	}
	has := func(h plumbing.Hash) bool {
		store, err := pack.Open(git.packs())
		if err != nil {
			return false
		}
		defer store.Close()
		return store.Has(h)
	}
	return a.obtain(ctx, loc, ref, true, fetch, has)
}

// shallow fetches one commit with so many commits of history.
func (a *access) shallow(ctx context.Context, loc location, ref string, depth int, git *gitDir, begin func() error) (repoState, error) {
	r, err := a.dial(ctx, loc)
	if err != nil {
		return repoState{}, err
	}
	defer r.close()
	s := advertised(r.refs)
	if s.want, err = s.resolve(ref); err != nil {
		return s, err
	}
	if err := begin(); err != nil {
		return s, err
	}
	s.shallow, err = r.fetch(ctx, git.packs(), []plumbing.Hash{s.want.hash}, nil, depth)
	s.refs = refs{}
	if s.want.name != "" {
		s.refs[s.want.name] = s.want.hash
	}
	return s, err
}
