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
	"hash"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// ImportOptions of Import.
type ImportOptions struct {
	Jobs []string // patterns as of path.Match; none: all jobs
	// Overwrite replaces jobs, builds and tags that are there and different, and
	// compares the contents of everything that is there, to mend what is damaged.
	Overwrite bool
}

// maxState bounds what of an archive is held in memory.
const maxState = 64 << 20

// Import brings in what an archive has. What is there already and equal is
// left alone, so that an import that was interrupted goes on when it is
// repeated. What is there and different is a problem in the report. A build
// appears when all of it is in the store. Jobs count on behind the highest
// number that was brought in.
//
// Only one import or collection of garbage is at work at a time.
func Import(ctx context.Context, r *repo.Repo, from io.Reader, o ImportOptions) (Report, error) {
	if err := checkPatterns(o.Jobs); err != nil {
		return Report{}, err
	}
	lock, err := r.Exclusive(ctx, "import")
	if err != nil {
		return Report{}, fmt.Errorf("import: %w", err)
	}
	defer lock.Release(context.WithoutCancel(ctx))
	z, err := zstd.NewReader(from, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(1<<30))
	if err != nil {
		return Report{}, fault.Errorf(fault.BadTicket, "import: %w", err)
	}
	defer z.Close()
	m := &importer{ImportOptions: o, repo: r, store: r.Store(), lock: lock, tar: tar.NewReader(z)}
	err = m.run(ctx)
	if err == nil {
		// The check sum of the whole is behind the last entry.
		if _, e := io.Copy(io.Discard, z); e != nil {
			err = bad("%w", e)
		}
	}
	if err != nil {
		return m.report, fmt.Errorf("import: %w", err)
	}
	return m.report, nil
}

type importer struct {
	ImportOptions
	repo   *repo.Repo
	store  store.Store
	lock   *repo.Exclusive
	tar    *tar.Reader
	build  *incoming // that is being brought in
	report Report
}

// incoming is a build between its record and its end.
type incoming struct {
	job     string
	number  ticket.Number
	state   []byte
	objects int      // seen, with the record
	skip    bool     // it is there already, or not to be brought in
	mend    bool     // it is there and equal, and its objects are compared
	failed  string   // why it cannot be brought in
	put     []string // keys that were written
}

func bad(format string, args ...any) error {
	return fault.Errorf(fault.BadTicket, "the archive is damaged, or none: "+format, args...)
}

func (m *importer) run(ctx context.Context) error {
	h, err := m.next()
	if err != nil {
		return err
	}
	var first head
	if h == nil || h.Name != headName {
		return bad("it does not begin with %s", headName)
	}
	if err := m.object(h, &first); err != nil {
		return err
	}
	if first.Format != formatNumber {
		return fault.Errorf(fault.Config, "the archive has format %d, made by %.100q; this program knows format %d: use a newer one", first.Format, first.By, formatNumber)
	}
	for {
		h, err := m.next()
		if err != nil {
			return err
		}
		if h == nil {
			return bad("it ends early; what was whole in it has been brought in")
		}
		if h.Name == tailName {
			_, err := m.read(h)
			return err
		}
		if err := m.lock.Held(); err != nil {
			return err
		}
		if err := m.entry(ctx, h); err != nil {
			return err
		}
	}
}

// next reads an entry's header; nil at the end.
func (m *importer) next() (*tar.Header, error) {
	h, err := m.tar.Next()
	if err == io.EOF {
		return nil, nil
	}
	if err != nil {
		return nil, bad("%w", err)
	}
	if len(h.PAXRecords[digestRecord]) != 2*sha256.Size || h.Typeflag != tar.TypeReg || store.CheckKey(h.Name) != nil {
		return nil, bad("entry %.200q is not one of ours", h.Name)
	}
	return h, nil
}

// read reads an entry that is held in memory.
func (m *importer) read(h *tar.Header) ([]byte, error) {
	if h.Size > maxState {
		return nil, bad("entry %s has %d bytes", h.Name, h.Size)
	}
	data, err := io.ReadAll(m.reader(h))
	if err != nil {
		return nil, bad("entry %s: %w", h.Name, err)
	}
	return data, nil
}

func (m *importer) object(h *tar.Header, v any) error {
	data, err := m.read(h)
	if err == nil && json.Unmarshal(data, v) != nil {
		err = bad("entry %s: %.100q", h.Name, data)
	}
	return err
}

// reader reads an entry, and fails at its end if it is not what its header
// says.
func (m *importer) reader(h *tar.Header) io.Reader {
	return &verified{r: m.tar, sum: sha256.New(), want: h.PAXRecords[digestRecord]}
}

