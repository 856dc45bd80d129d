package queue

import (
	"slices"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/ticket"
)

// heldBy lists who holds what, as "worker ticket".
func heldBy(t *testing.T, q *Queue) []string {
	t.Helper()
	held, err := q.Claims(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, h := range held {
		if h.Ticket.Status != ticket.Running || h.Ticket.Assignee != h.Worker || h.Ticket.Started == nil || (h.Session == 0) == h.Until.IsZero() {
			t.Errorf("held: %+v, %+v", h, h.Ticket)
		}
		got = append(got, h.Worker+" "+h.Ticket.ID)
	}
	return got
}

// TestClaims: what is held by a session or a lease is listed, with its holder;
// what is not, or no longer, is not.
func TestClaims(t *testing.T) {
	path := file(t)
	q, conn := open(t, path, 10*time.Second)
	second, secondConn := open(t, path, 10*time.Second)
	if got := heldBy(t, q); len(got) != 0 {
		t.Errorf("in an empty queue: %v", got)
	}
	var ids []string
	for range 5 {
		tk := shell()
		ids = append(ids, tk.ID)
		if err := q.Post(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
	}
	first := claim(t, q, offer)
	if _, err := second.Claim(t.Context(), offer, "x", nil); err != nil {
		t.Fatal(err)
	}
	lease := func(id string, d time.Duration) {
		t.Helper()
		tk, ref, err := q.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.Lease(t.Context(), ref, tk, "script", d); err != nil {
			t.Fatal(err)
		}
	}
	lease(ids[2], time.Hour)
	lease(ids[3], 0) // it has run out, and nobody has noticed
	if got, want := heldBy(t, q), []string{"w " + ids[0], "x " + ids[1], "script " + ids[2]}; !slices.Equal(got, want) {
		t.Errorf("held %v, want %v", got, want)
	}
	held, _ := q.Claims(t.Context())
	if a, b := held[0].Session, held[1].Session; a != conn.Session().ID || b != secondConn.Session().ID {
		t.Errorf("sessions %d and %d", a, b)
	}
	if left := time.Until(held[2].Until); left < 59*time.Minute || left > time.Hour {
		t.Errorf("the lease lasts %v", left)
	}
	secondConn.Close() // its holder dies; nobody has noticed
	if _, err := q.Commit(t.Context(), Change{End: first}); err != nil {
		t.Fatal(err)
	}
	if got, want := heldBy(t, q), []string{"script " + ids[2]}; !slices.Equal(got, want) {
		t.Errorf("held %v, want %v", got, want)
	}
}

// TestLoads: per set of capabilities, how much waits and since when, and how
// much runs.
func TestLoads(t *testing.T) {
	q, _ := open(t, file(t), 10*time.Second)
	loads := func() []Load {
		t.Helper()
		ls, err := q.Loads(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return ls
	}
	if got := loads(); got == nil || len(got) != 0 {
		t.Errorf("of an empty queue: %#v", got)
	}
	// Ids made by us tell their time: here 100 and 50 s ago.
	old := func(d time.Duration) *ticket.Ticket {
		tk := shell("nodelabel_gpu")
		ms := time.Now().Add(-d).UnixMilli()
		const hex = "0123456789abcdef"
		id := []byte(tk.ID)
		for i := len("xxxxxxxx-xxxx") - 1; i >= 0; i-- {
			if id[i] != '-' {
				id[i] = hex[ms&15]
				ms >>= 4
			}
		}
		tk.ID = string(id)
		return tk
	}
	parked := shell()
	parked.Status = ""
	foreign := ticket.New("x")
	foreign.ID = "00000000-0000-4000-8000-000000000000" // tells nothing: it was posted just now
	future := ticket.New("y", "y")
	future.ID = old(-time.Hour).ID // the poster's clock is wrong
	for _, tk := range []*ticket.Ticket{parked, old(50 * time.Second), old(100 * time.Second), shell(), foreign, future} {
		if err := q.Post(t.Context(), tk); err != nil {
			t.Fatal(err)
		}
	}
	if c := claim(t, q, []string{"execute_shell_v1"}); c == nil || c.Ticket.ID == "" {
		t.Fatal("nothing claimed")
	}
	got := loads()
	at := func(caps ...string) Load {
		t.Helper()
		i := slices.IndexFunc(got, func(l Load) bool { return slices.Equal(l.Capabilities, caps) })
		if i < 0 {
			t.Fatalf("no load of %v in %+v", caps, got)
		}
		return got[i]
	}
	if len(got) != 4 {
		t.Errorf("loads %+v", got)
	}
	if l := at("execute_shell_v1", "nodelabel_gpu"); l.Ready != 2 || l.Running != 0 || l.OldestAge < 99.9 || l.OldestAge > 160 {
		t.Errorf("%+v", l)
	}
	if l := at(); l.Ready+l.Running != 1 || l.Capabilities == nil || l.OldestAge > 60 {
		t.Errorf("of tickets for anybody: %+v", l)
	}
	if l := at("execute_shell_v1"); l.Ready+l.Running != 1 || l.OldestAge > 60 {
		t.Errorf("%+v", l)
	}
	if l := at("y"); l.Ready != 1 || l.OldestAge != 0 {
		t.Errorf("of the future: %+v", l)
	}
	if n := at().Running + at("execute_shell_v1").Running; n != 1 {
		t.Errorf("%d run", n)
	}
	// An entry that went between two looks is no error.
	if at, err := q.posted(t.Context(), queueRoot, foreign.ID); err != nil || !at.IsZero() {
		t.Errorf("%v, %v", at, err)
	}
}

// TestLoadsOfManySlices: a long queue is counted to the last ticket.
func TestLoadsOfManySlices(t *testing.T) {
	q, conn := open(t, file(t), 10*time.Second)
	s, err := setOf(shell())
	if err != nil {
		t.Fatal(err)
	}
	n, first := 0, shell()
	for i, count := range []int{0, 3, 5, 0, 2} { // the first may be used up
		p := place{s.name, sliceName(i), ""}
		if err := q.ensureSlice(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		for range count {
			tk := shell()
			if n == 0 {
				tk = first
			}
			p.id = tk.ID
			data, err := encode(tk)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Txn(t.Context(), coord.Create(p.ticket(), data), coord.Create(p.ready(), nil)); err != nil {
				t.Fatal(err)
			}
			n++
		}
	}
	ready, oldest, err := q.ready(t.Context(), queueRoot+"/"+s.name+"/r")
	want, _ := q.posted(t.Context(), "", first.ID)
	if err != nil || ready != n || !oldest.Equal(want) {
		t.Errorf("%d ready since %v, want %d since %v: %v", ready, oldest, n, want, err)
	}
}
