// Package trace makes OpenTelemetry traces of what is observed: one trace for a
// build, in it a span for each attempt at a step, and in that a span for each
// phase. The spans' ids are those of package observe, so that the processes of
// a cluster write one trace together without a word to each other.
//
// Names of attributes are OpenTelemetry's conventions for CI/CD.
package trace

import (
	"context"
	"os"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/observe"
)

// Tracer exports the traces of what it is told.
type Tracer struct {
	provider *sdk.TracerProvider
	tracer   trace.Tracer
}

// New returns a tracer that exports by OTLP over HTTP to where the variables
// OTEL_EXPORTER_OTLP_… say. It does not connect yet. What the receiver does not
// take in time is lost.
func New(ctx context.Context, version string) (*Tracer, error) {
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
		Enabled: true, InitialInterval: 500 * time.Millisecond, MaxInterval: 5 * time.Second, MaxElapsedTime: 20 * time.Second}))
	if err != nil {
		return nil, fault.Errorf(fault.Config, "trace: %w", err)
	}
	return newTracer(ctx, exporter, version)
}

func newTracer(ctx context.Context, exporter sdk.SpanExporter, version string) (*Tracer, error) {
	host, _ := os.Hostname()
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", "distci"), attribute.String("service.version", version), attribute.String("host.name", host)),
		resource.WithFromEnv()) // last, so that OTEL_SERVICE_NAME counts
	if err != nil {
		return nil, fault.Errorf(fault.Config, "trace: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	// Whether a trace is kept is for the collector to say, which has all of it.
	p := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(res), sdk.WithIDGenerator(ids{}), sdk.WithSampler(sdk.AlwaysSample()))
	return &Tracer{p, p.Tracer("github.com/distci/distci", trace.WithInstrumentationVersion(version))}, nil
}

// Close exports what is left, until ctx is done.
func (t *Tracer) Close(ctx context.Context) error {
	return fault.Wrap(fault.Temporary, t.provider.Shutdown(ctx))
}

// Add is an [observe.Sink].
func (t *Tracer) Add(e observe.Event) {
	switch {
	case e.Attempt != nil && !e.Attempt.Created.IsZero():
		t.addAttempt(e.Attempt)
	case e.Build != nil:
		t.addBuild(e.Build)
	}
}

// wanted is the ids that the next span gets.
type wanted struct {
	trace trace.TraceID
	span  trace.SpanID
}

type wantedKey struct{}

// ids gives a span the ids that its context asks for.
type ids struct{}

func (ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	w, _ := ctx.Value(wantedKey{}).(wanted)
	return w.trace, w.span
}

func (g ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	_, span := g.NewIDs(ctx)
	return span
}

// span writes a span that has ended already.
func (t *Tracer) span(w wanted, parent trace.SpanID, name string, begin, end time.Time, failed bool, why string, options ...trace.SpanStartOption) {
	ctx := context.WithValue(context.Background(), wantedKey{}, w)
	if parent.IsValid() {
		ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
			TraceID: w.trace, SpanID: parent, TraceFlags: trace.FlagsSampled, Remote: true}))
	}
	_, s := t.tracer.Start(ctx, name, append(options, trace.WithTimestamp(begin))...)
	if failed {
		s.SetStatus(codes.Error, why)
	}
	if end.Before(begin) { // two machines' clocks
		end = begin
	}
	s.End(trace.WithTimestamp(end))
}

func (t *Tracer) addBuild(b *observe.Build) {
	w := wanted{observe.TraceID(b.JobID, b.Number, b.Created), observe.RootID(b.JobID, b.Number, b.Created)}
	attrs := []attribute.KeyValue{
		attribute.String("cicd.pipeline.name", b.JobID),
		attribute.String("cicd.pipeline.run.id", strconv.FormatInt(b.Number, 10)),
		attribute.String("cicd.pipeline.result", resultOf(b.Result)),
		attribute.Int("distci.steps", b.Steps),
	}
	if b.Cause != "" {
		attrs = append(attrs, attribute.String("distci.cause", b.Cause))
	}
	options := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attrs...)}
	if u := b.Upstream; u != nil {
		options = append(options, trace.WithLinks(trace.Link{
			SpanContext: trace.NewSpanContext(trace.SpanContextConfig{TraceID: observe.TraceID(u.JobID, u.Number, u.Created),
				SpanID: observe.RootID(u.JobID, u.Number, u.Created), TraceFlags: trace.FlagsSampled, Remote: true}),
			Attributes: []attribute.KeyValue{attribute.String("distci.link", "upstream"),
				attribute.String("cicd.pipeline.name", u.JobID), attribute.String("cicd.pipeline.run.id", strconv.FormatInt(u.Number, 10))},
		}))
	}
	t.span(w, trace.SpanID{}, "build "+b.JobID, b.Created, b.Ended, failed(b.Result), b.Error, options...)
}

func (t *Tracer) addAttempt(a *observe.Attempt) {
	tid := trace.TraceID(observe.TraceID(a.JobID, a.Build, a.Created))
	own := trace.SpanID(observe.AttemptID(a.Ticket, a.Attempt))
	name := a.Name
	switch {
	case name != "":
	case a.Step != "":
		name = "step " + a.Step
	default:
		name = "control"
	}
	attrs := []attribute.KeyValue{
		attribute.String("cicd.pipeline.name", a.JobID),
		attribute.String("cicd.pipeline.run.id", strconv.FormatInt(a.Build, 10)),
		attribute.String("cicd.pipeline.task.name", name),
		attribute.String("cicd.pipeline.task.run.id", a.Ticket),
		attribute.String("cicd.pipeline.task.run.result", resultOf(a.Outcome)),
		attribute.String("cicd.worker.name", a.Worker),
		attribute.String("distci.ticket.type", a.Type),
		attribute.Int("distci.attempt", a.Attempt),
	}
	for key, v := range map[string]string{"distci.step": a.Step, "distci.image": a.Image, "error.type": a.Fault} {
		if v != "" {
			attrs = append(attrs, attribute.String(key, v))
		}
	}
	// The wait before it belongs to it, so that the build's time is all there.
	begin := a.Begin
	if len(a.Phases) > 0 && a.Phases[0].Begin.Before(begin) {
		begin = a.Phases[0].Begin
	}
	t.span(wanted{tid, own}, observe.RootID(a.JobID, a.Build, a.Created), name, begin, a.End, failed(a.Outcome), a.Error,
		trace.WithAttributes(attrs...))
	for i, p := range a.Phases {
		id := own // one for each, by its place
		id[7] ^= byte(i + 1)
		t.span(wanted{tid, id}, own, p.Name, p.Begin, p.End, p.Error != "", p.Error)
	}
}

// failed tells whether an outcome is one that somebody should look at.
func failed(outcome string) bool { return outcome != "success" && outcome != "canceled" }

// resultOf is a result as the conventions call it.
func resultOf(result string) string {
	if result == "canceled" {
		return "cancellation"
	}
	return result
}
