package queue

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

// listed does something right before the claims are listed, once.
type listed struct {
	coord.Conn
	first func()
}

func (l *listed) Children(ctx context.Context, path string) ([]string, error) {
	if path == claimRoot && l.first != nil {
		l.first()
		l.first = nil
	}
	names, err := l.Conn.Children(ctx, path)
	if path == leaseRoot { // as they were before
		names = nil
	}
	return names, err
}

// TestRequeueLeasedMeanwhile: a ticket that is leased between the listing and
// the transaction is left alone.
func TestRequeueLeasedMeanwhile(t *testing.T) {
	q, conn := open(t, file(t), 10*time.Second)
	tk := shell()
	if err := q.Post(t.Context(), tk); err != nil {
		t.Fatal(err)
	}
	c := claim(t, q, offer)
	var lease *Claim
	sweeper, err := New(t.Context(), &listed{conn, func() {
		if err := c.Release(t.Context(), fault.Errorf(fault.Temporary, "x"), false); err != nil {
			t.Fatal(err)
		}
		back, ref, err := q.Get(t.Context(), tk.ID)
		if err == nil {
			lease, err = q.Lease(t.Context(), ref, back, "rest", time.Minute)
		}
		if err != nil {
			t.Fatal(err)
		}
	}}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := sweeper.Requeue(t.Context()); err != nil || slices.Contains(ids, tk.ID) {
		t.Errorf("requeued %v, %v, under the lease", ids, err)
	}
	if _, err := q.Commit(t.Context(), Change{End: lease}); err != nil {
		t.Errorf("the lease's commit: %v", err)
	}
}
