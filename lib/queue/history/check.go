package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/distci/distci/lib/queue"
)

// Rule is one promise of the queue.
type Rule string

// The rules.
const (
	CommittedOnce Rule = "a ticket is committed at most once"
	NewestHolder  Rule = "only the newest claim can commit or give back"
	OwnClaim      Rule = "a change belongs to a claim that its worker made before"
	TokensGrow    Rule = "the tokens of a ticket's claims grow with time"
	TokenOfOne    Rule = "a token belongs to one claim"
	AttemptsGrow  Rule = "every claim is another attempt"
	PostedFirst   Rule = "a ticket is posted before it is claimed"
	EndsOnce      Rule = "a claim ends once"
	HeldIsHeld    Rule = "a ticket that is held is not requeued"
	EndIsEnd      Rule = "nothing happens to a ticket after its commit"
	AllCommitted  Rule = "every posted ticket is committed in the end"
)

// Violation is a rule that was broken, with the events that prove it. It is an
// error of the kind Internal: a defect of ours.
type Violation struct {
	Rule   Rule
	Ticket string
	Events []queue.Event
}

func (v Violation) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "history: ticket %s: broken: %s:", v.Ticket, v.Rule)
	for _, e := range v.Events {
		fmt.Fprintf(&b, "\n\t%s %s %s", e.Begin.Format("15:04:05.000000"), e.End.Format("15:04:05.000000"), e.Event)
		if e.Worker != "" {
			fmt.Fprintf(&b, " by %s", e.Worker)
		}
		if e.Token != 0 {
			fmt.Fprintf(&b, " token %d", e.Token)
		}
		fmt.Fprintf(&b, ": %s", e.Outcome)
	}
	return b.String()
}

// Options of Check; the zero value is fine.
type Options struct {
	// Complete: the history has come to its end, so every ticket that was
	// posted must have been committed.
	Complete bool
	// Killed names the workers that were killed and so may not have written
	// their last event.
	Killed []string
}

// Check returns what in the events, in whatever order, contradicts the queue's
// promises: the tickets in the order of their ids.
func Check(events []queue.Event, o Options) []Violation {
	c := checker{Options: o}
	tickets := map[string][]queue.Event{}
	tokens := map[int64]queue.Event{}
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b queue.Event) int { return a.Begin.Compare(b.Begin) })
	for _, e := range events {
		tickets[e.Ticket] = append(tickets[e.Ticket], e)
		if e.Event != queue.EventClaim || e.Outcome != queue.Done {
			continue
		}
		if first, ok := tokens[e.Token]; ok || e.Token == 0 {
			c.broken(TokenOfOne, first, e)
		}
		tokens[e.Token] = e
	}
	for _, id := range slices.Sorted(maps.Keys(tickets)) {
		c.ticket(tickets[id])
	}
	slices.SortStableFunc(c.found, func(a, b Violation) int { return cmp.Compare(a.Ticket, b.Ticket) })
	return c.found
}

type checker struct {
	Options
	found []Violation
}

func (c *checker) broken(r Rule, events ...queue.Event) {
	events = slices.DeleteFunc(events, func(e queue.Event) bool { return e.Event == "" })
	c.found = append(c.found, Violation{r, events[len(events)-1].Ticket, events})
}

// before tells whether a had ended for certain before b began.
func before(a, b queue.Event) bool { return a.End.Before(b.Begin) }

// life is the events of one ticket that took effect for certain, and those
// that may have.
type life struct {
	all      []queue.Event
	posts    []queue.Event // done or unknown
	claims   []queue.Event // done, by token
	commits  []queue.Event // done
	releases []queue.Event // done
	requeues []queue.Event // done
}

func lifeOf(events []queue.Event) life {
	l := life{all: events}
	for _, e := range events {
		switch {
		case e.Event == queue.EventPost && e.Outcome != queue.Lost:
			l.posts = append(l.posts, e)
		case e.Outcome != queue.Done:
		case e.Event == queue.EventClaim:
			l.claims = append(l.claims, e)
		case e.Event == queue.EventCommit:
			l.commits = append(l.commits, e)
		case e.Event == queue.EventRelease:
			l.releases = append(l.releases, e)
		case e.Event == queue.EventRequeue:
			l.requeues = append(l.requeues, e)
		}
	}
	slices.SortStableFunc(l.claims, func(a, b queue.Event) int { return cmp.Compare(a.Token, b.Token) })
	return l
}

