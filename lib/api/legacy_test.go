package api_test

import (
	"testing"

	"github.com/distci/distci/lib/ticket"
)

// TestOwnCopy: a worker that keeps the ticket as it has found it, and does not
// look at the reply to its claim, completes it at any attempt; one that was too
// slow completes nothing.
func TestOwnCopy(t *testing.T) {
	l := newLab(t)
	l.job("j", 1)
	l.control()
	found := l.pending()
	if err := found.Set("lease", 1); err != nil {
		t.Fatal(err)
	}
	var late []*ticket.Ticket // what workers know whose time has run out
	for range 2 {
		late = append(late, found, l.claim(found, "w"))
		found = l.expire(found.ID)
		for _, tk := range late {
			l.complete(409, tk, ticket.Success)
		}
	}
	l.claim(found, "w")
	for _, tk := range late {
		l.complete(409, tk, ticket.Success)
	}
	if done := l.complete(200, found, ticket.Success).task(t).Data; done.Attempt != 3 {
		t.Errorf("%s", encode(done))
	}
	l.control()
	if s := l.state("j", 1); s["result"] != "success" {
		t.Errorf("%v", s)
	}
}