type verified struct {
	r    io.Reader
	sum  hash.Hash
	want string
}

// errDigest: an entry is not what its header says.
var errDigest = fault.Errorf(fault.BadTicket, "its contents do not have their SHA-256")

func (v *verified) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.sum.Write(p[:n])
	if err == io.EOF && hex.EncodeToString(v.sum.Sum(nil)) != v.want {
		err = errDigest
	}
	return n, err
}

func (m *importer) entry(ctx context.Context, h *tar.Header) error {
	if job, ok := repo.ParseJobKey(h.Name); ok {
		return m.job(ctx, h, job)
	}
	if job, tag, ok := repo.ParseTagKey(h.Name); ok {
		return m.tag(ctx, h, job, tag)
	}
	if rest, ok := strings.CutPrefix(h.Name, "ends/"); ok {
		job, n, _, ok := repo.ParseKey("builds/" + rest + "/end")
		if !ok || m.build == nil || m.build.job != job || m.build.number != n {
			return bad("entry %s is out of place", h.Name)
		}
		return m.end(ctx, h)
	}
	if digits, ok := strings.CutPrefix(h.Name, repo.LayersPrefix+"sha256/"); ok {
		if digits != h.PAXRecords[digestRecord] {
			return bad("entry %s is not the layer of its name", h.Name)
		}
		return m.layer(ctx, h)
	}
	job, n, name, ok := repo.ParseKey(h.Name)
	switch {
	case !ok:
		return bad("entry %s is not one of ours", h.Name)
	case name == repo.NameState:
		return m.begin(ctx, h, job, n)
	case m.build == nil || m.build.job != job || m.build.number != n:
		return bad("entry %s is out of place", h.Name)
	}
	return m.content(ctx, h)
}

func (m *importer) job(ctx context.Context, h *tar.Header, id string) error {
	config, err := m.read(h)
	if err != nil || !chosen(m.Jobs, id) {
		return err
	}
	there, err := m.repo.Job(ctx, id)
	if err != nil && !errors.Is(err, repo.ErrNoJob) {
		return err
	}
	if err == nil && bytes.Equal(there, config) {
		return nil
	}
	if err == nil && !m.Overwrite {
		m.report.problem("job %s is there and different: it is left as it is without --overwrite", id)
		return nil
	}
	if err := m.repo.PutJob(ctx, id, config); fault.Of(err) == fault.Config {
		m.report.problem("job %s: %v", id, err)
		return nil
	} else if err != nil {
		return err
	}
	m.report.Jobs++
	return nil
}

func (m *importer) tag(ctx context.Context, h *tar.Header, job, tag string) error {
	data, err := m.read(h)
	if err != nil || !chosen(m.Jobs, job) {
		return err
	}
	n, err := strconv.ParseInt(string(data), 10, 64)
	if err != nil {
		return bad("entry %s: %.100q", h.Name, data)
	}
	now, err := m.repo.Tag(ctx, job, tag)
	switch {
	case err != nil && !errors.Is(err, repo.ErrNoTag):
		return err
	case err == nil && now == ticket.Number(n):
		return nil
	case err == nil && !m.Overwrite:
		m.report.problem("tag %s of job %s names build %d there, and not %d: it is left as it is without --overwrite", tag, job, now, n)
		return nil
	}
	if err := m.repo.PutTag(ctx, job, tag, ticket.Number(n)); errors.Is(err, repo.ErrNoBuild) {
		return nil // the build is a problem already
	} else if err != nil {
		return err
	}
	return nil
}

