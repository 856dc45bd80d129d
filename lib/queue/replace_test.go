package queue

import (
	"errors"
	"testing"
	"time"

	"github.com/distci/distci/lib/ticket"
)

// TestReplaceOfClaimed: a ticket that was claimed is not replaced, even if
// whoever wants it has seen it as unclaimed and in its present version.
func TestReplaceOfClaimed(t *testing.T) {
	q, _ := open(t, file(t), 10*time.Second)
	if err := q.Post(t.Context(), shell()); err != nil {
		t.Fatal(err)
	}
	c := claim(t, q, offer)
	tk, ref, err := q.Get(t.Context(), c.Ticket.ID)
	if err != nil || !ref.Claimed() {
		t.Fatal(ref, err)
	}
	ref.claimed = false
	for _, status := range []string{ticket.Pending, ticket.Running, ticket.Complete} {
		tk.Status = status
		if err := q.Replace(t.Context(), ref, tk); !errors.Is(err, ErrLost) {
			t.Errorf("replaced by a %s one: %v", status, err)
		}
	}
	if _, err := q.Commit(t.Context(), Change{End: c}); err != nil {
		t.Errorf("the holder was disturbed: %v", err)
	}
}

// TestReplaceOfKept: a ticket that was kept after its end can be changed, and
// be made ready once more, in its own set or another.
func TestReplaceOfKept(t *testing.T) {
	q, conn := open(t, file(t), 10*time.Second)
	for _, caps := range [][]string{{"execute_shell_v1"}, {"nodelabel_gpu"}} {
		if err := q.Post(t.Context(), shell()); err != nil {
			t.Fatal(err)
		}
		c := claim(t, q, offer)
		c.Ticket.Status, c.Ticket.Result = ticket.Complete, ticket.Success
		if _, err := q.Commit(t.Context(), Change{End: c, Keep: true}); err != nil {
			t.Fatal(err)
		}
		for _, status := range []string{ticket.Complete, ticket.Pending, "", ticket.Pending} {
			tk, ref, err := q.Get(t.Context(), c.Ticket.ID)
			if err != nil {
				t.Fatal(err)
			}
			tk.Status, tk.Capabilities = status, caps
			if err := q.Replace(t.Context(), ref, tk); err != nil {
				t.Fatalf("to %q: %v", status, err)
			}
			if got, _, err := q.Get(t.Context(), tk.ID); err != nil || got.Status != status {
				t.Errorf("%q: %+v, %v", status, got, err)
			}
		}
		if c = claim(t, q, offer); c == nil {
			t.Fatal("what was made ready again cannot be claimed")
		}
		if _, err := q.Commit(t.Context(), Change{End: c}); err != nil {
			t.Fatal(err)
		}
	}
	empty(t, conn)
}
