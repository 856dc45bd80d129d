package metrics

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Handler serves the metrics. It never answers with half of them: what cannot be
// found out is left out.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError,
		MaxRequestsInFlight: 4, Timeout: 20 * time.Second, EnableOpenMetrics: true})
}

// Serve serves the metrics as /metrics, to everybody who can reach l, until stop
// is called.
func (m *Metrics) Serve(l net.Listener, log *slog.Logger) (stop func()) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Warn("the metrics are not served any more: " + err.Error())
		}
	}()
	return func() {
		srv.Close()
		<-ended
	}
}

// Begun tells that a request is being answered.
func (m *Metrics) Begun() { m.inFlight.Inc() }

// Ended tells that it was. The route is the pattern of its path.
func (m *Metrics) Ended(route, method string, code int, took time.Duration) {
	m.inFlight.Dec()
	method = methodOf(method)
	m.requests.WithLabelValues(route, method, strconv.Itoa(code)).Inc()
	m.took.WithLabelValues(route, method).Observe(took.Seconds())
}

// Following tells that one more reply, or with -1 one less, follows a log.
func (m *Metrics) Following(n int) { m.followers.Add(float64(n)) }

// methodOf is the method; clients may make up others.
func methodOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions:
		return method
	}
	return other
}

// Bytes is a count of the bytes of bodies, by what they are.
type Bytes struct {
	Kind    string
	In, Out int64 // with requests, with replies
}

// AddBytes adds the bytes that count tells to the metrics.
func (m *Metrics) AddBytes(count func() []Bytes) {
	m.Registry.MustRegister(&byteCounts{count, prometheus.NewDesc("distci_http_body_bytes_total",
		"Bytes of the bodies of requests (in) and replies (out), by what they are.", []string{"kind", "direction"}, nil)})
}

type byteCounts struct {
	count func() []Bytes
	desc  *prometheus.Desc
}

func (b *byteCounts) Describe(c chan<- *prometheus.Desc) { c <- b.desc }

func (b *byteCounts) Collect(c chan<- prometheus.Metric) {
	for _, n := range b.count() {
		c <- prometheus.MustNewConstMetric(b.desc, prometheus.CounterValue, float64(n.In), n.Kind, "in")
		c <- prometheus.MustNewConstMetric(b.desc, prometheus.CounterValue, float64(n.Out), n.Kind, "out")
	}
}
