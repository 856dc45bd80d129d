// Package fsck checks what the store of a cluster holds: that everything that
// a record refers to is there, and is what it was.
//
// It only reads, and runs beside builds and the collection of garbage: what it
// misses is a fault only if, looked at once more, the build that refers to it
// is still there. It holds the names of one build's objects at a time.
package fsck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/ticket"
)

// Options of Run.
type Options struct {
	Quick    bool        // references and sizes only: the contents are not read
	Parallel int         // objects that are read at the same time; default 4
	Tell     func(Fault) // called for each fault, by one goroutine at a time
}

// Fault is a thing that is wrong.
type Fault struct {
	JobID  string        `json:"job_id,omitempty"`
	Number ticket.Number `json:"build_number,omitempty"`
	Object string        `json:"object"` // its key in the store, or its path in the coordination
	What   string        `json:"what"`
	Do     string        `json:"do"`
}

// String is the fault as a line for people.
func (f Fault) String() string {
	where := ""
	if f.JobID != "" {
		where = f.JobID
		if f.Number != 0 {
			where += " #" + f.Number.String()
		}
		where += ": "
	}
	return fmt.Sprintf("%s%s: %s: %s", where, f.Object, f.What, f.Do)
}

// Report is what was checked.
type Report struct {
	Jobs       int   `json:"jobs"`
	Builds     int   `json:"builds"`
	Unfinished int   `json:"unfinished"` // builds that run, or that gc removes
	Artifacts  int   `json:"artifacts"`
	Layers     int   `json:"layers"`
	Logs       int   `json:"logs"` // those with a seal to compare them with
	Read       int64 `json:"bytes_read"`
	Faults     int   `json:"faults"`
}

// What is to be done about a fault.
const (
	restore   = "restore the build from a backup with distci-buildctl import --overwrite, or delete it over REST"
	rerun     = "restore it from a backup with distci-buildctl import --overwrite, or delete the workspace over REST"
	removeJob = "set the job again, or let distci-buildctl gc remove its builds"
	deleteTag = "delete the tag over REST"
	setJob    = "set the job again"
	raise     = "this is not the coordination of this store, or a new one; a new one learns it from the next build"
)

// checker is one run.
type checker struct {
	Options
	repo  *repo.Repo
	store store.Store

	mu     sync.Mutex
	report Report
	seen   map[[8]byte]bool // layers that are known to be there
}

// maxSeen bounds the memory of layers that are known to be there.
const maxSeen = 1 << 20

// Run checks everything. Faults are no error.
func Run(ctx context.Context, r *repo.Repo, o Options) (Report, error) {
	if o.Parallel == 0 {
		o.Parallel = 4
	}
	c := &checker{Options: o, repo: r, store: r.Store(), seen: map[[8]byte]bool{}}
	err := c.run(ctx)
	if err != nil {
		err = fmt.Errorf("fsck: %w", err)
	}
	return c.report, err
}

func (c *checker) run(ctx context.Context) error {
	if err := c.jobs(ctx); err != nil {
		return err
	}
	if err := c.repo.StoredJobs(ctx, func(id string) error { return c.job(ctx, id) }); err != nil {
		return err
	}
	if err := c.live(ctx); err != nil {
		return err
	}
	return c.layers(ctx)
}

// tell notes a fault.
func (c *checker) tell(f Fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Faults++
	if c.Tell != nil {
		c.Tell(f)
	}
}

// jobs checks the configurations.
func (c *checker) jobs(ctx context.Context) error {
	for after := ""; ; {
		ids, err := c.repo.Jobs(ctx, after, 1000)
		if err != nil {
			return err
		}
		for _, id := range ids {
			after = id
			config, err := c.repo.Job(ctx, id)
			if errors.Is(err, repo.ErrNoJob) {
				continue
			}
			if err != nil {
				return err
			}
			c.report.Jobs++
			j, err := job.Parse(config)
			if err == nil && j.ID != id {
				err = fault.Errorf(fault.Config, "it is the one of job %q", j.ID)
			}
			if err != nil {
				c.tell(Fault{JobID: id, Object: repo.JobKey(id), What: err.Error(), Do: setJob})
			}
		}
		if len(ids) < 1000 {
			return nil
		}
	}
}

