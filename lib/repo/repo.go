// Package repo is the shared repository of a cluster: jobs, builds, logs and
// artefacts. What is live and small is in the coordination service, what lasts
// is in the store; this package knows what is where.
//
// In the coordination service:
//
//	/format              the number of this form, see format.go
//	/members/<uuid>      a worker or a frontend, see package member
//	/jobs/<job>          the number of the job's last build
//	/builds/<job>:<n>    the record of a build that is not finished
//	/keys/<day>/<xx>/<…> what was begun with an idempotency key, see keys.go
//
// In the store, where a build number has 16 digits and a step's key 4:
//
//	jobs/<job>                          configuration
//	tags/<job>/<tag>                    the number of a build
//	builds/<job>/<n>/state              the record of a finished build
//	builds/<job>/<n>/log/<step>.<attempt>
//	builds/<job>/<n>/log/<step>.<attempt>.index  see logindex.go
//	builds/<job>/<n>/artifacts/<id>     the bytes
//	builds/<job>/<n>/artifacts/<id>.json  size, SHA-256, time
//	builds/<job>/<n>/manifest/<step>    what the step published
//	layers/sha256/<hex>                 workspace layers
package repo

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// Errors of kind Unavailable.
var (
	ErrNoJob      = fault.Errorf(fault.Unavailable, "no such job")
	ErrNoBuild    = fault.Errorf(fault.Unavailable, "no such build")
	ErrNoArtifact = fault.Errorf(fault.Unavailable, "no such artifact")
	ErrNoTag      = fault.Errorf(fault.Unavailable, "no such tag")
)

// Repo is the repository of one cluster. It may be used by several goroutines.
type Repo struct {
	conn     coord.Conn
	queue    *queue.Queue
	store    store.Store
	parsed   parsed
	tails    tails
	feeds    feeds
	watchers watchers
}

const (
	jobsRoot   = "/jobs"
	buildsRoot = "/builds"
	keysRoot   = "/keys"
)

// maxRecord bounds the record of a live build, in bytes of JSON: it shares a
// transaction with the tickets that are posted.
const maxRecord = 512 << 10

// Open returns the repository over conn and st. A coordination whose data are
// not ours, or of a format that this program does not know, is an error of kind
// Config, and is left as it was.
func Open(ctx context.Context, conn coord.Conn, st store.Store, o queue.Options) (*Repo, error) {
	if err := checkFormat(ctx, conn); err != nil {
		return nil, err
	}
	q, err := queue.New(ctx, conn, o)
	if err != nil {
		return nil, err
	}
	for _, p := range []string{jobsRoot, buildsRoot, keysRoot} {
		if err := coord.EnsurePath(ctx, conn, p); err != nil {
			return nil, err
		}
	}
	return &Repo{conn: conn, queue: q, store: st}, nil
}

// Reachable tells whether the coordination service answers. While it does not,
// nothing can be said of the cluster but that; the connection tells its
// operator, and comes back by itself.
func (r *Repo) Reachable() bool {
	s := r.conn.Session()
	return s.ID != 0 && time.Now().Before(s.SafeUntil())
}

// Queue is the cluster's queue of tickets.
func (r *Repo) Queue() *queue.Queue { return r.queue }

// Store is the cluster's store.
func (r *Repo) Store() store.Store { return r.store }

var (
	// Their lengths are checked by hand: counted repetitions would cost every
	// program a millisecond at its start.
	jobID = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)
	tagID = regexp.MustCompile(`^[a-zA-Z0-9_-][a-zA-Z0-9._-]*$`)
)

// ValidJob tells whether s can be a job's id.
func ValidJob(s string) bool { return len(s) <= 256 && jobID.MatchString(s) }

// ValidTag tells whether s can be a tag.
func ValidTag(s string) bool { return len(s) <= 128 && tagID.MatchString(s) }

func jobPath(job string) string { return jobsRoot + "/" + job }
func buildPath(job string, n ticket.Number) string {
	return fmt.Sprintf("%s/%s:%d", buildsRoot, job, n)
}

func jobKey(job string) string { return "jobs/" + pad(job) }

// pad keeps a job's id within a store's key: ids of more than 255 bytes get
// one more part.
func pad(job string) string {
	if len(job) > 255 {
		return job[:255] + "/" + job[255:]
	}
	return job
}

func jobPrefix(job string) string { return "builds/" + pad(job) + "/" }

func buildPrefix(job string, n ticket.Number) string {
	return fmt.Sprintf("%s%016d/", jobPrefix(job), n)
}

// stepKey is a step's key as a part of a store's key.
func stepKey(step string) string {
	if n, err := strconv.Atoi(step); err == nil {
		return fmt.Sprintf("%04d", n)
	}
	return step
}

func logKey(job string, n ticket.Number, step string, attempt int) string {
	return fmt.Sprintf("%slog/%s.%s", buildPrefix(job, n), stepKey(step), attemptName(attempt))
}

// deleteAll removes every object whose key begins with prefix.
func (r *Repo) deleteAll(ctx context.Context, prefix string) error {
	for {
		infos, err := r.store.List(ctx, prefix, "", 0)
		if err != nil || len(infos) == 0 {
			return err
		}
		for _, i := range infos {
			if err := r.store.Delete(ctx, i.Key); err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
	}
}
