// Package source brings git repositories into workspaces and finds new commits.
//
// The wire protocols are go-git's; packs are received and read by the package
// pack beneath. Nothing of a workspace is trusted: a step's script may have
// written it, so an earlier ".git" is replaced, never read, and no path that
// is written can lead outside.
package source

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source/pack"
)

// Access says how repositories are reached; its zero value reaches public ones.
type Access struct {
	// Mirror is the folder of the mirror cache, one bare repository for each
	// URL; "" for none. It is made if it is absent.
	Mirror string
	// CredentialsFile holds lines as of git-credential-store(1):
	// https://user:token@host.
	CredentialsFile string
	// SSHKey is a private key file without a passphrase. Without it, the agent
	// behind SSH_AUTH_SOCK or else the keys in ~/.ssh are used.
	SSHKey string
	// KnownHosts is a known_hosts file; "" for the user's and the system's.
	KnownHosts string
	// Progress gets what the server says for people, if it is not nil.
	Progress io.Writer
	// Log gets what was done, if it is not nil.
	Log *slog.Logger
}

// Options says what is to be checked out, and where.
type Options struct {
	Access
	Repository string // a URL, user@host:path, or a local path
	Ref        string // a full or short name, a full commit id, or "" for HEAD
	Dir        string // the workspace; it is made if it is absent
	// CheckoutDir is a folder within the workspace; "" for the workspace itself.
	CheckoutDir string
	Depth       int  // only so many commits of history; 0 for all
	Submodules  bool // with their submodules
}

// Commit is a commit that was checked out.
type Commit struct {
	Hash    string
	Ref     string // the full name that it was asked for by; "" for a commit id
	Author  string // as in "A. Person <person@example.org>"
	Subject string // the message's first line
	Time    time.Time
}

// Checkout makes the folder exactly the tree of the commit that ref names:
// what else was there is removed, files that git would ignore included. The
// ".git" in it serves git itself.
//
// Errors are of the kinds BadTicket, Unavailable, Denied, Temporary,
// Interrupted, MissingTool or Config.
func Checkout(ctx context.Context, o Options) (Commit, error) {
	a, err := o.Access.open()
	if err != nil {
		return Commit{}, err
	}
	if o.Depth < 0 {
		return Commit{}, fault.Errorf(fault.BadTicket, "checkout: depth %d is negative", o.Depth)
	}
	loc, err := parseLocation(o.Repository)
	if err != nil {
		return Commit{}, err
	}
	root, err := openFolder(o.Dir, o.CheckoutDir)
	if err != nil {
		return Commit{}, err
	}
	defer root.Close()
	c := &checkout{access: a, depth: o.Depth, submodules: o.Submodules}
	commit, err := c.run(ctx, loc, o.Ref, root, 0)
	if err != nil {
		return Commit{}, a.blame(ctx, "checkout of "+loc.String(), err)
	}
	return commit, nil
}

// folder is a directory that no access through Root can leave. What is done by
// path instead is confined to the .git that was just made in it.
type folder struct {
	*os.Root
	path string // absolute
}