// job checks the builds of a job that the store has some of.
func (c *checker) job(ctx context.Context, id string) error {
	if _, err := c.repo.Job(ctx, id); errors.Is(err, repo.ErrNoJob) {
		c.tell(Fault{JobID: id, Object: repo.JobKey(id), What: "there are builds, but no job", Do: removeJob})
	} else if err != nil {
		return err
	}
	var highest ticket.Number
	group, checking := errgroup.WithContext(ctx)
	group.SetLimit(c.Parallel)
	err := c.repo.StoredBuilds(checking, id, func(s repo.Stored) error {
		highest = s.Number
		group.Go(func() error { return c.build(checking, s) })
		return checking.Err()
	})
	if e := group.Wait(); e != nil {
		return e
	}
	if err != nil {
		return err
	}
	if last, err := c.repo.LastNumber(ctx, id); err != nil {
		return err
	} else if last < highest {
		c.tell(Fault{JobID: id, Object: "/jobs/" + id, What: fmt.Sprintf("the coordination has counted to %d, the store has build %d", last, highest), Do: raise})
	}
	tags, err := c.repo.TaggedBuilds(ctx, id)
	if err != nil {
		return err
	}
	for n, tag := range tags {
		if gone, err := c.repo.Gone(ctx, id, n); err != nil {
			return err
		} else if gone {
			c.tell(Fault{JobID: id, Number: n, Object: repo.TagKey(id, tag), What: "it names a build that does not exist", Do: deleteTag})
		}
	}
	return nil
}

// live checks what the builds that are not finished refer to.
func (c *checker) live(ctx context.Context) error {
	var digests []string
	if err := c.repo.LiveLayers(ctx, func(d string) { digests = append(digests, d) }); err != nil {
		return err
	}
	for _, d := range digests {
		missing, err := c.missing(ctx, d)
		if err != nil {
			return err
		}
		if !missing {
			continue
		}
		again := false // whoever referred to it may have ended meanwhile
		if err := c.repo.LiveLayers(ctx, func(now string) { again = again || now == d }); err != nil {
			return err
		}
		if again {
			c.tell(Fault{Object: layerKey(d), What: "a build that runs needs this layer, which is not there", Do: "cancel the builds that wait for it"})
		}
	}
	return nil
}

// layers checks the contents of all layers.
func (c *checker) layers(ctx context.Context) error {
	group, reading := errgroup.WithContext(ctx)
	group.SetLimit(c.Parallel)
	err := func() error {
		for after := ""; ; {
			infos, err := c.store.List(reading, repo.LayersPrefix, after, 1000)
			if err != nil {
				return err
			}
			for _, i := range infos {
				after = i.Key
				c.report.Layers++
				if c.Quick {
					continue
				}
				group.Go(func() error { return c.layer(reading, i.Key) })
			}
			if len(infos) < 1000 {
				return nil
			}
		}
	}()
	if e := group.Wait(); e != nil {
		return e
	}
	return err
}

func (c *checker) layer(ctx context.Context, key string) error {
	digest, size, err := c.digest(ctx, key)
	if errors.Is(err, store.ErrNotFound) || err == nil && size == 0 { // it is being removed
		return nil
	}
	if err != nil {
		return err
	}
	if digest != path.Base(key) {
		c.tell(Fault{Object: key, What: fmt.Sprintf("the layer is damaged: its %d bytes have the digest %s", size, digest), Do: rerun})
	}
	return nil
}

// digest reads an object.
func (c *checker) digest(ctx context.Context, key string) (digest string, size int64, err error) {
	rd, _, err := c.store.Get(ctx, key, 0, -1)
	if err != nil {
		return "", 0, err
	}
	defer rd.Close()
	sum := sha256.New()
	size, err = io.Copy(sum, rd)
	c.mu.Lock()
	c.report.Read += size
	c.mu.Unlock()
	return hex.EncodeToString(sum.Sum(nil)), size, err
}
