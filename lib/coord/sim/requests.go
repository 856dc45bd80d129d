package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distci/distci/lib/coord"
)

// submit sends what the clients have called.
func (w *World) submit() {
	for _, c := range w.clients {
		if c.away == cut && len(c.inbox) > 0 && w.rnd.IntN(4) == 0 { // without a connection it is given up
			w.lose(c.inbox[0])
			c.inbox = c.inbox[1:]
		}
		for len(c.inbox) > 0 && c.away == present {
			r := c.inbox[0]
			if r.kind == txn && !w.calm && !r.held && w.chance(w.o.Faults.Stop) {
				r.held = true
				w.leave(c, paused, time.Now())
				continue
			}
			c.inbox = c.inbox[1:]
			switch {
			case r.told: // given up before it was sent
			case r.asked != c.session.id:
				r.err = errExpired
				w.trace("%s %s: %v", c.name, r, r.err)
				c.answers = append(c.answers, r)
			default:
				c.session.pipeline = append(c.session.pipeline, r)
				// The caller may give up long before it is carried out.
				if r.kind == txn && !w.calm && w.chance(w.o.Faults.Lose/3) {
					w.lose(r)
				}
			}
		}
	}
}

// execute carries out a session's next request.
func (w *World) execute(s *session) {
	r := s.pipeline[0]
	s.pipeline = s.pipeline[1:]
	if s.over { // its client learns of it when it comes back
		if r.err = errExpired; r.c.session == s {
			r.c.answers = append(r.c.answers, r)
		}
		return
	}
	w.requests++
	if r.told { // its caller reads its own
		x := *r
		r = &x
	}
	lost := !w.calm && !r.told && w.chance(w.o.Faults.Lose)
	if lost && w.rnd.IntN(2) == 0 {
		w.trace("%s %s never arrives", r.c.name, r)
	} else {
		w.perform(s, r)
		if w.o.Trace != nil {
			w.trace("%s %s: %s", r.c.name, r, outcome(r.err))
		}
	}
	if lost {
		if r.err = errReadAgain; r.kind == txn {
			r.err = errUnknown
		}
	}
	if !r.told && r.c.session == s {
		r.c.answers = append(r.c.answers, r)
	}
}

// readError is the refusal of a read. Most of them nobody prints.
type readError struct {
	path string
	err  error
}

func (e *readError) Error() string { return "sim: " + e.path + ": " + e.err.Error() }
func (e *readError) Unwrap() error { return e.err }

func (w *World) perform(s *session, r *request) {
	r.err = nil
	switch r.kind {
	case txn:
		if r.stats, r.err = w.tree.txn(s.id, r.ops); r.err == nil {
			w.hurry(r.ops)
		}
		w.notify()
		return
	case get:
		r.data, r.stat, r.err = w.tree.get(r.path)
	case children:
		r.names, r.err = w.tree.list(r.path)
	case watchChildren:
		_, _, r.err = w.tree.get(r.path)
		fallthrough
	case watchNode:
		if r.err == nil && !r.told && r.c.session == s {
			r.c.watches = append(r.c.watches, r.watch)
		}
	}
	if r.err != nil {
		r.err = &readError{r.path, r.err}
	}
}

// hurry lets clients whose sessions are over come back right after somebody
// else's transaction on the nodes of their own last one, when what they knew
// has just become wrong.
func (w *World) hurry(ops []coord.Op) {
	for _, c := range w.clients {
		if c.away == present || c.away == crashed || !c.session.over {
			continue
		}
		related := slices.ContainsFunc(c.last, func(own coord.Op) bool {
			return slices.ContainsFunc(ops, func(op coord.Op) bool { return op.Path == own.Path })
		})
		if related && w.rnd.IntN(3) == 0 {
			c.back = time.Now()
		}
	}
}

// deliver gives a client its next answer.
func (w *World) deliver(c *Client) {
	r := c.answers[0]
	c.answers = c.answers[1:]
	if r.kind == news {
		r.watch.fire()
		return
	}
	r.tell()
}

// notify queues the news of the last transaction for those who watch.
func (w *World) notify() {
	if len(w.tree.touched) == 0 {
		return
	}
	for _, c := range w.clients {
		c.watches = slices.DeleteFunc(c.watches, func(x *watch) bool {
			changed := slices.Contains(w.tree.touched, x.path)
			if x.kind == watchChildren {
				gone := changed && w.tree.nodes[x.path] == nil
				changed = gone || slices.Contains(w.tree.parents, x.path)
			}
			if !changed {
				return false
			}
			c.answers = append(c.answers, &request{c: c, kind: news, watch: x})
			return true
		})
	}
	w.tree.touched, w.tree.parents = w.tree.touched[:0], w.tree.parents[:0]
}

// String is for traces. It shows no data, which may be random.
func (r *request) String() string {
	if r.kind != txn {
		return kindNames[r.kind] + " " + r.path
	}
	var b strings.Builder
	b.WriteString("txn")
	for _, op := range r.ops {
		fmt.Fprintf(&b, " %s %s", [...]string{"create", "set", "delete", "check"}[op.Kind], op.Path)
		if op.Kind != coord.OpCreate && op.Version != coord.AnyVersion {
			fmt.Fprintf(&b, "@%d", op.Version)
		}
	}
	return b.String()
}

func outcome(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}
