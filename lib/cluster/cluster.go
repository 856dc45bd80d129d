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
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/tool"
)

// Cluster is an open cluster.
type Cluster struct {
	Conn  coord.Conn
	Store store.Store
	Repo  *repo.Repo
}

// Open opens the cluster whose coordination and store have these URLs:
// "local:/path" and "dir:/path". An empty one stands for the default below
// tool.StateDir. Session is the session's time-out. Errors are of kind Config,
// or what the service says.
func Open(ctx context.Context, coordURL, storeURL string, session time.Duration, log *slog.Logger) (*Cluster, error) {
	conn, err := openCoord(ctx, coordURL, session, log)
	if err != nil {
		return nil, err
	}
	c := &Cluster{Conn: conn}
	if c.Store, err = openStore(storeURL); err != nil {
		conn.Close()
		return nil, err
	}
	if c.Repo, err = repo.Open(ctx, c.Conn, c.Store); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func openCoord(ctx context.Context, url string, session time.Duration, log *slog.Logger) (coord.Conn, error) {
	if url == "" {
		url = "local:" + filepath.Join(tool.StateDir(), "coord.db")
	}
	scheme, path, _ := strings.Cut(url, ":")
	if scheme != "local" || path == "" {
		return nil, fault.Errorf(fault.Config, "coordination %q: expected local:/path", url)
	}
	return local.Open(ctx, path, local.Options{SessionTimeout: session, Logger: log})
}

func openStore(url string) (store.Store, error) {
	if url == "" {
		url = "dir:" + filepath.Join(tool.StateDir(), "store")
	}
	scheme, path, _ := strings.Cut(url, ":")
	if scheme != "dir" || path == "" {
		return nil, fault.Errorf(fault.Config, "store %q: expected dir:/path", url)
	}
	return dir.Open(path)
}

// Close ends the connections.
func (c *Cluster) Close() error { return errors.Join(c.Conn.Close(), c.Store.Close()) }
