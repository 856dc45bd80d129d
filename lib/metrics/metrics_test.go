package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/observe"
	"github.com/distci/distci/lib/queue"
)

// all is metrics that have seen one of everything.
func all(t *testing.T) *Metrics {
	t.Helper()
	m := New(Options{Program: "distci-frontend", Version: "1.2.3", Serving: true})
	m.AddBytes(func() []Bytes { return []Bytes{{"log", 1, 2}} })
	m.AddQueue(func(context.Context) ([]queue.Load, error) {
		return []queue.Load{{Capabilities: []string{"execute_shell_v1", "nodelabel_gpu"}, Ready: 3, Running: 2, OldestAge: 7.5}}, nil
	}, func(context.Context) ([]member.Member, error) {
		return []member.Member{{Info: member.Info{Kind: member.Worker}}}, nil
	})
	begin := time.Now()
	var phases []observe.Phase
	for _, p := range observe.Phases() {
		phases = append(phases, observe.Phase{Name: p, Begin: begin, End: begin.Add(20 * time.Millisecond)})
	}
	for _, e := range []observe.Event{
		{Attempt: &observe.Attempt{Type: "execute-shell", Outcome: "success", Phases: phases}},
		{Attempt: &observe.Attempt{Type: "execute-shell", Outcome: observe.Released}},
		{Build: &observe.Build{Result: "failure", Created: begin, Ended: begin.Add(90 * time.Second)}},
		{Call: &observe.Call{Part: observe.Store, Operation: "put", Took: time.Millisecond, Written: 100}},
		{Call: &observe.Call{Part: observe.Store, Operation: "put", Took: time.Millisecond, Error: "full"}},
		{Call: &observe.Call{Part: observe.Coord, Operation: "transaction", Took: time.Millisecond, Error: "unknown"}},
		{Call: &observe.Call{Part: "of a later version", Operation: "x"}},
		{Session: &observe.Session{Change: observe.SessionBegun}},
		{Layer: &observe.Layer{Hit: true}},
		{Layer: &observe.Layer{}},
		{Ticket: &queue.Event{Event: queue.EventCommit, Outcome: queue.Done, Type: "execute-shell", Step: "0", Result: "success"}},
		{Ticket: &queue.Event{Event: queue.EventCommit, Outcome: queue.Lost, Type: "execute-shell", Step: "0", Result: "success"}},
		{Ticket: &queue.Event{Event: queue.EventCommit, Outcome: queue.Done, Type: "build-control"}, Dropped: 4},
	} {
		m.Add(e)
	}
	m.Begun()
	m.Ended("/jobs/{job}", "BREW", 404, time.Millisecond)
	m.Begun()
	m.Following(1)
	return m
}

func families(t *testing.T, m *Metrics) []*dto.MetricFamily {
	t.Helper()
	fs, err := m.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return fs
}

