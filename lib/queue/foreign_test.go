package queue

import (
	"errors"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
)

// TestForeign: what somebody else has put into our tree is told once, left
// alone, and hinders nobody.
func TestForeign(t *testing.T) {
	q, conn := open(t, file(t), 10*time.Second)
	if err := q.Post(t.Context(), shell()); err != nil { // makes the folders
		t.Fatal(err)
	}
	if _, err := q.Commit(t.Context(), Change{End: claim(t, q, offer)}); err != nil {
		t.Fatal(err)
	}
	r, tt := queueRoot+"/execute_shell_v1/r/0000000000/", queueRoot+"/execute_shell_v1/t/0000000000/"
	const other = "00000000-0000-7000-8000-000000000001" // older than every ticket
	theirs := []coord.Op{
		coord.Create(r+"0", nil), coord.Create(r+"!", nil), coord.Create(tt+"!", []byte("x")),
		coord.Create(r+"00000000", nil), coord.Create(tt+"00000000", []byte(`{"id":"`+other+`","type":"x","status":"pending"}`)),
		coord.Create(queueRoot+"/nobody", nil), coord.Create(queueRoot+"/~~", []byte("x")), coord.Create(queueRoot+"/@any", nil), coord.Create(queueRoot+"/@any/r", nil),
		coord.Create(queueRoot+"/@any/r/z", nil),
		coord.Create(runRoot+"/!", nil), coord.Create(runRoot+"/x", []byte("..//")), coord.Create(runRoot+"/y", []byte("a/b")),
		coord.Create(claimRoot+"/!", []byte("x")), coord.Create(leaseRoot+"/x", []byte("x")),
	}
	if _, err := conn.Txn(t.Context(), theirs...); err != nil {
		t.Fatal(err)
	}
	told := 0
	for range 3 {
		if c, err := q.Claim(t.Context(), offer, "w", nil); c != nil {
			t.Fatalf("claimed %+v", c.Ticket)
		} else if err != nil {
			told++
			if !errors.Is(err, errForeign) || fault.Of(err) != fault.Internal {
				t.Error(err)
			}
		}
	}
	if told != 1 {
		t.Errorf("told %d times", told)
	}
	mine := shell()
	if err := q.Post(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	c := claim(t, q, offer)
	if c == nil || c.Ticket.ID != mine.ID {
		t.Fatalf("claimed %+v", c)
	}
	// Its holder goes, and is not hidden by their nodes either.
	if _, err := conn.Txn(t.Context(), coord.Delete(c.path, coord.AnyVersion)); err != nil {
		t.Fatal(err)
	}
	ids, err := q.Requeue(t.Context())
	if len(ids) != 1 || !errors.Is(err, errForeign) {
		t.Errorf("requeued %q, %v", ids, err)
	}
	if _, err := q.Requeue(t.Context()); err != nil {
		t.Errorf("told again: %v", err)
	}
	if c := claim(t, q, offer); c == nil || c.Ticket.ID != mine.ID {
		t.Fatalf("claimed %+v", c)
	}
	for _, op := range theirs {
		if _, _, err := conn.Get(t.Context(), op.Path); err != nil {
			t.Errorf("%s: %v", op.Path, err)
		}
	}
	if _, err := q.List(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := q.Loads(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := q.Claims(t.Context()); err != nil {
		t.Error(err)
	}
}
