package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// record is a live build as it was read.
type record struct {
	*build.Build
	version int32
}

// live reads the record of a build that is not finished. Errors: ErrNoBuild.
func (r *Repo) live(ctx context.Context, id string, n ticket.Number) (*record, error) {
	path := buildPath(id, n)
	data, st, err := r.conn.Get(ctx, path)
	if errors.Is(err, coord.ErrNoNode) {
		return nil, ErrNoBuild
	}
	if err != nil {
		return nil, err
	}
	rec := &record{&build.Build{JobID: id, Number: n}, st.Version}
	if s, ok := r.parsed.get(path, data); ok {
		rec.State = s
		return rec, nil
	}
	if err := json.Unmarshal(data, &rec.State); err != nil {
		return nil, fault.Errorf(fault.Internal, "repo: record of %s #%d: %w", id, n, err)
	}
	r.parsed.put(path, data, rec, time.Time{})
	return rec, nil
}

// written is the record as this process itself has just written it; nil if it
// has not, or a while ago. It may have been changed since, which its version
// tells.
func (r *Repo) written(id string, n ticket.Number) *record {
	return r.parsed.recent(buildPath(id, n), &build.Build{JobID: id, Number: n})
}

// wrote notes that op, rec's set, was carried out.
func (r *Repo) wrote(op coord.Op, rec *record) {
	r.parsed.put(op.Path, op.Data, &record{rec.Build, op.Version + 1}, time.Now())
}

// set is the operation that replaces the record as it was read.
func (rec *record) set() (coord.Op, error) {
	data, err := encodeState(&rec.State)
	return coord.Set(buildPath(rec.JobID, rec.Number), data, rec.version), err
}

func encodeState(s *build.State) ([]byte, error) {
	data, err := json.Marshal(s)
	if err == nil && len(data) > maxRecord {
		err = fault.Errorf(fault.Config, "the build's record would be %d bytes, at most %d are possible: the job has too many or too large steps", len(data), maxRecord)
	}
	return data, err
}

// parsed remembers what the texts of a few records mean. A worker that goes on
// with a build reads what it has written itself, step after step; whether it
// is that, the text tells.
type parsed struct {
	mu      sync.Mutex
	entries map[string]entry
}

type entry struct {
	data    []byte
	state   build.State
	version int32
	written time.Time // by this process; zero: it was read
}

// maxParsed bounds the number of records that are remembered.
const maxParsed = 16

func (p *parsed) get(path string, data []byte) (build.State, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.entries[path]
	if !ok || !bytes.Equal(e.data, data) {
		return build.State{}, false
	}
	return e.state.Clone(), true
}

// maxRecent is how long a record counts as just written. After that, others
// may well have changed it.
const maxRecent = time.Second

func (p *parsed) recent(path string, b *build.Build) *record {
	p.mu.Lock()
	defer p.mu.Unlock()
	e, ok := p.entries[path]
	if !ok || time.Since(e.written) > maxRecent {
		return nil
	}
	b.State = e.state.Clone()
	return &record{b, e.version}
}

func (p *parsed) put(path string, data []byte, rec *record, written time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.entries == nil {
		p.entries = map[string]entry{}
	}
	if len(p.entries) >= maxParsed {
		for other := range p.entries {
			delete(p.entries, other)
			break
		}
	}
	p.entries[path] = entry{data, rec.State.Clone(), rec.version, written}
}
