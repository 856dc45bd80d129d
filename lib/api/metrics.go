package api

import (
	"net/http"
	"time"
)

// Meter counts requests; package metrics has one. The route is the pattern of a
// path, of which there are few, and never the path.
type Meter interface {
	Begun()
	Ended(route, method string, code int, took time.Duration)
	Following(n int) // so many more replies follow a log
}

// noMeter counts nothing.
type noMeter struct{}

func (noMeter) Begun()                                   {}
func (noMeter) Ended(string, string, int, time.Duration) {}
func (noMeter) Following(int)                            {}

// noRoute is the route of requests that have none.
const noRoute = "none"

// routed notes the route of a request.
func (c *call) routed(rt route) { recorderOf(c.w).route = "/" + rt.pattern }

// metrics serves the metrics. It does so without the coordination service, too:
// that is when somebody looks.
func (c *call) metrics() error {
	if c.Metrics == nil {
		return status(http.StatusNotFound, "there are no metrics here")
	}
	c.w.Header().Set("Cache-Control", "no-store")
	c.Metrics.ServeHTTP(c.w, c.r)
	return nil
}
