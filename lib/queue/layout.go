package queue

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// The layout of the queue in the tree:
//
//	/q/<set>                  tickets of one set of capabilities and one priority
//	/q/<set>/t/<slice>/<id>   a ticket; its version is the fencing token
//	/q/<set>/r/<slice>/<id>   it is ready to be claimed
//	/run/<id>                 it is claimed; data: "<set>/<slice>"
//	/c/<id>                   the claim, ephemeral; data: claimRecord
//	/line/<offer>/<place>     an idle worker's place, ephemeral; see Waiter
//	/sweep                    set by whoever looks for dead workers' tickets
//	/lease/<id>               instead of /c, the claim of a worker that speaks
//	                          REST and has no session: not ephemeral
//
// Slices are numbered upwards and hold about sliceSize tickets, so that a
// listing stays short however long the queue is. A ticket with neither a ready
// entry nor a claim is parked: it waits for whoever posted it.
const (
	queueRoot = "/q"
	runRoot   = "/run"
	claimRoot = "/c"
	leaseRoot = "/lease"
	lineRoot  = "/line"
	sweepNode = "/sweep"

	sliceSize = 512
	anySet    = "@any"    // tickets that any worker may take
	parkedSet = "@parked" // tickets that nobody may take
)

// set is one set of capabilities that tickets ask for, with one priority. Its
// name is the capabilities joined by "+" and, unless it is 0, "~" and the
// priority.
type set struct {
	name     string
	caps     []string
	priority int
}

// setOf finds the set that a ticket belongs to. The error is of kind
// BadTicket.
func setOf(t *ticket.Ticket) (set, error) {
	if t.Status != ticket.Pending {
		return set{name: parkedSet}, nil
	}
	caps := slices.Compact(slices.Sorted(slices.Values(t.Capabilities)))
	for _, c := range caps {
		if !validCapability(c) {
			return set{}, fault.Errorf(fault.BadTicket, "queue: ticket %s: capability %q: expected 1 to 128 of A–Z a–z 0–9 _ . : -", t.ID, c)
		}
	}
	name := strings.Join(caps, "+")
	switch {
	case name == "":
		name = anySet
	case len(name) > 1000:
		return set{}, fault.Errorf(fault.BadTicket, "queue: ticket %s: its %d capabilities are too long together", t.ID, len(caps))
	}
	if t.Priority != 0 {
		name += "~" + strconv.Itoa(t.Priority)
	}
	return set{name, caps, t.Priority}, nil
}

func validCapability(c string) bool {
	return c != "" && len(c) <= 128 && c != "." && c != ".." && !strings.ContainsFunc(c, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_.:-", r))
	})
}

// parseSet is the way back from a node's name.
func parseSet(name string) set {
	caps, number, _ := strings.Cut(name, "~")
	s := set{name: name}
	s.priority, _ = strconv.Atoi(number)
	if !strings.HasPrefix(caps, "@") {
		s.caps = strings.Split(caps, "+")
	}
	return s
}

// servedBy tells whether a worker that offers these capabilities may take the
// set's tickets.
func (s set) servedBy(offer []string) bool {
	if s.name == parkedSet {
		return false
	}
	return !slices.ContainsFunc(s.caps, func(c string) bool { return !slices.Contains(offer, c) })
}

// place is where a ticket is.
type place struct{ set, slice, id string }

func (p place) ticket() string { return queueRoot + "/" + p.set + "/t/" + p.slice + "/" + p.id }
func (p place) ready() string  { return queueRoot + "/" + p.set + "/r/" + p.slice + "/" + p.id }
func (p place) run() string    { return runRoot + "/" + p.id }
func (p place) claim() string  { return claimRoot + "/" + p.id }
func (p place) lease() string  { return leaseRoot + "/" + p.id }
func (p place) inRun() []byte  { return []byte(p.set + "/" + p.slice) }

// slicePaths are the folders that the place needs.
func (p place) slicePaths() [2]string {
	return [2]string{queueRoot + "/" + p.set + "/t/" + p.slice, queueRoot + "/" + p.set + "/r/" + p.slice}
}

// placeInRun reads a run entry.
func placeInRun(id string, data []byte) (place, bool) {
	s, slice, ok := strings.Cut(string(data), "/")
	p := place{s, slice, id}
	return p, ok && coord.CheckPath(p.ticket()) == nil
}

// claimRecord is the data of a claim.
type claimRecord struct {
	Worker string `json:"worker"`
	Nonce  string `json:"nonce"`           // tells a claim from every other one
	Until  int64  `json:"until,omitempty"` // a lease: when it ends, Unix milliseconds
}

func readClaim(data []byte) claimRecord {
	var r claimRecord
	_ = json.Unmarshal(data, &r) // what is not a record has no nonce of ours
	return r
}

func (r claimRecord) encode() []byte {
	b, _ := json.Marshal(r)
	return b
}

// encode is the ticket's JSON, refused before it would be too large for the
// service.
func encode(t *ticket.Ticket) ([]byte, error) {
	b, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	if len(b) > coord.MaxData/2 {
		return nil, fault.Errorf(fault.BadTicket, "queue: ticket %s: %d bytes; at most %d can be posted", t.ID, len(b), coord.MaxData/2)
	}
	return b, nil
}
