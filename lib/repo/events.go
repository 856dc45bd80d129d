package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/ticket"
)

// Whoever wants to know what becomes of builds is told by a watcher, of which
// this process has one for each build that somebody looks at and one for all
// builds together, however many look. It watches the builds' records and the
// claims of their tickets, and reads only what has changed.
//
// Nothing is kept of what was: who begins to look is told how things are, and
// from then on what changes. Changes that follow each other closely may be told
// as one.

// The kinds of Change.
const (
	ChangeBuild = "build"
	ChangeStep  = "step"
)

// Change tells how a build or one of its steps is now.
type Change struct {
	Kind   string
	JobID  string
	Number ticket.Number
	Step   string // of a step
	Over   bool   // of a build: nothing more will come of it
	Data   []byte // a JSON object: a BuildChange or a StepChange
	Tag    string // of the build's last change for now: stands for how the whole build is
}

// BuildChange is the data of a build's Change.
type BuildChange struct {
	JobID    string       `json:"job_id"`
	Number   int64        `json:"build_number"`
	Status   string       `json:"status"` // as in the record, or "deleted"
	Result   string       `json:"result,omitempty"`
	Error    string       `json:"error,omitempty"`
	Canceled string       `json:"canceled,omitempty"`
	Cause    *build.Cause `json:"cause,omitempty"`
	Created  *time.Time   `json:"created,omitempty"`
	Ended    *time.Time   `json:"ended,omitempty"`
}

// StepChange is the data of a step's Change.
type StepChange struct {
	JobID    string     `json:"job_id"`
	Number   int64      `json:"build_number"`
	Step     string     `json:"step"`
	Name     string     `json:"name,omitempty"`
	Type     string     `json:"type"`
	Status   string     `json:"status"`
	Result   string     `json:"result,omitempty"`
	Error    string     `json:"error,omitempty"`
	Attempt  int        `json:"attempt,omitempty"`
	Assignee string     `json:"assignee,omitempty"`
	Started  *time.Time `json:"started,omitempty"`
	Ended    *time.Time `json:"ended,omitempty"`
}

// StatusDeleted is the status of a build that is not there any more.
const StatusDeleted = "deleted"

// WatchBuildChanges calls f with how a build and its steps are, and then with
// what changes, until the build is over, which is no error, or ctx is done, or
// f fails. Errors: ErrNoBuild.
func (r *Repo) WatchBuildChanges(ctx context.Context, job string, n ticket.Number, f func([]Change) error) error {
	if _, err := r.record(ctx, job, n); err != nil {
		return err
	}
	return r.watchers.follow(ctx, r, buildName(job, n), f)
}

// WatchAllChanges is the same for all builds that are not finished, and for
// those that begin. It has no end of its own.
func (r *Repo) WatchAllChanges(ctx context.Context, f func([]Change) error) error {
	return r.watchers.follow(ctx, r, "", f)
}

// buildName names a build as the folder of live builds does.
func buildName(job string, n ticket.Number) string {
	return strings.TrimPrefix(buildPath(job, n), buildsRoot+"/")
}

func parseBuildName(name string) (job string, n ticket.Number, ok bool) {
	job, s, ok := strings.Cut(name, ":")
	k, err := strconv.ParseInt(s, 10, 64)
	return job, ticket.Number(k), ok && err == nil
}

// shape is how a build was when it was last looked at.
type shape struct {
	changes []Change // the build's own first, then the steps' in order
	tag     string
	tickets []string // that are posted and not complete
	over    bool
}

// shapeOf reads how a live or finished build is.
func (r *Repo) shapeOf(ctx context.Context, job string, n ticket.Number) (*shape, error) {
	b, err := r.record(ctx, job, n)
	if errors.Is(err, ErrNoBuild) {
		s := &shape{over: true}
		return s, s.add(Change{Kind: ChangeBuild, JobID: job, Number: n, Over: true}, BuildChange{JobID: job, Number: int64(n), Status: StatusDeleted})
	}
	if err != nil {
		return nil, err
	}
	st := &b.State
	s := &shape{over: st.Status == build.Complete}
	if err := s.add(Change{Kind: ChangeBuild, JobID: job, Number: n, Over: s.over}, BuildChange{
		JobID: job, Number: int64(n), Status: st.Status, Result: st.Result, Error: st.Error, Canceled: st.Canceled, Cause: st.Cause, Created: st.Created, Ended: st.Ended,
	}); err != nil {
		return nil, err
	}
	for _, key := range st.Keys() {
		t := st.Tasks[key]
		if t.ID != "" && t.Status != ticket.Complete && !s.over {
			s.tickets = append(s.tickets, t.ID)
			if now, _, err := r.queue.Get(ctx, t.ID); err == nil {
				t = now
			} else if !errors.Is(err, queue.ErrNotFound) {
				return nil, err
			}
		}
		if err := s.add(Change{Kind: ChangeStep, JobID: job, Number: n, Step: key}, StepChange{
			JobID: job, Number: int64(n), Step: key, Name: t.Name, Type: t.Type, Status: t.Status, Result: t.Result, Error: t.Error,
			Attempt: t.Attempt, Assignee: t.Assignee, Started: t.Started, Ended: t.Ended,
		}); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *shape) add(c Change, data any) (err error) {
	if c.Data, err = json.Marshal(data); err != nil {
		return err
	}
	s.changes = append(s.changes, c)
	sum := sha256.Sum256(append([]byte(s.tag), c.Data...))
	s.tag = hex.EncodeToString(sum[:8])
	return nil
}

// since lists what differs from before, which may be nil. What becomes of the
// steps is told before that the build is over, and after that it has begun.
func (s *shape) since(before *shape) []Change {
	old := map[string][]byte{}
	if before != nil {
		for _, c := range before.changes {
			old[c.Step] = c.Data
		}
	}
	var changes []Change
	for _, c := range s.changes {
		if !bytes.Equal(old[c.Step], c.Data) {
			changes = append(changes, c)
		}
	}
	if s.over && len(changes) > 1 && changes[0].Kind == ChangeBuild {
		changes = append(changes[1:], changes[0])
	}
	if len(changes) > 0 {
		changes[len(changes)-1].Tag = s.tag
	}
	return changes
}
