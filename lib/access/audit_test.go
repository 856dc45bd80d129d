package access

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/sim"
)

// add adds n records.
func (a *Audit) add(who string, n int) {
	for i := range n {
		a.Add(Record{Time: time.Now(), Who: who, Job: fmt.Sprintf("j%d", i%2), Build: int64(i), Outcome: Done})
	}
}

func audited(t *testing.T, st store.Store, f Filter) (records []Record) {
	t.Helper()
	if err := Audits(t.Context(), st, f, func(r Record) error { records = append(records, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return records
}

// TestAudit: several frontends write over some hours, and all of it comes out
// in the order of time.
func TestAudit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := sim.New(time.Now).Open()
		var appends atomic.Int64
		st.Hook = func(op, key string, do func() error) error {
			if op == "append" {
				appends.Add(1)
			}
			return do()
		}
		var logs []*Audit
		for _, name := range []string{"a", "b", "c"} {
			logs = append(logs, NewAudit(st, name, quiet))
		}
		begin := time.Now()
		for range 5 {
			for i, a := range logs {
				a.add(string(rune('a'+i)), 20)
				time.Sleep(time.Millisecond)
			}
			time.Sleep(50 * time.Minute)
		}
		for _, a := range logs {
			if err := a.Close(t.Context()); err != nil || a.Lost() > 0 {
				t.Fatal(err, a.Lost())
			}
		}
		if n := appends.Load(); n != 15 {
			t.Errorf("%d appends for 15 batches", n)
		}
		all := audited(t, st, Filter{})
		if len(all) != 300 || !slices.IsSortedFunc(all, func(a, b Record) int { return a.Time.Compare(b.Time) }) {
			t.Errorf("%d records, or not in order", len(all))
		}
		for _, c := range []struct {
			f    Filter
			want int
		}{
			{Filter{Who: "b"}, 100},
			{Filter{Who: "[ab]"}, 200},
			{Filter{Job: "j1"}, 150},
			{Filter{Job: "j*", Who: "c"}, 100},
			{Filter{Since: begin.Add(50 * time.Minute)}, 240},
			{Filter{Since: begin.Add(50 * time.Minute), Until: begin.Add(100 * time.Minute)}, 60},
			{Filter{Until: begin}, 0},
			{Filter{Since: time.Now()}, 0},
		} {
			if n := len(audited(t, st, c.f)); n != c.want {
				t.Errorf("%+v: %d records, want %d", c.f, n, c.want)
			}
		}
		// Whole hours go, and no other.
		if n, err := ForgetAudit(t.Context(), st, begin.Add(110*time.Minute)); err != nil || n == 0 {
			t.Errorf("%d, %v", n, err)
		}
		if left := audited(t, st, Filter{}); len(left) != 180 || left[0].Time.Before(begin.Add(100*time.Minute).Truncate(time.Hour)) {
			t.Errorf("%d records are left, from %v", len(left), left[0].Time)
		}
		if n, err := ForgetAudit(t.Context(), st, time.Now().Add(time.Hour)); err != nil || n == 0 || len(st.Keys()) != 0 {
			t.Errorf("%d, %v: %v", n, err, st.Keys())
		}
	})
}

