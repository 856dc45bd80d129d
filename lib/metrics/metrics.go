// Package metrics makes Prometheus metrics of what is observed.
//
// Nothing is registered globally, and the number of series is bounded: no
// label holds a job, a build, a path or a key. What a client can choose, such
// as the type of a ticket, is a label up to a number of different values, and
// "other" from then on. See "Metrics" in distci(7).
package metrics

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/distci/distci/lib/observe"
	"github.com/distci/distci/lib/queue"
)

// The bounds of histograms, in seconds. Where the server asks for native
// histograms it gets those, which need no bounds.
var (
	callBuckets  = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	phaseBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200}
	buildBuckets = []float64{1, 5, 15, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200}
)

// Metrics are the metrics of one process.
type Metrics struct {
	Registry *prometheus.Registry

	calls      map[string]*prometheus.HistogramVec // by part of the cluster
	callErrors map[string]*prometheus.CounterVec
	written    prometheus.Counter
	connected  prometheus.Gauge
	sessions   *prometheus.CounterVec
	tickets    *prometheus.CounterVec
	results    *prometheus.CounterVec
	attempts   *prometheus.CounterVec
	phases     *prometheus.HistogramVec
	builds     *prometheus.CounterVec
	buildTook  *prometheus.HistogramVec
	layers     *prometheus.CounterVec
	dropped    prometheus.Counter

	requests  *prometheus.CounterVec
	took      *prometheus.HistogramVec
	inFlight  prometheus.Gauge
	followers prometheus.Gauge

	types *limited // of tickets
}

// Options of New.
type Options struct {
	Program string // that is observed
	Version string
	PID     func() (int, error) // of it; nil: this process
	Serving bool                // it serves HTTP
}

// New makes the metrics of a process, all of which are in its registry.
func New(o Options) *Metrics {
	m := &Metrics{Registry: prometheus.NewRegistry(), types: newLimited(50)}
	f := factory{m.Registry}
	f.add(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{PidFn: o.PID}))
	if o.PID == nil {
		f.add(collectors.NewGoCollector())
	}
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "distci_build_info", Help: "What program this is; always 1."}, []string{"program", "version", "goversion"})
	f.add(info)
	info.WithLabelValues(o.Program, o.Version, runtime.Version()).Set(1)

	m.calls = map[string]*prometheus.HistogramVec{
		observe.Store: f.histogram("distci_store_operation_duration_seconds", "How long operations on the store took; a get until its first byte.", callBuckets, "operation"),
		observe.Coord: f.histogram("distci_coordination_operation_duration_seconds", "How long operations on the coordination service took.", callBuckets, "operation"),
	}
	m.callErrors = map[string]*prometheus.CounterVec{
		observe.Store: f.counters("distci_store_errors_total", "Operations on the store that failed; an answer such as 'no such object' is none.", "operation", "error"),
		observe.Coord: f.counters("distci_coordination_errors_total", "Operations on the coordination service that failed; a refusal is none.", "operation", "error"),
	}
	m.written = f.counter("distci_store_written_bytes_total", "Bytes that were written to the store.")
	m.connected = f.gauge("distci_coordination_connected", "Whether the session with the coordination service can be relied on.")
	m.sessions = f.counters("distci_coordination_sessions_total", "What became of sessions with the coordination service: begun, lost (no answer), back, expired.", "event")
	for _, e := range []string{observe.SessionBegun, observe.SessionLost, observe.SessionBack, observe.SessionExpired} {
		m.sessions.WithLabelValues(e)
	}
	m.tickets = f.counters("distci_tickets_total", "What was done to tickets: post, claim, commit, release, requeue; and what came of it.", "event", "outcome")
	for _, e := range []string{queue.EventPost, queue.EventClaim, queue.EventCommit, queue.EventRelease, queue.EventRequeue} {
		m.tickets.WithLabelValues(e, queue.Done)
	}
	m.results = f.counters("distci_step_results_total", "Results of steps that were committed.", "type", "result")
	m.attempts = f.counters("distci_step_attempts_total", "Attempts at steps that have ended: with a result, released or lost.", "type", "outcome")
	m.phases = f.histogram("distci_step_phase_duration_seconds", "How long the phases of attempts took.", phaseBuckets, "type", "phase")
	m.builds = f.counters("distci_builds_finished_total", "Builds that have ended.", "result")
	m.buildTook = f.histogram("distci_build_duration_seconds", "How long builds took from their trigger to their end.", buildBuckets, "result")
	m.layers = f.counters("distci_layer_cache_requests_total", "Layers of workspaces that were asked for, and whether the cache had them: hit or miss.", "result")
	m.layers.WithLabelValues("hit")
	m.layers.WithLabelValues("miss")
	m.dropped = f.counter("distci_observe_dropped_events_total", "Events that were lost, and are missing in these metrics, because the observer was too slow.")
	if o.Serving {
		m.requests = f.counters("distci_http_requests_total", "Requests that were answered, by the pattern of their path.", "route", "method", "code")
		m.took = f.histogram("distci_http_request_duration_seconds", "How long requests took until the end of the answer.", callBuckets, "route", "method")
		m.inFlight = f.gauge("distci_http_requests_in_flight", "Requests that are being answered.")
		m.followers = f.gauge("distci_log_followers", "Replies that follow a log as it grows.")
	}
	return m
}

// Add is an [observe.Sink].
func (m *Metrics) Add(e observe.Event) {
	if e.Dropped > 0 {
		m.dropped.Add(float64(e.Dropped))
	}
	switch {
	case e.Call != nil:
		m.addCall(e.Call)
	case e.Ticket != nil:
		t := e.Ticket
		m.tickets.WithLabelValues(t.Event, t.Outcome).Inc()
		if t.Event == queue.EventCommit && t.Outcome == queue.Done && t.Step != "" {
			m.results.WithLabelValues(m.types.value(t.Type), t.Result).Inc()
		}
	case e.Attempt != nil:
		typ := m.types.value(e.Attempt.Type)
		m.attempts.WithLabelValues(typ, e.Attempt.Outcome).Inc()
		for _, p := range e.Attempt.Phases {
			m.phases.WithLabelValues(typ, p.Name).Observe(seconds(p.End.Sub(p.Begin)))
		}
	case e.Build != nil:
		m.builds.WithLabelValues(e.Build.Result).Inc()
		m.buildTook.WithLabelValues(e.Build.Result).Observe(seconds(e.Build.Ended.Sub(e.Build.Created)))
	case e.Layer != nil && e.Layer.Hit:
		m.layers.WithLabelValues("hit").Inc()
	case e.Layer != nil:
		m.layers.WithLabelValues("miss").Inc()
	case e.Session != nil:
		m.addSession(e.Session.Change)
	}
}

func (m *Metrics) addCall(c *observe.Call) {
	took, ok := m.calls[c.Part]
	if !ok {
		return
	}
	took.WithLabelValues(c.Operation).Observe(seconds(c.Took))
	if c.Error != "" {
		m.callErrors[c.Part].WithLabelValues(c.Operation, c.Error).Inc()
	}
	m.written.Add(float64(c.Written))
}

func (m *Metrics) addSession(change string) {
	m.sessions.WithLabelValues(change).Inc()
	switch change {
	case observe.SessionBegun, observe.SessionBack:
		m.connected.Set(1)
	case observe.SessionLost:
		m.connected.Set(0)
	}
}

// seconds of a duration. Clocks of two machines may make one negative.
func seconds(d time.Duration) float64 { return max(0, d.Seconds()) }
