// Package coord is the interface to the coordination service: a tree of small
// versioned nodes, with ephemeral nodes, transactions and one-shot watches.
//
// The model is ZooKeeper's (Hunt et al., "ZooKeeper: Wait-free coordination
// for Internet-scale systems", USENIX ATC 2010), as much of it as the project
// uses. Adapters: coord/local (one machine, SQLite) and coord/zk. What an
// adapter must do is said here and proven by coordtest.
//
// A path begins with "/", its parts are not empty, not "." or "..", and hold
// no "/" and no byte below 0x20. The root "/" always exists. A node must have
// a parent that exists and is not ephemeral.
package coord

import (
	"context"
	"errors"
	"strings"
	"time"
)

// MaxData bounds a node's data, in bytes. ZooKeeper drops the connection on a
// request of 1 MiB, so a transaction's data together is bounded by it too.
const MaxData = 1000 << 10

// The answers of the service. All of them mean that nothing was changed,
// except ErrUnknown. Test with errors.Is.
var (
	ErrNoNode     = errors.New("no such node")
	ErrNodeExists = errors.New("node exists")
	ErrBadVersion = errors.New("version does not match")
	ErrNotEmpty   = errors.New("node has children")
	ErrEphemeral  = errors.New("an ephemeral node cannot have children")
	ErrBadPath    = errors.New("not a valid path")
	ErrTooLarge   = errors.New("data too large")
	ErrNoAuth     = errors.New("not permitted")
	// ErrExpired: the session that the operation asked for is over.
	ErrExpired = errors.New("session expired")
	// ErrUnknown: the answer was lost. The operation may have been applied, now
	// or even a little later. The caller finds out, or repeats what may be
	// repeated.
	ErrUnknown = errors.New("outcome unknown")
	// ErrClosed: the connection was closed by Close.
	ErrClosed = errors.New("connection closed")
)

// AnyVersion as an Op's Version matches every version.
const AnyVersion int32 = -1

// Stat is what the service knows of a node.
type Stat struct {
	Version     int32     // number of Sets since its creation
	Czxid       int64     // number of the transaction that created it
	Mzxid       int64     // number of the transaction that last set it; grows across the whole tree
	Modified    time.Time // by the service's clock
	Owner       int64     // id of the session that an ephemeral node belongs to; else 0
	NumChildren int
}

// Kind is what an Op does.
type Kind int

// The kinds of Op.
const (
	OpCreate Kind = iota
	OpSet
	OpDelete
	OpCheck
)

// Op is one operation of a transaction; make it with Create, CreateEphemeral,
// Set, Delete or Check.
type Op struct {
	Kind      Kind
	Path      string
	Data      []byte
	Version   int32
	Ephemeral bool
}

// Create makes a node.
func Create(path string, data []byte) Op { return Op{Kind: OpCreate, Path: path, Data: data} }

// CreateEphemeral makes a node that goes with the connection's session.
func CreateEphemeral(path string, data []byte) Op {
	return Op{Kind: OpCreate, Path: path, Data: data, Ephemeral: true}
}

// Set replaces a node's data if its version is the given one.
func Set(path string, data []byte, version int32) Op {
	return Op{Kind: OpSet, Path: path, Data: data, Version: version}
}

// Delete removes a node without children if its version is the given one.
func Delete(path string, version int32) Op {
	return Op{Kind: OpDelete, Path: path, Version: version}
}

// Check does nothing if the node exists with the given version.
func Check(path string, version int32) Op {
	return Op{Kind: OpCheck, Path: path, Version: version}
}

// TxnError tells which operation of a transaction was refused, and why.
type TxnError struct {
	Index int
	Op    Op
	Err   error // one of this package's errors
}

func (e *TxnError) Error() string { return e.Op.Path + ": " + e.Err.Error() }
func (e *TxnError) Unwrap() error { return e.Err }

// Refused tells whether err is the refusal of operation number index.
func Refused(err error, index int) bool {
	var t *TxnError
	return errors.As(err, &t) && t.Index == index
}

// Session is the connection's standing with the service. Its ephemeral nodes
// live as long as it does.
type Session struct {
	ID      int64         // changes when the old one expired; 0: none at the moment
	Timeout time.Duration // the service removes a session that was silent for so long
	// Renewed is the time, on this process's own monotonic clock, at which the
	// newest request that the service has answered was sent. The session cannot
	// have been expired before Renewed + Timeout.
	Renewed time.Time
}

// SafeUntil is when the owner of an ephemeral node must have stopped relying
// on it: two thirds of the time-out after the last proof of life, which leaves
// the last third to stop what runs.
func (s Session) SafeUntil() time.Time { return s.Renewed.Add(s.Timeout * 2 / 3) }

// Conn is a connection to the service. It may be used by several goroutines.
//
// A connection keeps itself alive: it renews its session, and when that has
// expired it begins a new one, which Session shows. A caller that owns
// ephemeral nodes compares session ids.
//
// Every method ends within the deadline of ctx or, without one, within about
// twice the session's time-out, with an error that wraps ErrUnknown if an
// operation that changes something was not answered.
type Conn interface {
	// Get reads a node. Errors: ErrNoNode.
	Get(ctx context.Context, path string) ([]byte, Stat, error)
	// Children lists the names of a node's children, in order. Errors: ErrNoNode.
	Children(ctx context.Context, path string) ([]string, error)
	// Txn does all operations or none, in order, each seeing those before it.
	// The stats are those after the transaction's operation (of a Delete or a
	// Check: undefined). A refusal is a *TxnError for the first operation that
	// failed.
	//
	// Ephemeral nodes are created under the session that is current when the
	// transaction is carried out; their Stat.Owner tells which that was.
	Txn(ctx context.Context, ops ...Op) ([]Stat, error)

	// WatchNode returns a channel that is closed once, at the next creation,
	// change or deletion of the node after this call began; it also may be
	// closed without a change (a lost connection, a new session), so the
	// watcher looks again. Stop frees it early.
	WatchNode(ctx context.Context, path string) (Watch, error)
	// WatchChildren is the same for the creation or deletion of the node's
	// direct children. Errors: ErrNoNode.
	WatchChildren(ctx context.Context, path string) (Watch, error)

	// Session tells the current session. It does not block.
	Session() Session

	// Close ends the session, which removes its ephemeral nodes at once.
	Close() error
}

// Watch is one shot of news. Begin it before the read that it guards.
type Watch interface {
	C() <-chan struct{}
	Stop()
}

// CheckPath returns ErrBadPath if p is not a path.
func CheckPath(p string) error {
	if p == "/" {
		return nil
	}
	if !strings.HasPrefix(p, "/") {
		return ErrBadPath
	}
	for part := range strings.SplitSeq(p[1:], "/") {
		if part == "" || part == "." || part == ".." || strings.ContainsFunc(part, func(r rune) bool { return r < 0x20 }) {
			return ErrBadPath
		}
	}
	return nil
}

// EnsurePath creates the node and its missing parents, without data. It is
// safe to repeat and to race.
func EnsurePath(ctx context.Context, c Conn, path string) error {
	if _, _, err := c.Get(ctx, path); !errors.Is(err, ErrNoNode) {
		return err // mostly nil, and then a read is cheaper than a write that is refused
	}
	_, err := c.Txn(ctx, Create(path, nil))
	if errors.Is(err, ErrNoNode) {
		i := strings.LastIndexByte(path, '/')
		if err := EnsurePath(ctx, c, path[:i]); err != nil {
			return err
		}
		_, err = c.Txn(ctx, Create(path, nil))
	}
	if errors.Is(err, ErrNodeExists) {
		return nil
	}
	return err
}
