package repo

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"time"

	"github.com/google/uuid"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

const (
	locksRoot = "/locks"
	storeLock = locksRoot + "/store"
)

// Exclusive is the right to remove and bring in what lasts, which at most one
// process has. It goes with the process's session.
type Exclusive struct {
	conn    coord.Conn
	session int64
}

// holder is the data of the lock's node.
type holder struct {
	What  string    `json:"what"` // "gc", "import"
	Host  string    `json:"host"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
	Nonce string    `json:"nonce"`
}

// Exclusive takes the right for what is named. If another process has it the
// error is of kind Temporary and tells who.
func (r *Repo) Exclusive(ctx context.Context, what string) (*Exclusive, error) {
	if err := coord.EnsurePath(ctx, r.conn, locksRoot); err != nil {
		return nil, err
	}
	host, _ := os.Hostname()
	me := holder{what, host, os.Getpid(), time.Now().UTC().Truncate(time.Second), uuid.NewString()}
	data, err := json.Marshal(me)
	if err != nil {
		return nil, err
	}
	for range 3 {
		_, err = r.conn.Txn(ctx, coord.CreateEphemeral(storeLock, data))
		if err != nil && !errors.Is(err, coord.ErrNodeExists) && !errors.Is(err, coord.ErrUnknown) {
			return nil, err
		}
		// Whose it is, the node tells; also after an answer that was lost.
		there, st, getErr := r.conn.Get(ctx, storeLock)
		if errors.Is(getErr, coord.ErrNoNode) {
			continue
		}
		if getErr != nil {
			return nil, getErr
		}
		var who holder
		_ = json.Unmarshal(there, &who) // then nobody is named
		if who.Nonce == me.Nonce {
			return &Exclusive{r.conn, st.Owner}, nil
		}
		return nil, fault.Errorf(fault.Temporary, "another %.20q is at work, process %d on %.100q since %s", who.What, who.PID, who.Host, who.Since.Format(time.RFC3339))
	}
	return nil, fault.Errorf(fault.Temporary, "repo: %s: %w", storeLock, err)
}

// Held tells whether the right is still sure: the session is the same, and the
// service has been heard of lately enough that nobody else can have it. The
// error is of kind Temporary.
func (x *Exclusive) Held() error {
	if s := x.conn.Session(); s.ID != x.session || !time.Now().Before(s.SafeUntil()) {
		return fault.Errorf(fault.Temporary, "the coordination's session was lost, and with it the right to go on: run it again")
	}
	return nil
}

// Release gives the right back.
func (x *Exclusive) Release(ctx context.Context) error {
	if x.conn.Session().ID != x.session {
		return nil
	}
	_, err := x.conn.Txn(ctx, coord.Delete(storeLock, coord.AnyVersion))
	if errors.Is(err, coord.ErrNoNode) {
		return nil
	}
	return err
}
