package repo

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/ticket"
)

// TestMembers: what runs is shown with the session that holds it, also when two
// workers have the same name; who is no member is shown by what it holds.
func TestMembers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "coord.db")
	process := func() (*Repo, coord.Conn) {
		conn := connect(t, file)
		r, err := Open(t.Context(), conn, nil, queue.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return r, conn
	}
	r, _ := process()
	if ms, err := r.Members(t.Context()); err != nil || len(ms) != 0 {
		t.Errorf("in an empty cluster: %+v, %v", ms, err)
	}
	// Three workers; two of one name, of which the second holds two tickets,
	// and one that is no member. A script has leased one, under that name, too.
	var conns []coord.Conn
	for i, slots := range []int{1, 2, 3} {
		w, conn := process()
		conns = append(conns, conn)
		name := "same"
		if i == 2 {
			name = "old"
		} else {
			stop := member.Join(conn, func() member.Info { return member.Info{Kind: member.Worker, Name: name, Slots: slots} }, slog.New(slog.DiscardHandler))
			t.Cleanup(stop)
		}
		for n := range i {
			tk := ticket.New("execute-shell", "execute_shell_v1")
			if n > 0 {
				tk.JobID, tk.BuildNumber, tk.Step, tk.Name = "j", 7, "2", "compile"
			}
			if err := w.Queue().Post(t.Context(), tk); err != nil {
				t.Fatal(err)
			}
			if c, err := w.Queue().Claim(t.Context(), tk.Capabilities, name, nil); c == nil || err != nil {
				t.Fatalf("%v, %v", c, err)
			}
		}
	}
	leased := ticket.New("odd", "odd")
	if err := r.Queue().Post(t.Context(), leased); err != nil {
		t.Fatal(err)
	}
	tk, ref, err := r.Queue().Get(t.Context(), leased.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Queue().Lease(t.Context(), ref, tk, "same", time.Hour); err != nil {
		t.Fatal(err)
	}
	show := func(ms []member.Member) (lines []string) {
		for _, m := range ms {
			line := fmt.Sprintf("%s %s %d:", m.Kind, m.Name, m.Slots)
			for _, r := range m.Runs {
				line += fmt.Sprintf(" %s %q.%d.%q %q %d", r.Type, r.JobID, r.Build, r.Step, r.Name, r.Attempt)
				if (r.Until != nil) != (m.Kind == member.REST) || r.Since == nil || r.Ticket == "" {
					t.Errorf("runs %+v", r)
				}
			}
			lines = append(lines, line)
		}
		slices.Sort(lines)
		return lines
	}
	const one = ` execute-shell "".0."" "" 1`
	want := []string{
		`rest same 0: odd "".0."" "" 1`,
		`worker old 0:` + one + ` execute-shell "j".7."2" "compile" 1`,
		`worker same 1:`,
		`worker same 2:` + one,
	}
	var got []string
	for end := time.Now().Add(time.Minute); !slices.Equal(got, want); time.Sleep(5 * time.Millisecond) {
		ms, err := r.Members(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got = show(ms); time.Now().After(end) {
			t.Fatalf("there is %q, want %q", got, want)
		}
	}
	for _, c := range conns {
		c.Close()
	}
	ms, err := r.Members(t.Context())
	if got := show(ms); err != nil || !slices.Equal(got, want[:1]) {
		t.Errorf("after all have gone: %q, %v", got, err)
	}
}

// TestForeignMember: a node that is not ours has no part in what others hold.
func TestForeignMember(t *testing.T) {
	r, _ := open(t)
	plant(t, r.conn, "/members", "/members/x=garbage")
	ms, err := r.Members(t.Context())
	if err != nil || len(ms) != 1 || ms[0].Kind != member.Unknown || ms[0].ID != "x" {
		t.Errorf("%+v, %v", ms, err)
	}
}
