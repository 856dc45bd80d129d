package metrics

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// factory makes metrics that are in a registry.
type factory struct{ r *prometheus.Registry }

func (f factory) add(c prometheus.Collector) { f.r.MustRegister(c) }

func (f factory) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	f.add(c)
	return c
}

func (f factory) counters(name, help string, labels ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	f.add(c)
	return c
}

func (f factory) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	f.add(g)
	return g
}

// histogram makes one that is native where the server can read that, and has
// buckets where it cannot.
func (f factory) histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100}, labels)
	f.add(h)
	return h
}

// other stands for all values beyond the limit.
const other = "other"

// limited bounds the number of values of a label: the first ones are what they
// are.
type limited struct {
	mu    sync.Mutex
	most  int
	known map[string]bool
}

func newLimited(most int) *limited { return &limited{most: most, known: map[string]bool{}} }

func (l *limited) value(v string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known[v] {
		return v
	}
	if len(l.known) >= l.most {
		return other
	}
	l.known[v] = true
	return v
}
