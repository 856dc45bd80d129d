package observe

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// A build is one trace. Its ids follow from what every process knows of the
// build, so that nobody has to tell them to anybody: whoever runs a step names
// the root span, which somebody else writes when the build ends.

// TraceID is the id of a build's trace, in the form of the W3C's Trace Context.
func TraceID(job string, build int64, created time.Time) (id [16]byte) {
	copy(id[:], sum("trace", job, build, created))
	return id
}

// RootID is the id of the span that is the build.
func RootID(job string, build int64, created time.Time) (id [8]byte) {
	copy(id[:], sum("build", job, build, created))
	return id
}

// AttemptID is the id of the span that is an attempt at a ticket.
func AttemptID(ticket string, attempt int) (id [8]byte) {
	s := sha256.Sum256(fmt.Appendf(nil, "distci attempt %s %d", ticket, attempt))
	copy(id[:], s[:])
	return id
}

// sum is of the time as it is stored: to the nanosecond, in whatever zone.
func sum(what, job string, build int64, created time.Time) []byte {
	s := sha256.Sum256(fmt.Appendf(nil, "distci %s %s %d %d", what, job, build, created.UnixNano()))
	return s[:]
}

// Traceparent is the header, and the variable TRACEPARENT, that tells a program
// of which trace and span it is a part; see the W3C's Trace Context.
func Traceparent(trace [16]byte, span [8]byte) string {
	return "00-" + hex.EncodeToString(trace[:]) + "-" + hex.EncodeToString(span[:]) + "-01"
}

// Traced tells whether the variables that all programs with OpenTelemetry look
// at say that traces are to be exported, by a protocol that we speak.
func Traced(getenv func(string) string) bool {
	there := getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
	exporter := getenv("OTEL_TRACES_EXPORTER")
	protocol := getenv("OTEL_EXPORTER_OTLP_PROTOCOL")
	if p := getenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"); p != "" {
		protocol = p
	}
	return there && !strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") && (exporter == "" || exporter == "otlp") &&
		(protocol == "" || protocol == "http/protobuf")
}