// openFolder opens the folder to check out into, which it makes if needed.
func openFolder(dir, sub string) (*folder, error) {
	if sub == "" {
		sub = "."
	}
	if !filepath.IsLocal(sub) {
		return nil, fault.Errorf(fault.BadTicket, "checkout: checkout-dir %q leads outside the workspace", sub)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "checkout: opening the workspace: %w", err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, fault.Errorf(fault.Config, "checkout: making the workspace: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "checkout: opening the workspace: %w", err)
	}
	sub = filepath.Clean(sub)
	if sub == "." {
		return &folder{root, dir}, nil
	}
	defer root.Close()
	path := ""
	for part := range strings.SplitSeq(sub, "/") {
		path = filepath.Join(path, part)
		if strings.EqualFold(part, ".git") {
			return nil, fault.Errorf(fault.BadTicket, "checkout: checkout-dir %q is within a .git", sub)
		}
		info, err := root.Lstat(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return nil, fault.Errorf(fault.Denied, "checkout: checkout-dir: %w", err)
		case info.Mode()&os.ModeSymlink != 0:
			return nil, fault.Errorf(fault.Denied, "checkout: checkout-dir %q: %s is a symbolic link", sub, path)
		case !info.IsDir(): // a file in the way
			if err := root.Remove(path); err != nil {
				return nil, fault.Errorf(fault.Denied, "checkout: checkout-dir: %w", err)
			}
		default:
			continue
		}
		if err := root.Mkdir(path, 0o777); err != nil {
			return nil, fault.Errorf(fault.Denied, "checkout: checkout-dir: %w", err)
		}
	}
	in, err := root.OpenRoot(sub)
	if err != nil {
		return nil, fault.Errorf(fault.Denied, "checkout: checkout-dir: %w", err)
	}
	return &folder{in, filepath.Join(dir, sub)}, nil
}

// checkout is one call of Checkout, submodules included.
type checkout struct {
	access     *access
	depth      int
	submodules bool
}

// run checks out one repository into root.
func (c *checkout) run(ctx context.Context, loc location, ref string, root *folder, level int) (Commit, error) {
	start := time.Now()
	got, err := c.fill(ctx, loc, ref, root)
	if err != nil {
		return Commit{}, err
	}
	defer got.store.Close()
	c.access.log.Info("checked out", "repository", loc, "ref", got.ref.name, "commit", got.ref.hash,
		"files", got.files, "took", time.Since(start).Round(time.Millisecond))
	if err := c.modules(ctx, loc, got, root, level); err != nil {
		return Commit{}, err
	}
	commit, err := readCommit(got.store, got.ref.hash)
	if err != nil {
		return Commit{}, err
	}
	return Commit{
		Hash:    commit.Hash.String(),
		Ref:     got.ref.name,
		Author:  commit.Author.Name + " <" + commit.Author.Email + ">",
		Subject: subject(commit),
		Time:    commit.Committer.When,
	}, nil
}

// filled is a folder with a commit's tree.
type filled struct {
	ref      resolved
	store    *pack.Store // of the folder's own .git
	tree     *tree
	files    int
	gitlinks []gitlink
}

// fill fetches a repository and writes one commit's tree. A mirror that turns
// out to be damaged is thrown away, and all is done once more without it.
func (c *checkout) fill(ctx context.Context, loc location, ref string, root *folder) (*filled, error) {
	got, err := c.fillOnce(ctx, loc, ref, root)
	if err == nil || !damaged(err) {
		return got, err
	}
	if m := c.mirror(loc); m != nil {
		c.access.log.Warn("the mirror is damaged and is made anew", "repository", loc, "reason", err)
		if err := m.discard(ctx); err != nil {
			return nil, err
		}
		got, err = c.fillOnce(ctx, loc, ref, root)
	}
	return got, err
}

func damaged(err error) bool {
	return errors.Is(err, pack.ErrCorrupt) || errors.Is(err, pack.ErrNotFound)
}

// mirror returns the mirror to use, or nil. A shallow checkout asks the server
// itself: whoever wants little of a large repository does not want all of it
// in a mirror first.
func (c *checkout) mirror(loc location) *mirror {
	if c.access.Mirror == "" || c.depth > 0 {
		return nil
	}
	return newMirror(c.access, loc)
}

func (c *checkout) fillOnce(ctx context.Context, loc location, ref string, root *folder) (*filled, error) {
	git := &gitDir{path: filepath.Join(root.path, ".git")}
	begin := func() error { // not before the server has answered
		if err := removeAll(root.Root, ".git"); err != nil {
			return fault.Errorf(fault.Denied, "removing the old .git: %w", err)
		}
		return git.init()
	}
	var state repoState
	var err error
	if m := c.mirror(loc); m != nil {
		state, err = m.copyTo(ctx, ref, git, begin)
	} else {
		state, err = c.access.direct(ctx, loc, ref, c.depth, git, begin)
	}
	if err != nil {
		return nil, err
	}
	store, err := pack.Open(git.packs())
	if err != nil {
		return nil, err
	}
	got := &filled{ref: state.want, store: store}
	if err := c.write(ctx, loc, state, git, root, got); err != nil {
		store.Close()
		return nil, err
	}
	return got, nil
}

func (c *checkout) write(ctx context.Context, loc location, state repoState, git *gitDir, root *folder, got *filled) error {
	commit, err := peel(got.store, state.want.hash)
	if err != nil {
		return err
	}
	got.ref.hash = commit.Hash
	if got.tree, err = readTree(got.store, commit.TreeHash); err != nil {
		return err
	}
	w := &writer{store: got.store, keepModules: c.submodules}
	idx, err := w.write(ctx, root.Root, got.tree)
	if err != nil {
		return err
	}
	got.files, got.gitlinks = len(idx.Entries), w.gitlinks
	return git.finish(loc, state, commit.Hash, idx)
}

// readCommit reads the commit with this very id.
func readCommit(s *pack.Store, id plumbing.Hash) (*object.Commit, error) {
	typ, content, err := s.Get(id)
	if err != nil {
		return nil, err
	}
	if typ != plumbing.CommitObject {
		return nil, fault.Errorf(fault.Unavailable, "%s is a %s, not a commit", id, typ)
	}
	return decodeCommit(id, content)
}

func decodeCommit(id plumbing.Hash, content []byte) (*object.Commit, error) {
	o := new(plumbing.MemoryObject)
	o.SetType(plumbing.CommitObject)
	o.Write(content)
	c := new(object.Commit)
	if err := c.Decode(o); err != nil {
		return nil, fault.Errorf(fault.Unavailable, "commit %s cannot be read: %w", id, err)
	}
	c.Hash = id
	return c, nil
}

// peel follows annotated tags to the commit that they stand for.
func peel(s *pack.Store, id plumbing.Hash) (*object.Commit, error) {
	for range 32 {
		typ, content, err := s.Get(id)
		if err != nil {
			return nil, err
		}
		if typ != plumbing.TagObject {
			return readCommit(s, id)
		}
		line, _, _ := strings.Cut(string(content), "\n")
		target, ok := strings.CutPrefix(line, "object ")
		if !ok || !plumbing.IsHash(target) {
			return nil, fault.Errorf(fault.Unavailable, "tag %s cannot be read", id)
		}
		id = plumbing.NewHash(target)
	}
	return nil, fault.Errorf(fault.Unavailable, "tag %s leads to too many tags", id)
}

func subject(c *object.Commit) string {
	line, _, _ := strings.Cut(strings.TrimLeft(c.Message, "\n"), "\n")
	return strings.TrimSpace(line)
}