// layer brings in a layer, unless it is there.
func (m *importer) layer(ctx context.Context, h *tar.Header) error {
	there, err := m.store.Stat(ctx, h.Name)
	if err == nil && there.Size == h.Size {
		same := true
		if m.Overwrite {
			if same, err = m.same(ctx, h); err != nil {
				return err
			}
		}
		if same {
			return nil
		}
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	// Whoever saves the same layer at the same time has the same bytes.
	if _, err = m.store.Put(ctx, h.Name, m.reader(h)); errors.Is(err, errDigest) {
		m.report.problem("%s is damaged in the archive", h.Name)
		return nil
	}
	if err != nil {
		return err
	}
	m.report.Layers++
	m.wrote(h)
	return nil
}

func (m *importer) wrote(h *tar.Header) {
	m.report.Objects++
	m.report.Bytes += h.Size
}

// same tells whether the store's object has the contents of the entry.
func (m *importer) same(ctx context.Context, h *tar.Header) (bool, error) {
	rd, info, err := m.store.Get(ctx, h.Name, 0, -1)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer rd.Close()
	if info.Size != h.Size {
		return false, nil
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, rd); err != nil {
		return false, err
	}
	return hex.EncodeToString(sum.Sum(nil)) == h.PAXRecords[digestRecord], nil
}

// begin decides what becomes of a build.
func (m *importer) begin(ctx context.Context, h *tar.Header, job string, n ticket.Number) error {
	state, err := m.read(h)
	if err != nil {
		return err
	}
	if m.build != nil {
		return bad("%s #%d has no end", m.build.job, m.build.number)
	}
	m.build = &incoming{job: job, number: n, state: state, objects: 1}
	var s build.State
	if err := json.Unmarshal(state, &s); err != nil || s.Status != build.Complete {
		return bad("entry %s is not the record of a finished build", h.Name)
	}
	if !chosen(m.Jobs, job) {
		m.build.skip = true
		return nil
	}
	if _, err := m.repo.Job(ctx, job); errors.Is(err, repo.ErrNoJob) {
		m.build.skip = true
		m.report.problem("%s #%d is left out: there is no such job", job, n)
		return nil
	} else if err != nil {
		return err
	}
	// The number first: after that nobody begins a build with it.
	if err := m.repo.RaiseNumber(ctx, job, n); err != nil {
		return err
	}
	live, err := m.repo.Live(ctx, job, n)
	if err != nil {
		return err
	}
	if live {
		m.build.skip = true
		m.report.problem("%s #%d is there and runs: it is left out", job, n)
		return nil
	}
	there, _, err := store.ReadAll(ctx, m.store, h.Name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil
	case err != nil:
		return err
	case bytes.Equal(there, state):
		m.build.mend, m.build.skip = m.Overwrite, !m.Overwrite
		m.report.Equal++
		return nil
	case !m.Overwrite:
		m.build.skip = true
		m.report.problem("%s #%d is there and different: it is left as it is without --overwrite", job, n)
		return nil
	}
	// From here on there is no such build, until all of the other one is there.
	if err := m.store.Delete(ctx, h.Name); err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	return m.clear(ctx, repo.BuildPrefix(job, n))
}

// clear removes all objects whose keys begin with prefix.
func (m *importer) clear(ctx context.Context, prefix string) error {
	for {
		infos, err := m.store.List(ctx, prefix, "", 1000)
		if err != nil || len(infos) == 0 {
			return err
		}
		for _, i := range infos {
			if err := m.store.Delete(ctx, i.Key); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
	}
}

// content brings in an object of a build.
func (m *importer) content(ctx context.Context, h *tar.Header) error {
	m.build.objects++
	if m.build.skip || m.build.failed != "" {
		return nil
	}
	there, err := m.store.Stat(ctx, h.Name)
	if err == nil && there.Size == h.Size {
		if same, err := m.same(ctx, h); same || err != nil {
			return err
		}
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	_, err = m.store.Put(ctx, h.Name, m.reader(h))
	if errors.Is(err, errDigest) {
		m.build.failed = h.Name + " is damaged in the archive"
		return nil
	}
	if err != nil {
		return err
	}
	m.build.put = append(m.build.put, h.Name)
	m.wrote(h)
	if strings.Contains(h.Name, "/"+repo.DirArtifacts) && !strings.HasSuffix(h.Name, ".json") {
		m.report.Artifacts++
	}
	return nil
}

// end makes the build appear, if all of it is there.
func (m *importer) end(ctx context.Context, h *tar.Header) error {
	b := m.build
	m.build = nil
	var e end
	if err := m.object(h, &e); err != nil {
		return err
	}
	if b.skip {
		return nil
	}
	switch {
	case !e.Complete:
		b.failed = "it is not whole in the archive: " + e.Error
	case b.failed == "" && e.Objects != b.objects:
		return bad("%s #%d has %d objects of %d", b.job, b.number, b.objects, e.Objects)
	}
	if b.failed != "" {
		m.report.problem("%s #%d is left out: %s", b.job, b.number, b.failed)
		if b.mend {
			return nil
		}
		for _, key := range b.put { // what came before is nobody's
			if err := m.store.Delete(ctx, key); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		return nil
	}
	if b.mend {
		return nil
	}
	if _, err := m.store.Create(ctx, repo.BuildPrefix(b.job, b.number)+repo.NameState, bytes.NewReader(b.state)); err != nil {
		return err
	}
	m.report.Builds++
	m.report.Objects++
	m.report.Bytes += int64(len(b.state))
	return nil
}
