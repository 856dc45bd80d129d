package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// Record is a line of the audit log: somebody has changed something, or was
// refused.
type Record struct {
	Time     time.Time `json:"time"` // when the outcome was known
	Who      string    `json:"who"`
	Via      string    `json:"via,omitempty"`
	ID       string    `json:"credential,omitempty"` // the id of the token or the session
	Role     Role      `json:"role,omitempty"`
	From     string    `json:"from,omitempty"` // address
	Method   string    `json:"method,omitempty"`
	Route    string    `json:"route,omitempty"` // with its parameters' names
	Job      string    `json:"job,omitempty"`
	Build    int64     `json:"build,omitempty"`
	Object   string    `json:"object,omitempty"` // what else the path names: a ticket, an artefact, a tag
	Action   string    `json:"action,omitempty"` // what was done, where it was no request
	Detail   string    `json:"detail,omitempty"` // more of it
	Status   int       `json:"status,omitempty"` // of HTTP
	Outcome  string    `json:"outcome"`          // one of the constants
	Error    string    `json:"error,omitempty"`
	Request  string    `json:"request,omitempty"`  // its id, by which the frontend's log knows it
	Frontend string    `json:"frontend,omitempty"` // host/pid
	Lost     int       `json:"lost,omitempty"`     // in place of so many records, which are in the frontend's own log alone
}

// The outcomes.
const (
	Done    = "done"
	Refused = "refused" // 4xx: nothing was changed
	Failed  = "failed"  // 5xx, or broken off: something may have been changed
)

// auditPrefix is where the audit log is in the store: in audit/<hour>/ an
// object for each frontend that has written in that hour, of JSON lines.
const auditPrefix = "audit/"

const hourForm = "2006-01-02T15" // in UTC; ordered as text

func auditHour(t time.Time) string { return auditPrefix + t.UTC().Format(hourForm) + "/" }

const (
	auditBatch   = 100 * time.Millisecond // how long a record waits for others
	auditQueue   = 10_000                 // records that are kept while the store does not take them
	auditObject  = 4 << 20                // bytes; then a new object is begun
	auditTime    = 10 * time.Second       // for one write
	auditPause   = time.Second            // after the store has failed; doubled up to the next
	auditPatient = 30 * time.Second
)

// Audit writes the audit log of one process. Whoever adds a record does not
// wait for the store: records are written together, a moment later. While the
// store does not take them they are kept; when too many are kept, the oldest
// go to the process's own log, whole, and one record in their place says how
// many those were.
type Audit struct {
	st   store.Store
	name string // of the objects; another one for each process
	log  *slog.Logger

	mu      sync.Mutex
	waiting []Record
	lost    int // ever

	more   chan struct{} // something waits
	closed chan struct{}
	ended  chan struct{}
	cancel context.CancelFunc // breaks off what is being written

	// Of the goroutine that writes:
	hour   string // of the object
	serial int    // of the object
	size   int64  // of the object
}

// NewAudit returns the audit log of the process of this name, which must be a
// part of a store's key that no other process has or had. Close ends it.
func NewAudit(st store.Store, name string, log *slog.Logger) *Audit {
	a := &Audit{st: st, name: name, log: log, more: make(chan struct{}, 1), closed: make(chan struct{}), ended: make(chan struct{})}
	var ctx context.Context
	ctx, a.cancel = context.WithCancel(context.Background())
	go a.run(ctx)
	return a
}

// Add adds a record. It does not wait.
func (a *Audit) Add(r Record) {
	r.Time = r.Time.UTC()
	a.mu.Lock()
	a.waiting = append(a.waiting, r)
	over := a.bound(auditQueue)
	a.mu.Unlock()
	a.tell(over)
	select {
	case a.more <- struct{}{}:
	default:
	}
}

// Lost is how many records the store has not taken, ever.
func (a *Audit) Lost() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lost
}

