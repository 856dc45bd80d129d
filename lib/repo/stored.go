package repo

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// What follows is for those who look after the store itself: the collector of
// garbage, the checker, export and import.

// The names of objects in a build's folder; see the package's comment.
const (
	NameState     = "state"
	NameWorkspace = "workspace"
	DirLogs       = "log/"
	DirArtifacts  = "artifacts/"
	DirManifests  = "manifest/"
)

// LayersPrefix is what the keys of layers begin with.
const LayersPrefix = "layers/"

// Stored is what the store has of one build.
type Stored struct {
	JobID   string
	Number  ticket.Number
	Prefix  string       // of the keys of its objects
	Objects []store.Info // all of them, in order
}

// Object finds the object of that name below the prefix.
func (s *Stored) Object(name string) (store.Info, bool) {
	for _, o := range s.Objects {
		if o.Key == s.Prefix+name {
			return o, true
		}
	}
	return store.Info{}, false
}

// BuildPrefix is what the keys of a build's objects begin with.
func BuildPrefix(job string, n ticket.Number) string { return buildPrefix(job, n) }

// JobKey is where a job's configuration is.
func JobKey(job string) string { return jobKey(job) }

// TagKey is where a tag is.
func TagKey(job, tag string) string { return tagKey(job, tag) }

// ManifestName is the name of a step's manifest in a build's folder.
func ManifestName(step string) string { return DirManifests + stepKey(step) }

// LogName is the name of the log of an attempt in a build's folder.
func LogName(step string, attempt int) string {
	return strings.TrimPrefix(logKey("", 0, step, attempt), buildPrefix("", 0))
}

// StoredJobs calls f with every job that the store has builds of, whether or
// not it has its configuration.
func (r *Repo) StoredJobs(ctx context.Context, f func(job string) error) error {
	return r.eachFolder(ctx, "builds/", func(part string) error {
		if len(part) < 255 {
			return f(part)
		}
		// The rest of a long id is in a part of its own; see pad.
		whole := false
		err := r.eachFolder(ctx, "builds/"+part+"/", func(rest string) error {
			if len(rest) < numberDigits {
				return f(part + rest)
			}
			if whole {
				return nil
			}
			whole = true
			return f(part)
		})
		return err
	})
}

// numberDigits is the length of a build number in a key.
const numberDigits = 16

func (r *Repo) eachFolder(ctx context.Context, prefix string, f func(name string) error) error {
	for after := ""; ; {
		names, err := r.store.Folders(ctx, prefix, after, 1000)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := f(name); err != nil {
				return err
			}
			after = name
		}
		if len(names) < 1000 {
			return nil
		}
	}
}

// buildsPage is how many objects are listed at a time: a folder of very many
// builds costs a store that has to sort it the same for a page of any size.
const buildsPage = 50_000

// StoredBuilds calls f with what the store has of each build of a job, in the
// order of the numbers. It holds a page of the list at a time.
func (r *Repo) StoredBuilds(ctx context.Context, job string, f func(Stored) error) error {
	prefix := jobPrefix(job)
	var s Stored
	flush := func() error {
		if len(s.Objects) == 0 {
			return nil
		}
		err := f(s)
		s = Stored{}
		return err
	}
	for after := ""; ; {
		infos, err := r.store.List(ctx, prefix, after, buildsPage)
		if err != nil {
			return err
		}
		for _, i := range infos {
			after = i.Key
			part, _, _ := strings.Cut(i.Key[len(prefix):], "/")
			n, err := strconv.ParseInt(part, 10, 64)
			if len(part) != numberDigits || err != nil {
				continue // of a job whose id is longer, or not ours
			}
			if n := ticket.Number(n); n != s.Number || len(s.Objects) == 0 {
				if err := flush(); err != nil {
					return err
				}
				s = Stored{JobID: job, Number: n, Prefix: buildPrefix(job, n)}
			}
			s.Objects = append(s.Objects, i)
		}
		if len(infos) < buildsPage {
			return flush()
		}
	}
}

// Finished reads the record of a finished build, and the version of the object
// that it is in. Errors: ErrNoBuild, and one of kind Internal if the record
// cannot be read.
func (r *Repo) Finished(ctx context.Context, job string, n ticket.Number) (*build.Build, string, error) {
	data, info, err := store.ReadAll(ctx, r.store, buildPrefix(job, n)+NameState)
	if errors.Is(err, store.ErrNotFound) {
		return nil, "", ErrNoBuild
	}
	if err != nil {
		return nil, "", err
	}
	b := &build.Build{JobID: job, Number: n}
	if err := json.Unmarshal(data, &b.State); err != nil {
		return nil, info.Version, fault.Errorf(fault.Internal, "repo: record of %s #%d: %w", job, n, err)
	}
	return b, info.Version, nil
}

