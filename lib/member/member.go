// Package member tells who is there: every worker and every frontend keeps a
// node /members/<uuid> in the coordination that goes with its session.
//
// Nothing depends on it. It is for people, who learn from it which processes of
// which version are there and, from the claims, what each runs.
package member

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/distci/distci/lib/coord"
)

// The kinds of members.
const (
	Worker   = "worker"
	Frontend = "frontend"
	REST     = "rest"    // a worker that speaks REST, known only by what it holds
	Unknown  = "unknown" // somebody has put a node there that is not ours
)

// Info is what a member says of itself: the data of its node.
type Info struct {
	Kind    string     `json:"kind"`
	Name    string     `json:"name"` // several may have the same
	Host    string     `json:"host,omitempty"`
	PID     int        `json:"pid,omitempty"`
	Version string     `json:"version,omitempty"`
	Since   *time.Time `json:"since,omitempty"` // when it was started

	// Of a worker:
	Capabilities []string `json:"capabilities,omitempty"` // what it offers, the labels included
	Labels       []string `json:"labels,omitempty"`
	Slots        int      `json:"slots,omitempty"`   // tickets at the same time
	Sandbox      string   `json:"sandbox,omitempty"` // a sentence

	// Of a frontend:
	Listen string `json:"listen,omitempty"` // URL at which it listens
}

// Self is what every process can say of itself. Without a name it is called
// host/pid.
func Self(kind, name, version string) Info {
	host, _ := os.Hostname()
	if name == "" {
		name = fmt.Sprintf("%s/%d", host, os.Getpid())
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	return Info{Kind: kind, Name: name, Host: host, PID: os.Getpid(), Version: version, Since: &now}
}

// Member is a member as it is seen by others.
type Member struct {
	ID string `json:"id,omitempty"` // the name of its node; "" if it has none
	Info
	Runs []Run `json:"runs,omitempty"`

	Session int64 `json:"-"` // that its node goes with; 0: it has none
}

// Run is a ticket that a member works on.
type Run struct {
	Ticket  string     `json:"ticket"`
	Type    string     `json:"type"`
	JobID   string     `json:"job_id,omitempty"`
	Build   int64      `json:"build_number,omitempty"`
	Step    string     `json:"step,omitempty"` // the step's key; with a job and without it: control of the build
	Name    string     `json:"name,omitempty"` // the step's name
	Attempt int        `json:"attempt"`
	Since   *time.Time `json:"since,omitempty"`       // when the attempt began
	Until   *time.Time `json:"lease_until,omitempty"` // for REST workers: when it is over unless they are heard of
}

// root is the folder of the members' nodes.
const root = "/members"

// List returns the members that have a node, without what they run, in the
// order of Sort.
func List(ctx context.Context, conn coord.Conn) ([]Member, error) {
	ids, err := conn.Children(ctx, root)
	if errors.Is(err, coord.ErrNoNode) { // nobody has ever joined
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ms []Member
	for _, id := range ids {
		data, st, err := conn.Get(ctx, root+"/"+id)
		if errors.Is(err, coord.ErrNoNode) {
			continue
		}
		if err != nil {
			return nil, err
		}
		m := Member{ID: id, Session: st.Owner}
		if json.Unmarshal(data, &m.Info) != nil || m.Kind == "" {
			m.Info = Info{Kind: Unknown}
		}
		ms = append(ms, m)
	}
	Sort(ms)
	return ms, nil
}

// Sort puts members in order: by kind, by name, by age.
func Sort(ms []Member) {
	since := func(m Member) time.Time {
		if m.Since == nil {
			return time.Time{}
		}
		return *m.Since
	}
	slices.SortFunc(ms, func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), since(a).Compare(since(b)), cmp.Compare(a.ID, b.ID))
	})
}