// text is the metrics as they are served.
func text(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// TestNames holds the names and the help texts against Prometheus' conventions.
func TestNames(t *testing.T) {
	problems, err := promlint.NewWithMetricFamilies(families(t, all(t))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if !strings.HasPrefix(p.Metric, "go_") && !strings.HasPrefix(p.Metric, "process_") { // others' names
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// TestFigures: what was observed is what is served.
func TestFigures(t *testing.T) {
	got := text(t, all(t))
	for _, line := range []string{
		`distci_build_info{goversion=`,
		`distci_step_attempts_total{outcome="released",type="execute-shell"} 1`,
		`distci_step_phase_duration_seconds_count{phase="restore",type="execute-shell"} 1`,
		`distci_step_phase_duration_seconds_bucket{phase="tool",type="execute-shell",le="0.025"} 1`,
		`distci_step_phase_duration_seconds_bucket{phase="tool",type="execute-shell",le="0.01"} 0`,
		`distci_step_results_total{result="success",type="execute-shell"} 1`, // neither the lost one nor the control's
		`distci_tickets_total{event="commit",outcome="done"} 2`,
		`distci_tickets_total{event="claim",outcome="done"} 0`,
		`distci_build_duration_seconds_bucket{result="failure",le="120"} 1`,
		`distci_store_operation_duration_seconds_count{operation="put"} 2`,
		`distci_store_errors_total{error="full",operation="put"} 1`,
		`distci_store_written_bytes_total 100`,
		`distci_coordination_errors_total{error="unknown",operation="transaction"} 1`,
		`distci_coordination_connected 1`,
		`distci_coordination_sessions_total{event="expired"} 0`,
		`distci_layer_cache_requests_total{result="hit"} 1`,
		`distci_observe_dropped_events_total 4`,
		`distci_http_requests_total{code="404",method="other",route="/jobs/{job}"} 1`,
		`distci_http_requests_in_flight 1`,
		`distci_http_body_bytes_total{direction="out",kind="log"} 2`,
		`distci_log_followers 1`,
		`distci_queue_ready_tickets{capabilities="execute_shell_v1 nodelabel_gpu",priority="0"} 3`,
		`distci_queue_running_tickets{capabilities="execute_shell_v1 nodelabel_gpu",priority="0"} 2`,
		`distci_queue_oldest_age_seconds{capabilities="execute_shell_v1 nodelabel_gpu",priority="0"} 7.5`,
		`distci_members{kind="worker"} 1`,
		`process_open_fds `,
		`go_goroutines `,
	} {
		if !strings.Contains(got, "\n"+line) {
			t.Errorf("missing: %s", line)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

// TestBoundedLabels: however many types and sets clients make up, the number of
// series is bounded.
func TestBoundedLabels(t *testing.T) {
	m := New(Options{Program: "p"})
	var loads []queue.Load
	for i := range 1000 {
		name := fmt.Sprint("made-up-", i)
		m.Add(observe.Event{Attempt: &observe.Attempt{Type: name, Outcome: "success"}})
		loads = append(loads, queue.Load{Capabilities: []string{name}, Ready: 1, OldestAge: float64(i)})
	}
	m.AddQueue(func(context.Context) ([]queue.Load, error) { return loads, nil }, func(context.Context) ([]member.Member, error) { return nil, nil })
	for _, f := range families(t, m) {
		if n := len(f.Metric); n > maxSets+1 {
			t.Errorf("%s has %d series", f.GetName(), n)
		}
	}
	got := text(t, m)
	for _, line := range []string{`distci_step_attempts_total{outcome="success",type="other"} 950`,
		`distci_queue_ready_tickets{capabilities="other",priority="0"} 800`, `distci_queue_oldest_age_seconds{capabilities="other",priority="0"} 999`} {
		if !strings.Contains(got, "\n"+line) {
			t.Errorf("missing: %s", line)
		}
	}
}

// TestQueueIsNotScannedAtEachScrape: however often somebody asks, the queue is
// looked at now and then; more rarely if that takes long; and a look that fails
// leaves no old figures.
func TestQueueIsNotScannedAtEachScrape(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks, takes, ready := 0, time.Duration(0), 5
		var fail error
		m := New(Options{Program: "p"})
		m.AddQueue(func(ctx context.Context) ([]queue.Load, error) {
			looks++
			select {
			case <-time.After(takes):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			if ready == 0 {
				return nil, fail
			}
			return []queue.Load{{Capabilities: []string{"x"}, Ready: ready}}, fail
		}, func(context.Context) ([]member.Member, error) { return nil, nil })
		scrape := func(n, looked int, want string) {
			t.Helper()
			before := looks
			var got string
			var g sync.WaitGroup
			for range n {
				g.Go(func() { families(t, m) })
			}
			g.Wait()
			got = text(t, m)
			if looks-before != looked || !strings.Contains(got, want) {
				t.Errorf("%d looks, want %d; and want %s in %s", looks-before, looked, want, got)
			}
		}
		const name = `distci_queue_ready_tickets{capabilities="x",priority="0"} `
		scrape(20, 1, name+"5")
		time.Sleep(queueAge - time.Millisecond)
		scrape(20, 0, name+"5")
		time.Sleep(time.Millisecond)
		ready, takes = 6, 2*time.Second
		scrape(0, 1, name+"6") // alone: who waits for a mutex stops this clock
		time.Sleep(queueShare*takes - time.Millisecond)
		scrape(1, 0, name+"6")
		time.Sleep(time.Millisecond)
		ready, takes = 0, 0
		scrape(1, 1, name+"0") // a set that was there is still told
		time.Sleep(queueAge)
		fail = errors.New("no answer")
		scrape(1, 1, "distci_queue_scan_errors_total 1")
		if strings.Contains(text(t, m), name) {
			t.Error("old figures are told after a look that failed")
		}
		time.Sleep(queueAge)
		fail, takes, ready = nil, time.Hour, 7
		scrape(1, 1, "distci_queue_scan_errors_total 2") // it is given up
	})
}

// TestTextfile: programs that write the same file one after the other and at the
// same time count on.
func TestTextfile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "distci.prom")
	one := func(typ string) {
		m := New(Options{Program: "distci-claim", Version: "1"})
		m.Add(observe.Event{Attempt: &observe.Attempt{Type: typ, Outcome: "success", Phases: []observe.Phase{
			{Name: observe.Tool, Begin: time.Unix(0, 0), End: time.Unix(3, 0)}}}})
		if err := m.WriteTextfile(file); err != nil {
			t.Error(err)
		}
	}
	one("publish-artifacts")
	var g sync.WaitGroup
	for range 10 {
		g.Go(func() { one("execute-shell") })
	}
	g.Wait()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`distci_step_attempts_total{outcome="success",type="execute-shell"} 10`,
		`distci_step_attempts_total{outcome="success",type="publish-artifacts"} 1`,
		`distci_step_phase_duration_seconds_bucket{phase="tool",type="execute-shell",le="5"} 10`,
		`distci_step_phase_duration_seconds_bucket{phase="tool",type="execute-shell",le="2.5"} 0`,
		`distci_step_phase_duration_seconds_bucket{phase="tool",type="execute-shell",le="+Inf"} 10`,
		`distci_step_phase_duration_seconds_sum{phase="tool",type="execute-shell"} 30`,
		`distci_step_phase_duration_seconds_count{phase="tool",type="publish-artifacts"} 1`,
	} {
		if !strings.Contains(string(b), "\n"+line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	if t.Failed() || bytes.Contains(b, []byte("process_")) {
		t.Errorf("%s", b)
	}
	if left, _ := filepath.Glob(file + ".*"); len(left) != 1 { // the lock
		t.Errorf("left: %v", left)
	}
	if err := os.WriteFile(file, []byte("what is this\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := New(Options{}).WriteTextfile(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file of somebody else: %v", err)
	}
}