// Live tells whether the coordination has a build's record: it is not finished,
// or is just being finished.
func (r *Repo) Live(ctx context.Context, job string, n ticket.Number) (bool, error) {
	_, err := r.live(ctx, job, n)
	if errors.Is(err, ErrNoBuild) {
		return false, nil
	}
	return err == nil, err
}

// Gone tells whether there is no such build, neither live nor finished.
func (r *Repo) Gone(ctx context.Context, job string, n ticket.Number) (bool, error) {
	err := r.exists(ctx, job, n)
	if errors.Is(err, ErrNoBuild) {
		return true, nil
	}
	return false, err
}

// StepManifest reads what a complete step of a finished build has published.
func (r *Repo) StepManifest(ctx context.Context, b *build.Build, step string) (map[string]Artifact, error) {
	return r.manifest(ctx, b.JobID, b.Number, step, b.State.Tasks[step])
}

// HasManifest tells whether a step's ticket says that there is a manifest.
func HasManifest(t *ticket.Ticket) bool {
	_, ok := t.Extra[countField]
	return ok
}

// WorkspaceLayers lists the digests of the layers that a build's workspaces are
// made of, with repeats. The workspace that was put is one of them, whether or
// not the folder's list shows it; if that is null, a finished build has none.
func (r *Repo) WorkspaceLayers(ctx context.Context, b *build.Build) ([]string, error) {
	var layers []string
	data, _, err := store.ReadAll(ctx, r.store, workspaceKey(b.JobID, b.Number))
	if err == nil {
		if err := json.Unmarshal(data, &layers); err != nil {
			return nil, fault.Errorf(fault.Internal, "repo: workspace of %s #%d: %w", b.JobID, b.Number, err)
		}
		if layers == nil && b.State.Status == build.Complete {
			return nil, nil
		}
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	for _, t := range b.State.Tasks {
		layers = append(layers, t.Workspace...)
	}
	return layers, nil
}

// LiveLayers calls f with every layer that something live refers to: the
// tickets in the queue, and the builds that are not finished.
//
// What a step adds, or a worker puts over REST, is in its ticket first, then in
// the build's record, and in the end in the store. Who looks at them in this
// order misses nothing.
func (r *Repo) LiveLayers(ctx context.Context, f func(digest string)) error {
	ids, err := r.queue.List(ctx)
	if err != nil {
		return err
	}
	for _, id := range ids {
		t, _, err := r.queue.Get(ctx, id)
		if errors.Is(err, queue.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		for _, digest := range t.Workspace {
			f(digest)
		}
	}
	builds, err := r.LiveBuilds(ctx)
	if err != nil {
		return err
	}
	for _, l := range builds {
		rec, err := r.live(ctx, l.JobID, l.Number)
		if errors.Is(err, ErrNoBuild) {
			continue // its record is in the store now
		}
		if err != nil {
			return err
		}
		layers, err := r.WorkspaceLayers(ctx, rec.Build)
		if err != nil {
			return err
		}
		for _, digest := range layers {
			f(digest)
		}
	}
	return nil
}

// LastNumber is the number of the job's last build as the coordination knows
// it; 0 if it knows of none.
func (r *Repo) LastNumber(ctx context.Context, job string) (ticket.Number, error) {
	if _, _, err := r.conn.Get(ctx, jobPath(job)); errors.Is(err, coord.ErrNoNode) {
		return 0, nil
	}
	n, _, err := r.lastBuild(ctx, job)
	return n, err
}

// RaiseNumber makes the numbers of the job's next builds greater than n.
func (r *Repo) RaiseNumber(ctx context.Context, job string, n ticket.Number) error {
	for {
		last, version, err := r.lastBuild(ctx, job)
		if err != nil || version >= 0 && last >= n {
			return err
		}
		_, err = r.conn.Txn(ctx, numberOps(job, max(n, last), version))
		if !errors.Is(err, coord.ErrBadVersion) && !errors.Is(err, coord.ErrNodeExists) && !errors.Is(err, coord.ErrNoNode) && !errors.Is(err, coord.ErrUnknown) {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// ForgetArtifacts changes the record of a finished build, read at the version,
// so that it has no artefacts, and says in it when that was. Errors:
// store.ErrConflict.
func (r *Repo) ForgetArtifacts(ctx context.Context, b *build.Build, version string, now time.Time) error {
	b.State.Artifacts = nil
	for _, t := range b.State.Tasks {
		t.Artifacts = nil
		delete(t.Extra, countField)
	}
	if b.State.Extra == nil {
		b.State.Extra = map[string]json.RawMessage{}
	}
	b.State.Extra["artifacts_removed"], _ = json.Marshal(now.UTC().Truncate(time.Second))
	data, err := json.Marshal(&b.State)
	if err != nil {
		return err
	}
	_, err = r.store.Swap(ctx, buildPrefix(b.JobID, b.Number)+NameState, version, strings.NewReader(string(data)))
	return err
}

// HighestStored is the highest number of a job's builds in the store; 0 if
// there is none.
func (r *Repo) HighestStored(ctx context.Context, job string) (highest ticket.Number, err error) {
	err = r.eachFolder(ctx, jobPrefix(job), func(name string) error {
		if n, err := strconv.ParseInt(name, 10, 64); err == nil && len(name) == numberDigits {
			highest = max(highest, ticket.Number(n))
		}
		return nil
	})
	return highest, err
}

// TaggedBuilds are the numbers that a job's tags name, with one tag of each.
func (r *Repo) TaggedBuilds(ctx context.Context, job string) (map[ticket.Number]string, error) {
	tags, err := r.Tags(ctx, job)
	if err != nil {
		return nil, err
	}
	numbers := map[ticket.Number]string{}
	for _, tag := range tags {
		n, err := r.Tag(ctx, job, tag)
		if errors.Is(err, ErrNoTag) {
			continue
		}
		if err != nil {
			return nil, err
		}
		numbers[n] = tag
	}
	return numbers, nil
}

// Published are the names, in a finished build's folder, of the objects that
// its record tells of: artefacts, what describes them, and the lists of them.
func Published(b *build.Build) map[string]bool {
	names := map[string]bool{}
	addNames(names, b.State.Artifacts)
	for step, t := range b.State.Tasks {
		addNames(names, t.Artifacts)
		if HasManifest(t) {
			names[ManifestName(step)] = true
		}
	}
	return names
}

// Listed are the names of the artefacts, and of what describes them, that are
// in the lists that a finished build's record tells of. The error is of kind
// Internal if such a list cannot be read.
func (r *Repo) Listed(ctx context.Context, b *build.Build) (map[string]bool, error) {
	names := map[string]bool{}
	for step := range b.State.Tasks {
		m, err := r.StepManifest(ctx, b, step)
		var syntax *json.SyntaxError
		var typ *json.UnmarshalTypeError
		if errors.As(err, &syntax) || errors.As(err, &typ) {
			err = fault.Errorf(fault.Internal, "repo: artefacts of step %s of %s #%d: %w", step, b.JobID, b.Number, err)
		}
		if err != nil {
			return nil, err
		}
		addNames(names, m)
	}
	return names, nil
}

func addNames[T any](names map[string]bool, artifacts map[string]T) {
	for id := range artifacts {
		names[DirArtifacts+id] = true
		names[DirArtifacts+id+".json"] = true
	}
}

// ParseKey takes the key of an object of a build apart.
func ParseKey(key string) (job string, n ticket.Number, name string, ok bool) {
	parts := strings.Split(key, "/")
	if len(parts) < 4 || parts[0] != "builds" {
		return "", 0, "", false
	}
	job, parts = parts[1], parts[2:]
	if len(job) == 255 && len(parts[0]) < numberDigits { // see pad
		job, parts = job+parts[0], parts[1:]
	}
	number, err := strconv.ParseInt(parts[0], 10, 64)
	n, name = ticket.Number(number), strings.Join(parts[1:], "/")
	return job, n, name, err == nil && ValidJob(job) && buildPrefix(job, n)+name == key && name != ""
}

// ParseJobKey takes the key of a job's configuration apart.
func ParseJobKey(key string) (job string, ok bool) {
	rest, ok := strings.CutPrefix(key, "jobs/")
	job = strings.ReplaceAll(rest, "/", "")
	return job, ok && ValidJob(job) && jobKey(job) == key
}

// ParseTagKey takes the key of a tag apart.
func ParseTagKey(key string) (job, tag string, ok bool) {
	rest, ok := strings.CutPrefix(key, "tags/")
	i := strings.LastIndexByte(rest, '/')
	if !ok || i < 0 {
		return "", "", false
	}
	job, tag = strings.ReplaceAll(rest[:i], "/", ""), rest[i+1:]
	return job, tag, ValidJob(job) && ValidTag(tag) && tagKey(job, tag) == key
}
