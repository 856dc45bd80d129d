package source

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"

	"github.com/distci/distci/lib/fault"
)

// maxModuleDepth ends submodules that contain each other.
const maxModuleDepth = 16

// modules checks out the submodules of what was just written into root. They
// get a .git of their own, as before git 1.7.8, which git still understands.
func (c *checkout) modules(ctx context.Context, loc location, got *filled, root *folder, level int) error {
	if !c.submodules || len(got.gitlinks) == 0 {
		return nil
	}
	if level >= maxModuleDepth {
		return fault.Errorf(fault.Unavailable, "submodules are more than %d deep in each other", maxModuleDepth)
	}
	byPath, err := readModules(got)
	if err != nil {
		return err
	}
	for _, link := range got.gitlinks {
		sub, err := openBelow(root, link.path)
		if err != nil {
			return err
		}
		m, ok := byPath[link.path]
		if !ok {
			c.access.log.Warn("no submodule in .gitmodules for this path, which stays empty", "path", link.path)
			err = empty(sub)
		} else {
			err = c.module(ctx, loc, m, link, root, sub, level)
		}
		sub.Close()
		if err != nil {
			return fmt.Errorf("submodule %s: %w", link.path, err)
		}
	}
	return nil
}

func (c *checkout) module(ctx context.Context, loc location, m *config.Submodule, link gitlink, root, sub *folder, level int) error {
	where, err := loc.resolve(m.URL)
	if err != nil {
		return err
	}
	if _, err := c.run(ctx, where, link.hash.String(), sub, level+1); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(root.path, ".git", "config"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(moduleSection(m.Name, where)); err != nil {
		return err
	}
	return f.Close()
}

// moduleSection is what git's configuration says of a submodule.
func moduleSection(name string, where location) string {
	return fmt.Sprintf("[submodule %s]\n\tactive = true\n\turl = %s\n", quote(name), quote(where.clean()))
}

// readModules reads .gitmodules out of the commit, by path.
func readModules(got *filled) (map[string]*config.Submodule, error) {
	for _, e := range got.tree.entries {
		if e.name != ".gitmodules" || e.mode != filemode.Regular && e.mode != filemode.Executable {
			continue // a link is not followed, as in git
		}
		typ, content, err := got.store.Get(e.hash)
		if err != nil {
			return nil, err
		}
		if typ != plumbing.BlobObject {
			return nil, badTree("", ".gitmodules is no file")
		}
		return parseModules(content)
	}
	return nil, nil
}

// parseModules reads a .gitmodules, by path.
func parseModules(content []byte) (map[string]*config.Submodule, error) {
	m := config.NewModules()
	if err := m.Unmarshal(content); err != nil {
		return nil, fault.Errorf(fault.Unavailable, "its .gitmodules cannot be read: %w", err)
	}
	byPath := make(map[string]*config.Submodule, len(m.Submodules))
	for _, s := range m.Submodules {
		// Git does not read a name with a line end, and cuts one with a zero.
		if strings.ContainsAny(s.Name, "\x00\n") {
			return nil, fault.Errorf(fault.Unavailable, "its .gitmodules cannot be read: the name %q has a control character", s.Name)
		}
		byPath[filepath.Clean(s.Path)] = s
	}
	return byPath, nil
}

func openBelow(root *folder, path string) (*folder, error) {
	sub, err := root.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	return &folder{sub, filepath.Join(root.path, path)}, nil
}

// empty removes all that is in a folder.
func empty(dir *folder) error {
	types, err := list(dir.Root)
	for name := range types {
		if err := removeAll(dir.Root, name); err != nil {
			return err
		}
	}
	return err
}
