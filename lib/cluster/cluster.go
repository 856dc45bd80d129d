// Package cluster opens a cluster by its addresses: the coordination, the
// store, and the repository over them.
package cluster

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/coord/zk"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/observe"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/store/rados"
	"github.com/distci/distci/lib/store/s3"
	"github.com/distci/distci/lib/tool"
)

// Cluster is an open cluster.
type Cluster struct {
	Conn  coord.Conn
	Store store.Store
	Repo  *repo.Repo

	history *history
}

// Options of Open.
type Options struct {
	Coord   string        // URL of the coordination: "local:/path", "zk://host:port,host:port/CLUSTER-ID"; default: below tool.StateDir
	Store   string        // URL of the store: "dir:/path", "ceph://POOL?…", "s3://BUCKET/PREFIX?endpoint=…"; default: below tool.StateDir
	Session time.Duration // the session's time-out; default: 10 s
	History string        // file to which the queue's events are appended, one JSON object a line; default: none
	Log     *slog.Logger
	Observe observe.Sink // is told of operations, sessions and tickets; default: nobody
}

// Open opens a cluster. Errors are of kind Config, or what the service says.
func Open(ctx context.Context, o Options) (_ *Cluster, err error) {
	if o.Session == 0 {
		o.Session = 10 * time.Second
	}
	c := &Cluster{}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	var queueOptions queue.Options
	if o.History != "" {
		if c.history, err = openHistory(o.History, o.Log); err != nil {
			return nil, err
		}
		queueOptions.Trace = c.history.add
	}
	if o.Observe != nil {
		queueOptions.Trace = both(queueOptions.Trace, func(e queue.Event) { o.Observe.Tell(observe.Event{Ticket: &e}) })
	}
	if c.Store, err = openStore(ctx, o.Store); err != nil {
		return nil, err
	}
	if c.Conn, err = openCoord(ctx, o.Coord, o.Session, o.Log); err != nil {
		return nil, err
	}
	if o.Observe != nil {
		c.Store, c.Conn = observe.WrapStore(c.Store, o.Observe), observe.WrapConn(c.Conn, o.Observe)
	}
	c.Repo, err = repo.Open(ctx, c.Conn, c.Store, queueOptions)
	return c, err
}

// both calls two functions; the first may be nil.
func both(a, b func(queue.Event)) func(queue.Event) {
	if a == nil {
		return b
	}
	return func(e queue.Event) {
		a(e)
		b(e)
	}
}

func openCoord(ctx context.Context, url string, session time.Duration, log *slog.Logger) (coord.Conn, error) {
	if url == "" {
		url = "local:" + filepath.Join(tool.StateDir(), "coord.db")
	}
	scheme, path, _ := strings.Cut(url, ":")
	switch {
	case scheme == "local" && path != "":
		return local.Open(ctx, path, local.Options{SessionTimeout: session, Logger: log})
	case scheme == "zk":
		addr, err := zk.ParseAddress(url)
		if err != nil {
			return nil, err
		}
		return zk.Open(ctx, addr, zk.Options{SessionTimeout: session, Logger: log})
	}
	return nil, fault.Errorf(fault.Config, "coordination %q: expected local:/path or zk://host:port,host:port/CLUSTER-ID", url)
}

func openStore(ctx context.Context, url string) (store.Store, error) {
	if url == "" {
		url = "dir:" + filepath.Join(tool.StateDir(), "store")
	}
	scheme, path, _ := strings.Cut(url, ":")
	switch {
	case scheme == "dir" && path != "":
		return dir.Open(path)
	case scheme == "ceph":
		if _, err := rados.ParseAddress(url); err == nil && !rados.Available {
			if err := becomeCeph(); err != nil {
				return nil, err
			}
		}
		return rados.Open(url)
	case scheme == "s3":
		return s3.Open(ctx, url)
	}
	// The rest is not repeated: it may hold what somebody took for the place of a secret.
	return nil, fault.Errorf(fault.Config, "store %q: expected dir:/path, ceph://POOL or s3://BUCKET/PREFIX?endpoint=https://host:port", scheme+":…")
}

// Close ends the connections.
func (c *Cluster) Close() error {
	var errs []error
	if c.Conn != nil {
		errs = append(errs, c.Conn.Close())
	}
	if c.Store != nil {
		errs = append(errs, c.Store.Close())
	}
	if c.history != nil {
		errs = append(errs, c.history.file.Close())
	}
	return errors.Join(errs...)
}
