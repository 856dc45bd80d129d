package zk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

// answers are what a server can say to a request, and what it means in our
// words. Every other error of the library leaves it open whether a write was
// carried out: a connection that ended, a raw error of the network.
var answers = map[error]error{
	zk.ErrNoNode:                  coord.ErrNoNode,
	zk.ErrNodeExists:              coord.ErrNodeExists,
	zk.ErrBadVersion:              coord.ErrBadVersion,
	zk.ErrNotEmpty:                coord.ErrNotEmpty,
	zk.ErrNoChildrenForEphemerals: coord.ErrEphemeral,
	zk.ErrNoAuth:                  coord.ErrNoAuth,
	zk.ErrInvalidACL:              coord.ErrNoAuth,
	zk.ErrBadArguments:            coord.ErrBadPath,
	zk.ErrInvalidPath:             coord.ErrBadPath,
}

// meaning finds the server's answer in err; nil if there is none.
func meaning(err error) error {
	for theirs, ours := range answers {
		if errors.Is(err, theirs) {
			return ours
		}
	}
	return nil
}

// request sends a request in the current session and waits for its answer, at
// most for the session's time-out. A read is sent again until it is answered,
// as is a write of which the library knows that it never left. The error is
// the library's, or ctx's, or errClosed.
func request[T any](ctx context.Context, c *conn, write bool, fn func(*session) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	if c.closed() {
		return none, errClosed
	}
	within, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var bound *session // that a write stays with
	for {
		s, err := c.current(within)
		if err != nil {
			return none, err
		}
		if bound != nil && bound != s {
			return none, coord.ErrExpired // it was never sent
		}
		sent := time.Now()
		v, err := ask(within, s, fn)
		switch {
		case err == nil || meaning(err) != nil:
			if write {
				s.renew(sent)
			}
			return v, err
		case c.closed():
			return none, errClosed
		case write && !errors.Is(err, zk.ErrNoServer):
			return none, err
		case within.Err() != nil:
			return none, err
		}
		if write {
			bound = s
		}
		select { // the library reconnects meanwhile
		case <-time.After(20 * time.Millisecond):
		case <-within.Done():
			return none, err
		}
	}
}

// explain gives an error of a request on path, which changes nothing, its
// words and its kind.
func (c *conn) explain(path string, err error) error {
	m := meaning(err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, coord.ErrClosed), errors.Is(err, context.Canceled):
		return fmt.Errorf("coord: %w", err)
	case errors.Is(m, coord.ErrNoAuth):
		return fault.Errorf(fault.Denied, "coord: %s: %w; the cluster belongs to others, or the credentials in the coordination's URL are not right", path, m)
	case m != nil:
		return fmt.Errorf("coord: %s: %w", path, m)
	}
	return fault.Errorf(fault.Temporary, "coord: %s: no answer from %s: %w", path, c.addr, err)
}

// stat is the library's in our words.
func stat(s *zk.Stat) coord.Stat {
	return coord.Stat{Version: s.Version, Czxid: s.Czxid, Mzxid: s.Mzxid, Modified: time.UnixMilli(s.Mtime),
		Owner: s.EphemeralOwner, NumChildren: int(s.NumChildren)}
}

// node is what a Get returns.
type node struct {
	data []byte
	stat coord.Stat
}

// Get reads a node.
func (c *conn) Get(ctx context.Context, path string) ([]byte, coord.Stat, error) {
	if err := coord.CheckPath(path); err != nil {
		return nil, coord.Stat{}, fmt.Errorf("coord: %q: %w", path, err)
	}
	read := func(s *session) (node, error) {
		data, st, err := s.zk.Get(c.full(path))
		if err != nil {
			return node{}, err
		}
		return node{data, stat(st)}, nil
	}
	n, err := request(ctx, c, false, read)
	if errors.Is(err, zk.ErrNoNode) && len(c.addr.Servers) > 1 {
		// The server may be behind the others, and that a node is not there is
		// what decisions are made on: a build has finished, a ticket has gone. So
		// this one catches up with its leader first.
		n, err = request(ctx, c, false, func(s *session) (node, error) {
			if _, err := s.zk.Sync(c.addr.Path); err != nil {
				return node{}, err
			}
			return read(s)
		})
	}
	return n.data, n.stat, c.explain(path, err)
}

// Children lists the names of a node's children, in the order of their bytes.
func (c *conn) Children(ctx context.Context, path string) ([]string, error) {
	if err := coord.CheckPath(path); err != nil {
		return nil, fmt.Errorf("coord: %q: %w", path, err)
	}
	names, err := request(ctx, c, false, func(s *session) ([]string, error) {
		names, _, err := s.zk.Children(c.full(path))
		return names, err
	})
	if err != nil {
		return nil, c.explain(path, err)
	}
	return list(path, names), nil
}

// list makes the names of path's children ours.
func list(path string, names []string) []string {
	if path == "/" {
		names = slices.DeleteFunc(names, func(n string) bool { return n == counterName })
	}
	for i, n := range names {
		names[i] = unescape(n)
	}
	slices.Sort(names)
	return names
}

