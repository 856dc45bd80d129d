package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// Artifact is a published file.
type Artifact struct {
	Path   []string  `json:"path,omitempty"` // parts; known once the step is complete
	Size   int64     `json:"size"`           // bytes
	SHA256 string    `json:"sha256"`         // hexadecimal
	Time   time.Time `json:"time,omitzero"`  // when it was stored; zero: by a version that did not tell
	Step   string    `json:"step,omitempty"` // that published it; in the list of a whole build
}

func artifactKey(job string, n ticket.Number, id string) string {
	return buildPrefix(job, n) + "artifacts/" + id
}

func manifestKey(job string, n ticket.Number, step string) string {
	return buildPrefix(job, n) + "manifest/" + stepKey(step)
}

// PutArtifact stores the bytes of an artefact, under a new id if id is empty;
// otherwise it replaces one. Errors: ErrNoArtifact, ErrNoBuild.
func (r *Repo) PutArtifact(ctx context.Context, job string, n ticket.Number, id string, data io.Reader) (string, Artifact, error) {
	if err := r.exists(ctx, job, n); err != nil {
		return "", Artifact{}, err
	}
	if id == "" {
		id = uuid.NewString()
	} else if _, err := r.store.Stat(ctx, artifactKey(job, n, id)); errors.Is(err, store.ErrNotFound) {
		return "", Artifact{}, ErrNoArtifact
	}
	sum := sha256.New()
	info, err := r.store.Put(ctx, artifactKey(job, n, id), io.TeeReader(data, sum))
	if err != nil {
		return "", Artifact{}, err
	}
	a := Artifact{Size: info.Size, SHA256: hex.EncodeToString(sum.Sum(nil)), Time: time.Now().UTC().Truncate(time.Second)}
	b, err := json.Marshal(a)
	if err != nil {
		return "", Artifact{}, err
	}
	_, err = r.store.Put(ctx, artifactKey(job, n, id)+".json", bytes.NewReader(b))
	return id, a, err
}

// exists returns ErrNoBuild if there is no such build.
func (r *Repo) exists(ctx context.Context, job string, n ticket.Number) error {
	_, err := r.live(ctx, job, n)
	if errors.Is(err, ErrNoBuild) {
		_, err = r.store.Stat(ctx, buildPrefix(job, n)+"state")
		if errors.Is(err, store.ErrNotFound) {
			return ErrNoBuild
		}
	}
	return err
}

// GetArtifact reads n bytes of an artefact from offset on; n < 0: to the end.
// They are not compared with the digest, see [Repo.OpenArtifact]. Info is the
// whole one's. Errors: ErrNoArtifact.
func (r *Repo) GetArtifact(ctx context.Context, job string, build ticket.Number, id string, offset, n int64) (io.ReadCloser, store.Info, error) {
	rd, info, err := r.store.Get(ctx, artifactKey(job, build, id), offset, n)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrNoArtifact
	}
	return rd, info, err
}

// StatArtifact tells an artefact's size and digest. Errors: ErrNoArtifact.
func (r *Repo) StatArtifact(ctx context.Context, job string, n ticket.Number, id string) (Artifact, error) {
	var a Artifact
	b, _, err := store.ReadAll(ctx, r.store, artifactKey(job, n, id)+".json")
	if errors.Is(err, store.ErrNotFound) {
		return a, ErrNoArtifact
	}
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	return a, err
}

// DeleteArtifact removes an artefact. Errors: ErrNoArtifact.
func (r *Repo) DeleteArtifact(ctx context.Context, job string, n ticket.Number, id string) error {
	err := r.store.Delete(ctx, artifactKey(job, n, id))
	if errors.Is(err, store.ErrNotFound) {
		return ErrNoArtifact
	}
	if err != nil {
		return err
	}
	err = r.store.Delete(ctx, artifactKey(job, n, id)+".json")
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// Artifacts lists what the complete steps of a build have published, by id.
// Errors: ErrNoBuild.
func (r *Repo) Artifacts(ctx context.Context, job string, n ticket.Number) (map[string]Artifact, error) {
	b, err := r.Build(ctx, job, n)
	if err != nil {
		return nil, err
	}
	all := map[string]Artifact{}
	for key, t := range b.State.Tasks {
		if t.Status != ticket.Complete {
			continue
		}
		m, err := r.manifest(ctx, job, n, key, t)
		if err != nil {
			return nil, err
		}
		for id, a := range m {
			a.Step = key
			all[id] = a
		}
	}
	return all, nil
}

// keepArtifacts moves the list of artefacts from the ticket, whose size is
// bounded, to the store.
func (r *Repo) keepArtifacts(ctx context.Context, t *ticket.Ticket) error {
	delete(t.Extra, countField) // ours to say
	if len(t.Artifacts) == 0 {
		return nil
	}
	m := map[string]Artifact{}
	for id, path := range t.Artifacts {
		a, err := r.StatArtifact(ctx, t.JobID, t.BuildNumber, id)
		if errors.Is(err, ErrNoArtifact) {
			return fault.Errorf(fault.Unavailable, "repo: artifact %s (%s) was not stored", id, strings.Join(path, "/"))
		}
		if err != nil {
			return err
		}
		a.Path = path
		m[id] = a
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if _, err := r.store.Put(ctx, manifestKey(t.JobID, t.BuildNumber, t.Step), bytes.NewReader(b)); err != nil {
		return err
	}
	t.Artifacts = nil
	return t.Set(countField, len(m))
}

// countField is the field of a step's ticket that says that there is a manifest.
// Without it there is none, or only one that a lost attempt has left.
const countField = "artifact_count"

// manifest reads what a step has published.
func (r *Repo) manifest(ctx context.Context, job string, n ticket.Number, step string, t *ticket.Ticket) (map[string]Artifact, error) {
	if _, ok := t.Extra[countField]; !ok {
		return nil, nil
	}
	b, _, err := store.ReadAll(ctx, r.store, manifestKey(job, n, step))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	var m map[string]Artifact
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err
}
