package trace

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/distci/distci/lib/observe"
)

// receiver is an OTLP receiver that keeps what it gets.
type receiver struct {
	*httptest.Server
	mu    sync.Mutex
	spans map[string]*otlp.Span // by name
	attrs map[string]string     // of the resource
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{spans: map[string]*otlp.Span{}, attrs: map[string]string{}}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body := io.Reader(req.Body)
		if req.Header.Get("Content-Encoding") == "gzip" {
			body, _ = gzip.NewReader(req.Body)
		}
		b, err := io.ReadAll(body)
		var m collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(b, &m)
		}
		if err != nil || req.URL.Path != "/v1/traces" || req.Header.Get("Content-Type") != "application/x-protobuf" {
			t.Errorf("%s %s: %v", req.URL, req.Header, err)
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, rs := range m.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				r.attrs[a.Key] = a.Value.GetStringValue()
			}
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					r.spans[s.Name] = s
				}
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func attr(s *otlp.Span, key string) string {
	for _, a := range s.GetAttributes() {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

// TestExport: what two processes observe of one build is one trace.
func TestExport(t *testing.T) {
	r := newReceiver(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", r.URL)
	t.Setenv("OTEL_SERVICE_NAME", "our-ci")
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	up := at.Add(-time.Hour)
	worker, finisher := open(t), open(t)
	worker.Add(observe.Event{Attempt: &observe.Attempt{Ticket: "t", Type: "execute-shell", JobID: "j", Build: 3, Created: at, Step: "0", Name: "compile",
		Attempt: 2, Worker: "w", Begin: at.Add(2 * time.Second), End: at.Add(9 * time.Second), Outcome: "failure", Fault: "verdict", Error: "exit status 1",
		Phases: []observe.Phase{{Name: observe.Wait, Begin: at.Add(time.Second), End: at.Add(2 * time.Second)},
			{Name: observe.Tool, Begin: at.Add(3 * time.Second), End: at.Add(8 * time.Second), Error: "exit status 1"}}}})
	worker.Add(observe.Event{Attempt: &observe.Attempt{Ticket: "u", Name: "of no build", Outcome: "success"}})
	finisher.Add(observe.Event{Build: &observe.Build{JobID: "j", Number: 3, Created: at, Ended: at.Add(10 * time.Second), Result: "failure", Steps: 1,
		Cause: "upstream", Upstream: &observe.Upstream{JobID: "lib", Number: 8, Created: up}}})
	for _, x := range []*Tracer{worker, finisher} {
		if err := x.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.spans) != 4 || r.attrs["service.name"] != "our-ci" || r.attrs["service.version"] != "1.2.3" {
		t.Fatalf("got %v of %v", r.spans, r.attrs)
	}
	root, step, wait, tool := r.spans["build j"], r.spans["compile"], r.spans["wait"], r.spans["tool"]
	trace := observe.TraceID("j", 3, at)
	for _, s := range r.spans {
		if [16]byte(s.TraceId) != trace {
			t.Errorf("%s is of trace %x, not %x", s.Name, s.TraceId, trace)
		}
	}
	if len(root.ParentSpanId) != 0 || string(step.ParentSpanId) != string(root.SpanId) ||
		string(wait.ParentSpanId) != string(step.SpanId) || string(tool.ParentSpanId) != string(step.SpanId) || string(wait.SpanId) == string(tool.SpanId) {
		t.Errorf("the tree is wrong: %v", r.spans)
	}
	if id := observe.AttemptID("t", 2); string(step.SpanId) != string(id[:]) {
		t.Errorf("the step's id is %s, and its programs were told %x", hex.EncodeToString(step.SpanId), id)
	}
	if root.StartTimeUnixNano != uint64(at.UnixNano()) || root.EndTimeUnixNano != uint64(at.Add(10*time.Second).UnixNano()) ||
		step.StartTimeUnixNano != wait.StartTimeUnixNano {
		t.Error("the times are wrong")
	}
	if root.Status.GetCode() != otlp.Status_STATUS_CODE_ERROR || tool.Status.GetMessage() != "exit status 1" || wait.Status.GetCode() != otlp.Status_STATUS_CODE_UNSET {
		t.Errorf("the statuses are %v, %v, %v", root.Status, tool.Status, wait.Status)
	}
	link := observe.TraceID("lib", 8, up)
	if len(root.Links) != 1 || [16]byte(root.Links[0].TraceId) != link {
		t.Errorf("links: %v", root.Links)
	}
	for key, want := range map[string]string{"cicd.pipeline.name": "j", "cicd.pipeline.run.id": "3", "cicd.worker.name": "w",
		"cicd.pipeline.task.run.result": "failure", "error.type": "verdict", "distci.step": "0"} {
		if got := attr(step, key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
}

func open(t *testing.T) *Tracer {
	t.Helper()
	x, err := New(t.Context(), "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return x
}
