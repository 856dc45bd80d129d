package metrics

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/queue"
)

const (
	// queueAge is how old the figures of the queue may be, at least. A look
	// that took long is not repeated before it has been a twentieth of the
	// time: however often somebody asks, and however long the queue is, looking
	// at it does not become the cluster's main occupation.
	queueAge   = 5 * time.Second
	queueShare = 20
	// queuePatience bounds a look.
	queuePatience = 4 * time.Second
	// maxSets bounds the sets of capabilities that are told apart.
	maxSets = 200
)

// AddQueue adds the figures of the queue and of the members to the metrics.
// They are of the whole cluster: each frontend tells the same.
func (m *Metrics) AddQueue(loads func(context.Context) ([]queue.Load, error), members func(context.Context) ([]member.Member, error)) {
	m.Registry.MustRegister(newQueueCollector(loads, members))
}

// queueCollector looks at the queue when it is asked, but not too often.
type queueCollector struct {
	loads   func(context.Context) ([]queue.Load, error)
	members func(context.Context) ([]member.Member, error)

	mu     sync.Mutex
	next   time.Time // before which it is not looked again
	seen   map[load]figures
	kinds  map[string]int
	known  bool // the figures are those of the last look
	took   time.Duration
	failed float64

	ready, running, oldest, member, duration, errors *prometheus.Desc
}

// load is what the tickets of a set have in common.
type load struct{ capabilities, priority string }

type figures struct{ ready, running, oldest float64 }

func newQueueCollector(loads func(context.Context) ([]queue.Load, error), members func(context.Context) ([]member.Member, error)) *queueCollector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	set := []string{"capabilities", "priority"}
	return &queueCollector{loads: loads, members: members, seen: map[load]figures{}, kinds: map[string]int{},
		ready:    d("distci_queue_ready_tickets", "Tickets that wait for a worker, by the capabilities that they ask for.", set...),
		running:  d("distci_queue_running_tickets", "Tickets that are claimed, by the capabilities that they ask for.", set...),
		oldest:   d("distci_queue_oldest_age_seconds", "How long the oldest ticket has been waiting; 0 if none is.", set...),
		member:   d("distci_members", "Processes of the cluster.", "kind"),
		duration: d("distci_queue_scan_duration_seconds", "How long the last look at the queue took."),
		errors:   d("distci_queue_scan_errors_total", "Looks at the queue that failed."),
	}
}

func (q *queueCollector) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{q.ready, q.running, q.oldest, q.member, q.duration, q.errors} {
		c <- d
	}
}

func (q *queueCollector) Collect(c chan<- prometheus.Metric) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now := time.Now(); !now.Before(q.next) {
		q.look()
		q.took = time.Since(now)
		q.next = time.Now().Add(max(queueAge, queueShare*q.took))
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	c <- prometheus.MustNewConstMetric(q.errors, prometheus.CounterValue, q.failed)
	gauge(q.duration, q.took.Seconds())
	if !q.known { // an old figure would be taken for a new one
		return
	}
	for l, f := range q.seen {
		gauge(q.ready, f.ready, l.capabilities, l.priority)
		gauge(q.running, f.running, l.capabilities, l.priority)
		gauge(q.oldest, f.oldest, l.capabilities, l.priority)
	}
	for kind, n := range q.kinds {
		gauge(q.member, float64(n), kind)
	}
}

// look counts. A set or a kind that was there once is told with 0 from then on:
// a series that ends looks like one that cannot be had.
func (q *queueCollector) look() {
	ctx, cancel := context.WithTimeout(context.Background(), queuePatience)
	defer cancel()
	loads, err := q.loads(ctx)
	var members []member.Member
	if err == nil {
		members, err = q.members(ctx)
	}
	if q.known = err == nil; err != nil {
		q.failed++
		return
	}
	for l := range q.seen {
		q.seen[l] = figures{}
	}
	for _, l := range loads {
		key := load{strings.Join(l.Capabilities, " "), strconv.Itoa(l.Priority)}
		if _, ok := q.seen[key]; !ok && len(q.seen) >= maxSets {
			key = load{other, "0"}
		}
		f := q.seen[key]
		q.seen[key] = figures{f.ready + float64(l.Ready), f.running + float64(l.Running), max(f.oldest, l.OldestAge)}
	}
	for k := range q.kinds {
		q.kinds[k] = 0
	}
	for _, m := range members {
		switch m.Kind {
		case member.Worker, member.Frontend:
			q.kinds[m.Kind]++
		default:
			q.kinds[member.Unknown]++
		}
	}
}