// bound takes the oldest records out of what waits, so that most remain, and
// puts one in their place that says so.
func (a *Audit) bound(most int) []Record {
	n := len(a.waiting) - most
	if n <= 0 {
		return nil
	}
	n += most / 10 // and not one by one from here on
	cut := min(n+1, len(a.waiting))
	note := Record{Time: a.waiting[0].Time, Who: a.name, Action: "lose records", Outcome: Failed}
	var over []Record
	for _, r := range a.waiting[:cut] {
		if r.Lost > 0 { // an earlier note
			note.Lost += r.Lost
			continue
		}
		note.Lost++
		over = append(over, r)
	}
	a.lost += len(over)
	a.waiting = append([]Record{note}, a.waiting[cut:]...)
	return over
}

// tell writes records that the store will not have to the process's log.
func (a *Audit) tell(records []Record) {
	for _, r := range records {
		b, _ := json.Marshal(r) // plain fields
		a.log.Error("a record of the audit log is here only: the store does not take it", "record", string(b))
	}
}

// Close writes what waits. What the store has not taken when ctx ends goes to
// the process's log.
func (a *Audit) Close(ctx context.Context) error {
	close(a.closed)
	defer a.cancel()
	defer context.AfterFunc(ctx, a.cancel)()
	<-a.ended
	for {
		more, err := a.write(ctx)
		if err == nil && !more {
			return nil
		}
		if err != nil && !wait(ctx, auditBatch, nil) {
			a.mu.Lock()
			over := a.waiting
			a.waiting, a.lost = nil, a.lost+len(over)
			a.mu.Unlock()
			a.tell(over)
			return fault.Errorf(fault.Temporary, "%d records are in this log only: %w", len(over), err)
		}
	}
}

// wait waits for d, and returns false if ctx or stop ended it.
func wait(ctx context.Context, d time.Duration, stop <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-stop:
	}
	return false
}

func (a *Audit) run(ctx context.Context) {
	defer close(a.ended)
	pause := auditPause
	for {
		select {
		case <-a.more:
		case <-a.closed:
			return
		}
		if !wait(ctx, auditBatch, a.closed) {
			return
		}
		for more := true; more; {
			var err error
			if more, err = a.write(ctx); err == nil {
				pause = auditPause
				continue
			}
			a.log.Warn("the audit log cannot be written at the moment; its records are kept", "error", err)
			if !wait(ctx, pause, a.closed) {
				return
			}
			more, pause = true, min(2*pause, auditPatient)
		}
	}
}

// write writes the oldest records, those of one hour, and tells whether there
// were any. An error leaves them waiting. What is tried again begins with the
// same bytes at the same offset, which the store takes for a repeat; should it
// not, because some were dropped meanwhile, it goes to a new object, and a
// record may be there twice.
func (a *Audit) write(ctx context.Context) (bool, error) {
	a.mu.Lock()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	n, hour := 0, ""
	for n < len(a.waiting) && b.Len() < auditObject/4 {
		if h := auditHour(a.waiting[n].Time); n == 0 {
			hour = h
		} else if h != hour {
			break
		}
		_ = enc.Encode(a.waiting[n]) // plain fields
		n++
	}
	batch := a.waiting[:n:n]
	a.waiting = a.waiting[n:]
	a.mu.Unlock()
	if n == 0 {
		return false, nil
	}
	if a.hour != hour || a.size >= auditObject {
		a.hour, a.size, a.serial = hour, 0, a.serial+1
	}
	ctx, cancel := context.WithTimeout(ctx, auditTime)
	defer cancel()
	key := fmt.Sprintf("%s%s-%d", a.hour, a.name, a.serial)
	err := a.st.Append(ctx, key, a.size, b.Bytes())
	if err == nil {
		err = a.st.Sync(ctx, key)
	}
	if err == nil {
		a.size += int64(b.Len())
		return true, nil
	}
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) { // it is not as we left it
		a.hour = ""
	}
	a.mu.Lock()
	a.waiting = append(batch, a.waiting...)
	over := a.bound(auditQueue)
	a.mu.Unlock()
	a.tell(over)
	return false, fmt.Errorf("audit log: %w", err)
}
