package tool

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
)

// handler writes a record as "program: message key=value …", which reads well
// in a build's log as in the journal; the time is the reader's to add.
type handler struct {
	name  string
	level slog.Level
	attrs string // formatted, with a leading space each
	group string // prefix of the keys
	mu    *sync.Mutex
	w     io.Writer
}

func newHandler(name string, w io.Writer, level slog.Level) *handler {
	return &handler{name: name, w: w, level: level, mu: new(sync.Mutex)}
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(h.name)
	b.WriteString(": ")
	if r.Level == slog.LevelWarn {
		b.WriteString("warning: ")
	}
	b.WriteString(strings.TrimSuffix(r.Message, "\n"))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool { h.format(&b, a); return true })
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func (h *handler) format(b *strings.Builder, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		for _, g := range v.Group() {
			g.Key = a.Key + "." + g.Key
			h.format(b, g)
		}
		return
	}
	s := v.String()
	if s == "" || strings.ContainsAny(s, " \t\n\"=") {
		s = strconv.Quote(s)
	}
	fmt.Fprintf(b, " %s%s=%s", h.group, a.Key, s)
}

func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	var b strings.Builder
	for _, a := range as {
		h.format(&b, a)
	}
	c := *h
	c.attrs += b.String()
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.group += name + "."
	return &c
}
