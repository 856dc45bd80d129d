package fsck

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
)

// build checks one build.
func (c *checker) build(ctx context.Context, s repo.Stored) error {
	state, ok := s.Object(repo.NameState)
	if !ok {
		c.mu.Lock()
		c.report.Unfinished++
		c.mu.Unlock()
		return nil
	}
	c.mu.Lock()
	c.report.Builds++
	c.mu.Unlock()
	faults, err := c.faults(ctx, s)
	if err != nil || len(faults) == 0 {
		return err
	}
	// It may have been removed meanwhile, or the artefacts of it.
	now, err := c.store.Stat(ctx, state.Key)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if now.Version != state.Version {
		again := repo.Stored{JobID: s.JobID, Number: s.Number, Prefix: s.Prefix}
		if again.Objects, err = c.list(ctx, s.Prefix); err == nil {
			faults, err = c.faults(ctx, again)
		}
	}
	for _, f := range faults {
		f.JobID, f.Number = s.JobID, s.Number
		c.tell(f)
	}
	return err
}

func (c *checker) list(ctx context.Context, prefix string) (all []store.Info, err error) {
	for after := ""; ; {
		infos, err := c.store.List(ctx, prefix, after, 1000)
		if err != nil {
			return nil, err
		}
		all = append(all, infos...)
		if len(infos) < 1000 {
			return all, nil
		}
		after = infos[len(infos)-1].Key
	}
}

// faults lists what is wrong with a finished build.
func (c *checker) faults(ctx context.Context, s repo.Stored) (faults []Fault, _ error) {
	add := func(name, do, format string, args ...any) {
		faults = append(faults, Fault{Object: s.Prefix + name, What: fmt.Sprintf(format, args...), Do: do})
	}
	b, _, err := c.repo.Finished(ctx, s.JobID, s.Number)
	switch {
	case errors.Is(err, repo.ErrNoBuild):
		return nil, nil
	case fault.Of(err) == fault.Internal:
		add(repo.NameState, restore, "%v", err)
		return faults, nil
	case err != nil:
		return nil, err
	case b.State.Status != build.Complete:
		add(repo.NameState, restore, "the record's status is %q, and not %q", b.State.Status, build.Complete)
		return faults, nil
	}
	objects := map[string]store.Info{}
	for _, o := range s.Objects {
		objects[o.Key[len(s.Prefix):]] = o
	}
	for _, key := range b.State.Keys() {
		t := b.State.Tasks[key]
		// A worker begins the log of every attempt with a line of its own. One
		// that speaks REST may print nothing; what it runs has no usage.
		if _, ran := t.Extra["usage"]; ran && t.Attempt > 0 {
			if name := repo.LogName(key, t.Attempt); objects[name].Size == 0 {
				add(name, restore, "the log of step %s is not there", key)
			}
		}
		if !repo.HasManifest(t) {
			continue
		}
		var told int
		_, _ = t.Get("artifact_count", &told)
		m, err := c.repo.StepManifest(ctx, b, key)
		if broken(err) {
			add(repo.ManifestName(key), restore, "the list of artefacts cannot be read: %v", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		if len(m) != told {
			add(repo.ManifestName(key), restore, "the record tells of %d artefacts of step %s, the list of %d", told, key, len(m))
		}
		for id, a := range m {
			c.mu.Lock()
			c.report.Artifacts++
			c.mu.Unlock()
			what, err := c.artifact(ctx, s.Prefix, objects, id, a)
			if err != nil {
				return nil, err
			}
			if what != "" {
				add(repo.DirArtifacts+id, restore, "artefact %q %s", strings.Join(a.Path, "/"), what)
			}
		}
	}
	if err := c.logs(ctx, s, objects, func(name, what string) { add(name, restore, "the log %s", what) }); err != nil {
		return nil, err
	}
	for id, path := range b.State.Artifacts {
		if _, ok := objects[repo.DirArtifacts+id]; !ok && !slices.ContainsFunc(faults, func(f Fault) bool { return f.Object == s.Prefix+repo.DirArtifacts+id }) {
			add(repo.DirArtifacts+id, restore, "artefact %q is not there", strings.Join(path, "/"))
		}
	}
	layers, err := c.repo.WorkspaceLayers(ctx, b)
	if fault.Of(err) == fault.Internal {
		add(repo.NameWorkspace, rerun, "%v", err)
		return faults, nil
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(layers)
	for _, digest := range slices.Compact(layers) {
		missing, err := c.missing(ctx, digest)
		if err != nil {
			return nil, err
		}
		if missing {
			faults = append(faults, Fault{Object: layerKey(digest), What: "a layer of its workspace is not there", Do: rerun})
		}
	}
	return faults, nil
}

// logs checks a build's sealed logs against their seals.
func (c *checker) logs(ctx context.Context, s repo.Stored, objects map[string]store.Info, add func(name, what string)) error {
	for index := range objects {
		name, ok := repo.IndexedLog(index)
		if !ok {
			continue
		}
		log, ok := objects[name]
		if !ok {
			add(name, "is not there, but its index is")
			continue
		}
		found, err := c.repo.CheckLog(ctx, s.Prefix, name, log.Size, c.Quick)
		if errors.Is(err, store.ErrNotFound) {
			found.What, err = "is not there, or its index", nil
		}
		if err != nil {
			return err
		}
		if found.What != "" {
			add(name, found.What)
		}
		if !found.Sealed {
			continue
		}
		c.mu.Lock()
		c.report.Logs++
		c.report.Read += found.Read
		c.mu.Unlock()
	}
	return nil
}

func broken(err error) bool {
	var syntax *json.SyntaxError
	var typ *json.UnmarshalTypeError
	return errors.As(err, &syntax) || errors.As(err, &typ)
}

// artifact tells what is wrong with an artefact; "" if nothing is.
func (c *checker) artifact(ctx context.Context, prefix string, objects map[string]store.Info, id string, a repo.Artifact) (string, error) {
	o, ok := objects[repo.DirArtifacts+id]
	if !ok {
		return "is not there", nil
	}
	if o.Size != a.Size {
		return fmt.Sprintf("has %d bytes, and had %d", o.Size, a.Size), nil
	}
	if _, ok := objects[repo.DirArtifacts+id+".json"]; !ok {
		return "has no description (.json)", nil
	}
	if c.Quick {
		return "", nil
	}
	digest, size, err := c.digest(ctx, prefix+repo.DirArtifacts+id)
	if errors.Is(err, store.ErrNotFound) {
		return "is not there", nil
	}
	if err == nil && digest != a.SHA256 {
		return fmt.Sprintf("is damaged: its %d bytes have the SHA-256 %s, and had %s", size, digest, a.SHA256), nil
	}
	return "", err
}

func layerKey(digest string) string {
	return repo.LayersPrefix + strings.Replace(digest, ":", "/", 1)
}

// missing tells whether a layer is not there.
func (c *checker) missing(ctx context.Context, digest string) (bool, error) {
	var short [8]byte
	if _, digits, ok := strings.Cut(digest, ":"); !ok || len(digits) != 64 {
		return true, nil
	} else if _, err := hex.Decode(short[:], []byte(digits[:16])); err != nil {
		return true, nil
	}
	c.mu.Lock()
	seen := c.seen[short]
	c.mu.Unlock()
	if seen {
		return false, nil
	}
	info, err := c.store.Stat(ctx, layerKey(digest))
	if errors.Is(err, store.ErrNotFound) || err == nil && info.Size == 0 {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	if len(c.seen) >= maxSeen {
		clear(c.seen)
	}
	c.seen[short] = true
	c.mu.Unlock()
	return false, nil
}
