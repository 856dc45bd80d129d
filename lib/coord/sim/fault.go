package sim

import (
	"slices"
	"time"
)

func (w *World) chance(p float64) bool { return p > 0 && w.rnd.Float64() < p }

// strike lets one fault happen, or none.
func (w *World) strike(now time.Time) {
	f := w.o.Faults
	if len(w.clients) == 0 {
		return
	}
	c := w.clients[w.rnd.IntN(len(w.clients))]
	if c.away != present || c.closed {
		return
	}
	switch {
	case w.crashes < f.Crashes && w.chance(f.Crash):
		w.crash(c, now)
	case w.chance(f.Cut):
		w.leave(c, cut, now)
		w.cutOff(c)
	case w.chance(f.Pause):
		w.leave(c, paused, now)
	}
}

// leave makes c silent for a time that may be longer than its session can
// bear. The service may be slower than the time-out to notice, never faster.
func (w *World) leave(c *Client, how state, now time.Time) {
	t := w.o.Timeout
	d := time.Duration(w.rnd.Int64N(int64(t) / 2))
	if w.rnd.IntN(2) == 0 { // close to the end, or beyond it
		d = t/2 + time.Duration(w.rnd.Int64N(2*int64(t)))
	}
	c.away, c.back = how, now.Add(d)
	c.session.silent, c.session.end = now, now.Add(t+time.Duration(w.rnd.Int64N(int64(t)/4)))
	w.trace("%s is %s for %v", c.name, [...]string{"", "cut off", "stopped"}[how], d)
}

// cutOff loses what is under way between a client and the service.
func (w *World) cutOff(c *Client) {
	c.dropWatches()
	for _, r := range c.answers {
		w.lose(r)
	}
	c.answers = nil
	s := c.session
	arrived := w.rnd.IntN(len(s.pipeline) + 1)
	for _, r := range s.pipeline {
		w.lose(r)
	}
	s.pipeline = s.pipeline[:arrived]
	for _, r := range c.inbox { // some wait for the connection
		if w.rnd.IntN(2) == 0 {
			w.lose(r)
		}
	}
	c.inbox = slices.DeleteFunc(c.inbox, func(r *request) bool { return r.told })
}

// lose tells the caller that there will be no answer.
func (w *World) lose(r *request) {
	if r.kind == news || r.told {
		return
	}
	if r.err = errReadAgain; r.kind == txn {
		r.err = errUnknown
	}
	r.tell()
	w.trace("%s %s: no answer", r.c.name, r)
}

// comeBack connects a client again, with a new session if the old one is over.
func (w *World) comeBack(c *Client) {
	old := c.session
	c.away = present
	if !old.over {
		old.silent = time.Time{}
		w.trace("%s is back", c.name)
		return
	}
	c.session = w.newSession()
	w.trace("%s is back with session %d", c.name, c.session.id)
	c.dropWatches()
	for _, r := range old.pipeline { // refused; or the refusal did not arrive
		if r.err = errExpired; r.kind == txn && !w.calm && w.rnd.IntN(2) == 0 {
			r.err = errUnknown
		}
		r.tell()
		w.trace("%s %s: %v", c.name, r, r.err)
	}
	old.pipeline = nil
	// What was called before the process was stopped was meant for the old
	// session, unless it was stopped on its way to the call.
	for _, r := range c.inbox {
		if r.held && w.rnd.IntN(4) > 0 {
			r.asked = c.session.id
		}
	}
}

// crash ends a process. Of what it has sent, some may be carried out yet.
func (w *World) crash(c *Client, now time.Time) {
	w.crashes++
	s := c.session
	w.trace("%s crashes", c.name)
	w.leave(c, paused, now)
	c.away = crashed
	for _, r := range slices.Concat(c.answers, s.pipeline, c.inbox) {
		if r.kind != news && !r.told {
			r.crashed = true
			r.tell()
		}
	}
	c.dropWatches()
	s.pipeline = s.pipeline[:w.rnd.IntN(len(s.pipeline)+1)]
	c.inbox, c.answers = nil, nil
	w.dying = append(w.dying, s)
	c.session = &session{id: s.id, over: true}
}
