package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/version"
)

// ExportOptions of Export.
type ExportOptions struct {
	Jobs       []string  // patterns as of path.Match; none: all jobs
	Since      time.Time // builds that ended then or later
	Workspaces bool      // with their layers
}

// Export writes an archive. It runs beside builds, and takes those that are
// finished. What cannot be had is left out and told in the report.
func Export(ctx context.Context, r *repo.Repo, w io.Writer, o ExportOptions) (Report, error) {
	if err := checkPatterns(o.Jobs); err != nil {
		return Report{}, err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(2))
	if err != nil {
		return Report{}, fault.Wrap(fault.Internal, err)
	}
	x := &exporter{ExportOptions: o, repo: r, store: r.Store(), tar: tar.NewWriter(z), written: map[string]bool{}}
	err = x.run(ctx)
	if err == nil {
		err = x.tar.Close()
	}
	// A file whose end is missing must not look as if it were whole.
	if e := z.Close(); err == nil {
		err = e
	}
	if err != nil {
		err = fmt.Errorf("export: %w", err)
	}
	return x.report, err
}

type exporter struct {
	ExportOptions
	repo    *repo.Repo
	store   store.Store
	tar     *tar.Writer
	written map[string]bool // layers, by digest
	report  Report
}

func (x *exporter) run(ctx context.Context) error {
	if err := x.add(headName, encode(head{formatNumber, "distci " + version.Number, time.Now().UTC().Truncate(time.Second)})); err != nil {
		return err
	}
	for after := ""; ; {
		ids, err := x.repo.Jobs(ctx, after, 1000)
		if err != nil {
			return err
		}
		for _, id := range ids {
			after = id
			if !chosen(x.Jobs, id) {
				continue
			}
			if err := x.job(ctx, id); err != nil {
				return err
			}
		}
		if len(ids) < 1000 {
			return x.add(tailName, encode(x.report))
		}
	}
}

// add writes an entry of the archive's own.
func (x *exporter) add(name string, data []byte) error {
	return x.entry(name, int64(len(data)), time.Time{}, fmt.Sprintf("%x", sha256.Sum256(data)), bytes.NewReader(data))
}

func (x *exporter) entry(name string, size int64, modified time.Time, digest string, r io.Reader) error {
	err := x.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: modified.Truncate(time.Second),
		Format: tar.FormatPAX, PAXRecords: map[string]string{digestRecord: digest}})
	if err != nil {
		return err
	}
	_, err = io.Copy(x.tar, r)
	return err
}

func (x *exporter) job(ctx context.Context, id string) error {
	config, err := x.repo.Job(ctx, id)
	if errors.Is(err, repo.ErrNoJob) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := x.add(repo.JobKey(id), config); err != nil {
		return err
	}
	x.report.Jobs++
	// The tags before the builds, so that they name those that are found.
	tags, err := x.repo.TaggedBuilds(ctx, id)
	if err != nil {
		return err
	}
	err = x.repo.StoredBuilds(ctx, id, func(s repo.Stored) error {
		ok, err := x.build(ctx, s)
		if err != nil || !ok || tags[s.Number] == "" {
			return err
		}
		return x.tags(ctx, s)
	})
	return err
}

func (x *exporter) tags(ctx context.Context, s repo.Stored) error {
	tags, err := x.repo.Tags(ctx, s.JobID)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		n, err := x.repo.Tag(ctx, s.JobID, tag)
		if errors.Is(err, repo.ErrNoTag) || err == nil && n != s.Number {
			continue
		}
		if err != nil {
			return err
		}
		if err := x.add(repo.TagKey(s.JobID, tag), []byte(n.String())); err != nil {
			return err
		}
	}
	return nil
}

// damage is what stands in the way of one build, not of the archive.
type damage struct{ error }

func (d damage) Unwrap() error { return d.error }

// build adds a finished build, if it is one that was asked for. It tells
// whether it has.
func (x *exporter) build(ctx context.Context, s repo.Stored) (bool, error) {
	if _, ok := s.Object(repo.NameState); !ok {
		return false, nil
	}
	state, _, err := store.ReadAll(ctx, x.store, s.Prefix+repo.NameState)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	b := &build.Build{JobID: s.JobID, Number: s.Number}
	if err := json.Unmarshal(state, &b.State); err != nil || b.State.Status != build.Complete {
		x.report.problem("%s #%d: its record cannot be read", s.JobID, s.Number)
		return false, nil
	}
	if b.State.Ended != nil && b.State.Ended.Before(x.Since) {
		return false, nil
	}
	if x.Workspaces {
		if err := x.layers(ctx, b); err != nil {
			return false, err
		}
	}
	if err := x.add(s.Prefix+repo.NameState, state); err != nil {
		return false, err
	}
	x.report.Objects++
	x.report.Bytes += int64(len(state))
	e := end{Objects: 1, Complete: true}
	for _, o := range s.Objects {
		name := o.Key[len(s.Prefix):]
		if name == repo.NameState || name == repo.NameWorkspace && !x.Workspaces {
			continue
		}
		err := x.object(ctx, s, o)
		var d damage
		if errors.As(err, &d) {
			e.Complete, e.Error = false, d.Error()
			break
		}
		if err != nil {
			return false, err
		}
		e.Objects++
		x.report.Objects++
		x.report.Bytes += o.Size
		if strings.HasPrefix(name, repo.DirArtifacts) && !strings.HasSuffix(name, ".json") {
			x.report.Artifacts++
		}
	}
	if e.Complete && !x.Workspaces { // it has none that could be opened there
		if err := x.add(s.Prefix+repo.NameWorkspace, []byte("null")); err != nil {
			return false, err
		}
		e.Objects++
	}
	if !e.Complete {
		x.report.problem("%s #%d: left out: %s", s.JobID, s.Number, e.Error)
	} else {
		x.report.Builds++
	}
	return e.Complete, x.add(endName(s.JobID, s.Number), encode(e))
}