// Txn carries out all operations or none.
func (c *conn) Txn(ctx context.Context, ops ...coord.Op) ([]coord.Stat, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("coord: %w", err)
	}
	if c.closed() {
		return nil, errClosed
	}
	if len(ops) == 0 {
		return nil, nil
	}
	reqs, err := c.encode(ops)
	if err != nil {
		return nil, err
	}
	if len(reqs) > len(ops) && !c.counted.Load() {
		if err := c.makeRoot(ctx, c.counter()); err != nil {
			return nil, err
		}
		c.counted.Store(true)
	}
	type result struct {
		each    []zk.MultiResponse
		session int64
	}
	r, err := request(ctx, c, true, func(s *session) (result, error) {
		each, err := s.zk.Multi(reqs...)
		return result{each, s.zk.SessionID()}, err
	})
	if errors.Is(err, zk.ErrNoNode) && len(r.each) > len(ops) && errors.Is(r.each[len(ops)].Error, zk.ErrNoNode) {
		c.counted.Store(false) // somebody has removed it
		return c.Txn(ctx, ops...)
	}
	if err != nil {
		return nil, c.explainTxn(ops, r.each, err)
	}
	return stats(ops, r.each, r.session), nil
}

// maxRequest is what a server takes: its jute.maxbuffer, by default, less the
// headers. It drops the connection on anything larger.
const maxRequest = 1<<20 - 1 - 1024

// encode makes the library's requests of the operations. ZooKeeper does not
// tell the number of a transaction that only creates and deletes, so that one
// gets one more operation, whose answer holds it.
func (c *conn) encode(ops []coord.Op) ([]any, error) {
	refuse := func(i int, err error) ([]any, error) {
		return nil, &coord.TxnError{Index: i, Op: ops[i], Err: err}
	}
	acl := 0
	for _, a := range c.acl {
		acl += 12 + len(a.Scheme) + len(a.ID)
	}
	reqs := make([]any, 0, len(ops)+1)
	data, total := 0, 0
	create, set := false, false
	for i, op := range ops {
		if err := coord.CheckPath(op.Path); err != nil {
			return refuse(i, err)
		}
		path := c.full(op.Path)
		data += len(op.Data)
		total += 9 + 4 + len(path) + 4 + len(op.Data) + 4
		switch op.Kind {
		case coord.OpCreate:
			create = true
			flags := int32(0)
			if op.Ephemeral {
				flags = zk.FlagEphemeral
			}
			total += 4 + acl
			reqs = append(reqs, &zk.CreateRequest{Path: path, Data: op.Data, Acl: c.acl, Flags: flags})
		case coord.OpSet:
			set = true
			reqs = append(reqs, &zk.SetDataRequest{Path: path, Data: op.Data, Version: op.Version})
		case coord.OpDelete:
			if op.Path == "/" {
				return refuse(i, coord.ErrBadPath)
			}
			reqs = append(reqs, &zk.DeleteRequest{Path: path, Version: op.Version})
		case coord.OpCheck:
			reqs = append(reqs, &zk.CheckVersionRequest{Path: path, Version: op.Version})
		}
		if data > coord.MaxData || total > maxRequest {
			return refuse(i, coord.ErrTooLarge)
		}
	}
	if create && !set {
		reqs = append(reqs, &zk.SetDataRequest{Path: c.counter(), Version: coord.AnyVersion})
	}
	return reqs, nil
}

// stats are those of the operations, of which only a Set has any from the
// server. All of one transaction have its number and its time.
func stats(ops []coord.Op, each []zk.MultiResponse, session int64) []coord.Stat {
	var txn coord.Stat
	for _, r := range each {
		if r.Stat != nil {
			txn = stat(r.Stat)
		}
	}
	all := make([]coord.Stat, len(ops))
	for i, op := range ops {
		switch op.Kind {
		case coord.OpSet:
			all[i] = stat(each[i].Stat)
		case coord.OpCreate:
			all[i] = coord.Stat{Czxid: txn.Mzxid, Mzxid: txn.Mzxid, Modified: txn.Modified}
			if op.Ephemeral {
				all[i].Owner = session
			}
		}
	}
	return all
}

// explainTxn says why a transaction was not carried out, or that nobody knows.
func (c *conn) explainTxn(ops []coord.Op, each []zk.MultiResponse, err error) error {
	switch m := meaning(err); {
	case m != nil:
		for i, r := range each {
			if m := meaning(r.Error); m != nil && i < len(ops) {
				return &coord.TxnError{Index: i, Op: ops[i], Err: m}
			}
		}
		return c.explain(ops[0].Path, err)
	case errors.Is(err, coord.ErrExpired):
		return fmt.Errorf("coord: %w", err)
	case errors.Is(err, errClosed):
		return fmt.Errorf("%w: %w", err, coord.ErrUnknown)
	}
	// ErrSessionExpired is among these: the library also says it of requests
	// that it had sent before.
	return fault.Errorf(fault.Temporary, "coord: %w: %w", coord.ErrUnknown, err)
}
