package api

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
)

// Traffic counts the bytes of bodies by what they are, for as long as the
// process lives. The zero value is usable.
type Traffic struct {
	artifact, log, workspace, other flow
}

// flow is what came in with requests and went out with replies.
type flow struct{ in, out atomic.Int64 }

// Bytes are a count of bytes.
type Bytes struct {
	In  int64 `json:"in"`  // of requests
	Out int64 `json:"out"` // of replies
}

func (f *flow) bytes() Bytes { return Bytes{f.in.Load(), f.out.Load()} }

// Counts are the numbers so far, of artifact, log, workspace and other.
func (t *Traffic) Counts() map[string]Bytes {
	return map[string]Bytes{"artifact": t.artifact.bytes(), "log": t.log.bytes(), "workspace": t.workspace.bytes(), "other": t.other.bytes()}
}

// LogValue is for a line in a log.
func (t *Traffic) LogValue() slog.Value {
	var attrs []slog.Attr
	counts := t.Counts()
	for _, kind := range []string{"artifact", "log", "workspace", "other"} {
		attrs = append(attrs, slog.Group(kind, "in", counts[kind].In, "out", counts[kind].Out))
	}
	return slog.GroupValue(attrs...)
}

// of is the count that a request of the route belongs to.
func (t *Traffic) of(r route) *flow {
	switch last := r.pattern[strings.LastIndexByte(r.pattern, '/')+1:]; {
	case strings.Contains(r.pattern, "/artifacts"):
		return &t.artifact
	case last == "console" || last == "log":
		return &t.log
	case last == "workspace":
		return &t.workspace
	}
	return &t.other
}

// count makes the bytes of a request and its reply count as those of f.
func (c *call) count(f *flow) {
	recorderOf(c.w).sent = &f.out
	if c.r.Body != nil && c.r.Body != http.NoBody {
		c.r.Body = &countedBody{c.r.Body, &f.in}
	}
}

type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	return n, err
}
