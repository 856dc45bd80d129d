// Package local is the coordination service for one machine: a SQLite file
// that several processes share, without a server.
//
// Every transaction is durable when it returns, and a process that is killed
// leaves all of one or nothing. Beside the file stand SQLite's -wal and -shm
// and a -gate, through which writers take turns and wake those who watch.
//
// Deadlines of sessions are times of the machine's monotonic clock, which all
// processes share and which does not run while the machine is suspended: a
// laptop that wakes up loses no claim. A reboot ends all sessions. The file
// must not be shared by machines, or by containers with own time namespaces.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

// Options of Open.
type Options struct {
	SessionTimeout time.Duration // default: 10 s
	Logger         *slog.Logger  // default: none
}

var errClosed = fmt.Errorf("coord: %w", coord.ErrClosed)

// conn is one connection: one session, its goroutines, and its part of file.
type conn struct {
	file    *file
	gate    *gate
	watcher *watcher
	timeout time.Duration
	log     *slog.Logger

	session atomic.Pointer[coord.Session]
	tend    chan struct{} // wakes the keeper before its time
	wakeAt  atomic.Int64  // when the keeper would wake, on the monotonic clock

	once    sync.Once
	done    chan struct{} // closed by Close
	keepers sync.WaitGroup
}

// Open opens the coordination file and begins a session. It makes the file,
// and its folder, if there is none. A file that is not ours, that is damaged,
// newer than this program, or not writable is an error of kind fault.Config.
func Open(ctx context.Context, path string, opts Options) (coord.Conn, error) {
	if opts.SessionTimeout == 0 {
		opts.SessionTimeout = 10 * time.Second
	}
	if opts.SessionTimeout < 0 {
		return nil, fault.Errorf(fault.Config, "coord: session time-out %v is negative", opts.SessionTimeout)
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, explain(path, err)
	}
	c := &conn{
		timeout: opts.SessionTimeout,
		log:     opts.Logger,
		tend:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
	if err := c.open(ctx, path); err != nil {
		return nil, errors.Join(err, c.free())
	}
	c.watcher = newWatcher(c)
	c.keepers.Go(c.keep)
	c.keepers.Go(c.watcher.run)
	return c, nil
}

func (c *conn) open(ctx context.Context, path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return explain(path, err)
	}
	// A foreign file is refused before anything is made beside it.
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if c.gate, err = openGate(path + "-gate"); err != nil {
			return explain(path, err)
		}
		if err := c.gate.lock(ctx, c.timeout, c.done); err != nil {
			return err
		}
		err = create(path)
		c.gate.unlock()
		if err != nil {
			return explain(path, err)
		}
	}
	var err error
	if c.file, err = openFile(ctx, path); err != nil {
		return err
	}
	if c.gate == nil {
		if c.gate, err = openGate(path + "-gate"); err != nil {
			return explain(path, err)
		}
	}
	return c.enter(ctx)
}

// free closes what Open opened.
func (c *conn) free() error {
	var errs []error
	if c.file != nil {
		errs = append(errs, c.file.close())
	}
	if c.gate != nil {
		errs = append(errs, c.gate.close())
	}
	return errors.Join(errs...)
}

// Session tells the current session.
func (c *conn) Session() coord.Session { return *c.session.Load() }

// Close ends the session and frees everything; watches are closed.
func (c *conn) Close() error {
	err := errClosed
	c.once.Do(func() {
		close(c.done)
		c.keepers.Wait()
		c.watcher.close()
		err = c.leave()
		c.file.drain()
		err = errors.Join(err, c.free())
	})
	return err
}

func (c *conn) closed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// split cuts a path into its parent's path and its name. The root's are ""
// and "/".
func split(path string) (parent, name string) {
	if path == "/" {
		return "", "/"
	}
	i := strings.LastIndexByte(path, '/')
	if i == 0 {
		return "/", path[1:]
	}
	return path[:i], path[i+1:]
}

const sqlGet = `select version, czxid, mzxid, modified, owner, children, data from node where parent=? and name=?`

// Get reads a node.
func (c *conn) Get(ctx context.Context, path string) (data []byte, s coord.Stat, err error) {
	err = c.look(ctx, path, func(l *link) (bool, error) {
		parent, name := split(path)
		var modified int64
		found, err := l.row(sqlGet, []any{parent, name}, &s.Version, &s.Czxid, &s.Mzxid, &modified, &s.Owner, &s.NumChildren, &data)
		s.Modified = time.Unix(0, modified)
		return found, err
	})
	if err != nil {
		return nil, coord.Stat{}, err
	}
	return data, s, nil
}

const (
	sqlExists   = `select 1 from node where parent=? and name=?`
	sqlChildren = `select name from node where parent=? order by name`
)

// Children lists the names of a node's children, in the order of their bytes.
func (c *conn) Children(ctx context.Context, path string) (names []string, err error) {
	err = c.look(ctx, path, func(l *link) (bool, error) {
		names, err = l.names(sqlChildren, path)
		if err != nil || len(names) > 0 {
			return true, err
		}
		parent, name := split(path)
		var one int
		return l.row(sqlExists, []any{parent, name}, &one)
	})
	return names, err
}

// look runs a read, which tells whether there was such a node.
func (c *conn) look(ctx context.Context, path string, fn func(*link) (bool, error)) error {
	if err := coord.CheckPath(path); err != nil {
		return fmt.Errorf("coord: %q: %w", path, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("coord: %w", err)
	}
	if c.closed() {
		return errClosed
	}
	return c.file.reader(ctx, c.done, func(l *link) error {
		found, err := fn(l)
		if err != nil {
			return explain(c.file.path, err)
		}
		if !found {
			return fmt.Errorf("coord: %s: %w", path, coord.ErrNoNode)
		}
		return nil
	})
}