// layers adds those of a build that are not in the archive yet. One that is
// not there, or is damaged, is a problem; the build is worth having without it.
func (x *exporter) layers(ctx context.Context, b *build.Build) error {
	digests, err := x.repo.WorkspaceLayers(ctx, b)
	if fault.Of(err) == fault.Internal {
		x.report.problem("%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	slices.Sort(digests)
	for _, digest := range slices.Compact(digests) {
		_, digits, ok := strings.Cut(digest, ":")
		if !ok || x.written[digits] {
			continue
		}
		key := repo.LayersPrefix + strings.Replace(digest, ":", "/", 1)
		info, err := x.store.Stat(ctx, key)
		if errors.Is(err, store.ErrNotFound) || err == nil && info.Size == 0 {
			x.report.problem("%s #%d: its layer %s is not there", b.JobID, b.Number, digest)
			continue
		}
		if err != nil {
			return err
		}
		err = x.copy(ctx, info, digits)
		var d damage
		if errors.As(err, &d) {
			x.report.problem("%s #%d: %v", b.JobID, b.Number, d)
		} else if err != nil {
			return err
		}
		x.written[digits] = true
		x.report.Layers++
		x.report.Objects++
		x.report.Bytes += info.Size
	}
	return nil
}

// inMemory bounds objects that are read once and held.
const inMemory = 1 << 20

// object adds an object of a build.
func (x *exporter) object(ctx context.Context, s repo.Stored, o store.Info) error {
	if o.Size <= inMemory {
		data, info, err := store.ReadAll(ctx, x.store, o.Key)
		if errors.Is(err, store.ErrNotFound) {
			return damage{fault.Errorf(fault.Unavailable, "%s was removed meanwhile", o.Key)}
		}
		if err != nil {
			return err
		}
		sum := fmt.Sprintf("%x", sha256.Sum256(data))
		if want, ok := x.published(ctx, s, o); ok && want != sum {
			return damage{fault.Errorf(fault.Unavailable, "%s is damaged: it has the SHA-256 %s, expected %s", o.Key, sum, want)}
		}
		return x.entry(o.Key, int64(len(data)), info.Modified, sum, bytes.NewReader(data))
	}
	digest, ok := x.published(ctx, s, o)
	if !ok {
		var err error
		if digest, err = x.digest(ctx, o.Key); err != nil {
			return err
		}
	}
	return x.copy(ctx, o, digest)
}

// published is the digest that an artefact had when it was published.
func (x *exporter) published(ctx context.Context, s repo.Stored, o store.Info) (string, bool) {
	id, ok := strings.CutPrefix(o.Key[len(s.Prefix):], repo.DirArtifacts)
	if !ok || strings.HasSuffix(id, ".json") {
		return "", false
	}
	a, err := x.repo.StatArtifact(ctx, s.JobID, s.Number, id)
	return a.SHA256, err == nil && a.SHA256 != ""
}

func (x *exporter) digest(ctx context.Context, key string) (string, error) {
	rd, _, err := x.store.Get(ctx, key, 0, -1)
	if errors.Is(err, store.ErrNotFound) {
		return "", damage{fault.Errorf(fault.Unavailable, "%s was removed meanwhile", key)}
	}
	if err != nil {
		return "", err
	}
	defer rd.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, rd); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// copy adds an object of that size and digest. If it turns out to be another,
// the entry is there all the same, and its digest tells.
func (x *exporter) copy(ctx context.Context, o store.Info, digest string) error {
	rd, info, err := x.store.Get(ctx, o.Key, 0, o.Size)
	if errors.Is(err, store.ErrNotFound) {
		return damage{fault.Errorf(fault.Unavailable, "%s was removed meanwhile", o.Key)}
	}
	if err != nil {
		return err
	}
	defer rd.Close()
	sum := sha256.New()
	from := &padded{r: io.TeeReader(rd, sum), left: o.Size}
	if err := x.entry(o.Key, o.Size, info.Modified, digest, from); err != nil {
		return err
	}
	if from.err != nil {
		return damage{fault.Errorf(fault.Unavailable, "%s: %w", o.Key, from.err)}
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != digest {
		return damage{fault.Errorf(fault.Unavailable, "%s is damaged: it has the SHA-256 %s, expected %s", o.Key, got, digest)}
	}
	return nil
}

// padded gives exactly left bytes, with zeros for those that cannot be read: the
// entry's size was written already.
type padded struct {
	r    io.Reader
	left int64
	err  error
}

func (p *padded) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	b = b[:min(int64(len(b)), p.left)]
	n := len(b)
	if p.err == nil {
		n, p.err = p.r.Read(b)
		if n > 0 && p.err == io.EOF && int64(n) == p.left {
			p.err = nil
		}
	} else {
		clear(b)
	}
	p.left -= int64(n)
	return n, nil
}
