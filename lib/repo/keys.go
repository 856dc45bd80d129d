package repo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// An idempotency key is remembered by a node that the transaction creates which
// begins the build: /keys/<day>/<xx>/<…>, where the last two parts are a hash of
// the job and the key. It is looked for in today's folder and the ones beside
// it, as frontends' clocks may differ, so that it counts for a day at least.
//
// That there are no two nodes of one key, in two folders, is by the number of
// the job's last build: whoever begins a build has read it before it looked for
// the key, and begins none if the number has changed.
//
// Whoever uses a key removes a few that are too old, more than it makes. So
// there are as many as builds were begun with one in the last days, whoever is
// alive.

// ErrKeyReused is of kind Usage.
var ErrKeyReused = fault.Errorf(fault.Usage, "this idempotency key was used for another request")

const (
	keyDay     = 24 * time.Hour
	keyDays    = 2   // folders older than so many days are removed
	keySweep   = 100 // nodes that are removed at a time
	maxKeySize = 255
)

// key is an idempotency key of one job, with the request that it is for.
type key struct {
	path    string // below the day's folder
	request string // a hash
	day     int64
}

// keyRecord is what its node says.
type keyRecord struct {
	Number  ticket.Number `json:"build_number"`
	Created time.Time     `json:"created"`
	Request string        `json:"request"`
}

// newKey is the key of a request; nil if it has none.
func newKey(job string, s Start) (*key, error) {
	if s.Key == "" {
		return nil, nil
	}
	if len(s.Key) > maxKeySize {
		return nil, fault.Errorf(fault.Usage, "idempotency key: expected at most %d bytes", maxKeySize)
	}
	for _, c := range []byte(s.Key) {
		if c <= ' ' || c > '~' {
			return nil, fault.Errorf(fault.Usage, "idempotency key: expected visible ASCII characters")
		}
	}
	request, err := json.Marshal(struct {
		Parameters map[string]string `json:",omitempty"`
		Ref, What  string
	}{s.Parameters, s.Ref, s.what})
	if err != nil {
		return nil, err
	}
	h := sha256.Sum256([]byte(job + "\x00" + s.Key))
	name := hex.EncodeToString(h[:20])
	return &key{
		path: "/" + name[:2] + "/" + name[2:], request: digestOf(request), day: time.Now().Unix() / int64(keyDay/time.Second),
	}, nil
}

func digestOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:16])
}

func (k *key) on(day int64) string { return fmt.Sprintf("%s/%d%s", keysRoot, day, k.path) }

// makeFolder makes the folder that the key's node is to be in.
func (k *key) makeFolder(ctx context.Context, conn coord.Conn) error {
	path := k.on(k.day)
	return coord.EnsurePath(ctx, conn, path[:len(path)-len(k.path)+len("/xx")])
}

// findKey returns the build that was begun with the key, or the operation that
// notes that b was. Errors: ErrKeyReused.
func (r *Repo) findKey(ctx context.Context, k *key, b *build.Build) (*build.Build, coord.Op, error) {
	data, err := json.Marshal(keyRecord{b.Number, *b.State.Created, k.request})
	if err != nil {
		return nil, coord.Op{}, err
	}
	op := coord.Create(k.on(k.day), data)
	for _, day := range []int64{k.day - 1, k.day, k.day + 1} {
		there, st, err := r.conn.Get(ctx, k.on(day))
		if errors.Is(err, coord.ErrNoNode) {
			continue
		}
		if err != nil {
			return nil, op, err
		}
		var rec keyRecord
		if err := json.Unmarshal(there, &rec); err != nil {
			return nil, op, fault.Errorf(fault.Internal, "repo: %s: %w", k.on(day), err)
		}
		before := &build.Build{JobID: b.JobID, Number: rec.Number, State: build.State{Status: build.Preparing, Cause: b.State.Cause, Created: &rec.Created}}
		another, err := r.recreated(ctx, before, b)
		switch {
		case err != nil:
			return nil, op, err
		case another:
			op = coord.Set(k.on(day), data, st.Version)
		case rec.Request != k.request:
			return nil, op, ErrKeyReused
		default:
			before.State.Parameters, before.State.Ref = b.State.Parameters, b.State.Ref
			return before, op, nil
		}
	}
	return nil, op, nil
}

// recreated tells whether a build is of a job that was deleted since, and is
// there again: then its number is yet to come, or is another build's. That of
// a build alone that was deleted is nobody else's.
func (r *Repo) recreated(ctx context.Context, before, next *build.Build) (bool, error) {
	if before.Number >= next.Number {
		return true, nil
	}
	mine, err := r.began(ctx, before.JobID, before)
	if mine || err != nil {
		return false, err
	}
	_, err = r.record(ctx, before.JobID, before.Number)
	if errors.Is(err, ErrNoBuild) {
		return false, nil
	}
	return err == nil, err
}

// forgetKeys removes some of the nodes that nobody looks for any more. It is no
// part of what was asked for: what goes wrong, the next one does.
func (r *Repo) forgetKeys(ctx context.Context) {
	today := time.Now().Unix() / int64(keyDay/time.Second)
	days, err := r.conn.Children(ctx, keysRoot)
	if err != nil {
		return
	}
	for _, name := range days {
		day, err := strconv.ParseInt(name, 10, 64)
		if err != nil || day >= today-keyDays {
			continue
		}
		root := keysRoot + "/" + name
		folders, err := r.conn.Children(ctx, root)
		if err != nil {
			return
		}
		if len(folders) == 0 {
			_, _ = r.conn.Txn(ctx, coord.Delete(root, coord.AnyVersion))
			continue
		}
		folder := root + "/" + folders[0]
		names, err := r.conn.Children(ctx, folder)
		if err != nil {
			return
		}
		var ops []coord.Op
		for _, n := range names[:min(len(names), keySweep)] {
			ops = append(ops, coord.Delete(folder+"/"+n, coord.AnyVersion))
		}
		if len(ops) == len(names) {
			ops = append(ops, coord.Delete(folder, coord.AnyVersion))
		}
		_, _ = r.conn.Txn(ctx, ops...) // refused if somebody else does the same
		return
	}
}