// TestAuditStoreFails: records wait while the store does not take them, also if
// it has taken one and says that it has not; none is lost, and none is there
// twice.
func TestAuditStoreFails(t *testing.T) {
	for name, hook := range map[string]func(n int, do func() error) error{
		"not done":          func(int, func() error) error { return store.ErrUnknown },
		"done, not told":    func(_ int, do func() error) error { do(); return store.ErrUnknown },
		"full":              func(int, func() error) error { return store.ErrFull },
		"sometimes, either": func(n int, do func() error) error { return []error{do(), store.ErrUnknown}[n%2] },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				st := sim.New(time.Now).Open()
				var calls atomic.Int64
				var works atomic.Bool
				st.Hook = func(op, key string, do func() error) error {
					if n := calls.Add(1); !works.Load() {
						return hook(int(n), do)
					}
					return do()
				}
				var log bytes.Buffer
				a := NewAudit(st, "a", slog.New(slog.NewTextHandler(&log, nil)))
				for range 30 {
					a.add("w", 3)
					time.Sleep(7 * time.Second)
				}
				if n := calls.Load(); n > 100 {
					t.Errorf("the store was tried %d times in 210 seconds", n)
				}
				works.Store(true)
				time.Sleep(auditPatient + time.Second)
				synctest.Wait()
				if n := len(audited(t, st, Filter{})); n != 90 || a.Lost() != 0 {
					t.Errorf("%d records, %d lost", n, a.Lost())
				}
				if err := a.Close(t.Context()); err != nil {
					t.Error(err)
				}
				if !strings.Contains(log.String(), "cannot be written at the moment") {
					t.Errorf("the log does not say so: %s", &log)
				}
			})
		})
	}
}

// TestAuditOverflow: what is too much goes to the process's log, whole; what is
// in the store says how many that were; together nothing is missing.
func TestAuditOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := sim.New(time.Now).Open()
		var works atomic.Bool
		st.Hook = func(op, key string, do func() error) error {
			if !works.Load() {
				return store.ErrUnknown
			}
			return do()
		}
		var log bytes.Buffer
		a := NewAudit(st, "a", slog.New(slog.NewTextHandler(&log, nil)))
		const all = auditQueue + 5_000
		for range all / 500 {
			a.add("w", 500)
			time.Sleep(time.Second)
		}
		lost := a.Lost()
		if lost == 0 || lost > 5_000+auditQueue/5 {
			t.Errorf("%d lost", lost)
		}
		works.Store(true)
		if err := a.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		told, there := 0, 0
		for _, r := range audited(t, st, Filter{}) {
			if r.Lost == 0 {
				there++
			}
			told += r.Lost
		}
		if logged := strings.Count(log.String(), "is here only"); told != lost || logged != lost || there+lost != all {
			t.Errorf("%d records, %d lost, %d told in the store, %d in the log; %d in all", there, lost, told, logged, all)
		}
	})
}

// TestAuditClose: a store that does not answer does not hold up the end, and
// the log has the records then.
func TestAuditClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		a := NewAudit(hanging{sim.New(time.Now).Open()}, "a", slog.New(slog.NewTextHandler(&log, nil)))
		a.add("w", 7)
		time.Sleep(time.Second) // it is being written
		a.add("w", 2)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		if err := a.Close(ctx); fault.Of(err) != fault.Temporary || !strings.Contains(err.Error(), "9 records") {
			t.Errorf("%v", err)
		}
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("it took %v", took)
		}
		if n := strings.Count(log.String(), "is here only"); n != 9 {
			t.Errorf("%d records in the log:\n%s", n, &log)
		}
	})
}

// hanging is a store that does not answer.
type hanging struct{ store.Store }

func (hanging) Append(ctx context.Context, _ string, _ int64, _ []byte) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestAuditDamaged: a line that is being written is none yet; one that cannot
// be read is told, and hides no other.
func TestAuditDamaged(t *testing.T) {
	st := sim.New(time.Now).Open()
	good := `{"time":"2026-11-21T14:00:00Z","who":"a","outcome":"done"}` + "\n"
	put := func(key, text string) {
		if _, err := st.Put(t.Context(), key, strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	put("audit/2026-11-21T14/a", good+good[:20])
	if n := len(audited(t, st, Filter{})); n != 1 {
		t.Errorf("%d records", n)
	}
	put("audit/2026-11-21T14/b", good+"nonsense\n{}\n"+good)
	n := 0
	err := Audits(t.Context(), st, Filter{}, func(Record) error { n++; return nil })
	if n != 3 || fault.Of(err) != fault.Verdict || !strings.Contains(err.Error(), "2 lines") {
		t.Errorf("%d records, %v", n, err)
	}
	if err := Audits(t.Context(), st, Filter{Who: "[a"}, func(Record) error { return nil }); fault.Of(err) != fault.Usage {
		t.Error(err)
	}
}