// claim finds the claim with that token.
func (l life) claim(token int64) (queue.Event, bool) {
	i := slices.IndexFunc(l.claims, func(e queue.Event) bool { return e.Token == token })
	if i < 0 || token == 0 {
		return queue.Event{}, false
	}
	return l.claims[i], true
}

// may tells whether there is an event of that name that may have taken effect.
func (l life) may(event string) bool {
	return slices.ContainsFunc(l.all, func(e queue.Event) bool { return e.Event == event && e.Outcome != queue.Lost })
}

// ticket checks the events of one ticket.
func (c *checker) ticket(events []queue.Event) {
	l := lifeOf(events)
	c.claims(l)
	for i, e := range l.commits {
		if i > 0 {
			c.broken(CommittedOnce, l.commits[0], e)
		}
		c.holder(l, e)
		c.after(l, e)
	}
	for i, e := range l.releases {
		c.holder(l, e)
		for _, other := range slices.Concat(l.releases[:i], l.commits) {
			if e.Token != 0 && e.Token == other.Token {
				c.broken(EndsOnce, e, other)
			}
		}
	}
	for _, e := range l.requeues {
		c.requeue(l, e)
	}
	if c.Complete {
		c.complete(l)
	}
}

// claims checks the claims among each other, and against the post.
func (c *checker) claims(l life) {
	for i, b := range l.claims {
		if len(l.posts) > 0 && !slices.ContainsFunc(l.posts, func(p queue.Event) bool { return !before(b, p) }) {
			c.broken(PostedFirst, b, l.posts[0])
		}
		for _, a := range l.claims[:i] { // tokens: a < b
			if before(b, a) {
				c.broken(TokensGrow, b, a)
			}
			if a.Attempt > 0 && a.Attempt >= b.Attempt && a.Token != b.Token {
				c.broken(AttemptsGrow, a, b)
			}
		}
	}
}

// holder checks that e was done by the claim that was the newest at that time.
func (c *checker) holder(l life, e queue.Event) {
	own, known := l.claim(e.Token)
	switch {
	case known && (before(e, own) || own.Worker != e.Worker):
		c.broken(OwnClaim, own, e)
	case !known && e.Session != 0: // who holds by a session has made the claim itself
		c.broken(OwnClaim, e)
	}
	for _, other := range l.claims {
		// A commit is the end, so that a newer claim proves that it came too
		// late, or else that claim did. Not so with a release.
		if e.Token != 0 && other.Token > e.Token && (e.Event == queue.EventCommit || before(other, e)) {
			c.broken(NewestHolder, other, e)
		}
	}
}

// after checks that nothing was done after the commit.
func (c *checker) after(l life, commit queue.Event) {
	for _, e := range slices.Concat(l.claims, l.releases, l.requeues) {
		if before(commit, e) {
			c.broken(EndIsEnd, commit, e)
		}
	}
}

// requeue checks that nobody held the ticket all the time in which e was done:
// from before it began until a change after it had ended that only the holder
// could make.
func (c *checker) requeue(l life, e queue.Event) {
	for _, end := range slices.Concat(l.commits, l.releases) {
		if own, ok := l.claim(end.Token); ok && before(own, e) && before(e, end) {
			c.broken(HeldIsHeld, own, e, end)
		}
	}
}

// complete checks that the ticket came to its end.
func (c *checker) complete(l life) {
	unwritten := slices.ContainsFunc(l.all, func(e queue.Event) bool { return slices.Contains(c.Killed, e.Worker) })
	posted := slices.ContainsFunc(l.posts, func(e queue.Event) bool { return e.Outcome == queue.Done })
	if (posted || len(l.claims) > 0) && !l.may(queue.EventCommit) && !unwritten {
		c.broken(AllCommitted, l.all...)
	}
	if len(l.claims) > 0 && len(l.posts) == 0 && len(c.Killed) == 0 {
		c.broken(PostedFirst, l.claims[0])
	}
}
