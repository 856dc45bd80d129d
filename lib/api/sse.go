package api

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"github.com/distci/distci/lib/sse"
)

// wantsEvents tells whether the client asks for server-sent events.
func (c *call) wantsEvents() bool {
	return strings.Contains(c.r.Header.Get("Accept"), "text/event-stream")
}

// stream is a stream of events whose data is JSON.
type stream struct{ *sse.Stream }

// events sends what follow makes of a stream. When the server ends, the reply
// does, too: a client goes on where it was with whoever answers then. So it does
// after an error, which breaks the reply off.
func (c *call) events(follow func(ctx context.Context, s *stream) error) error {
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	stop := c.untilDone(cancel)
	defer stop()
	c.Meter.Following(1)
	defer c.Meter.Following(-1)
	err := sse.Serve(ctx, c.w, c.r, func(ctx context.Context, s *sse.Stream) error { return follow(ctx, &stream{s}) })
	switch {
	case errors.Is(err, sse.ErrGone):
		return gone(err)
	case errors.Is(err, context.Canceled) && c.r.Context().Err() == nil:
		return nil
	}
	return err
}

// event sends one event; id, which may be empty, is what the client says when it
// comes again. The data is JSON, which has no newlines.
func (s *stream) event(name, id string, data any) error {
	b, ok := data.([]byte)
	if !ok {
		var err error
		if b, err = json.Marshal(data); err != nil {
			return err
		}
	}
	var e strings.Builder
	e.WriteString("event: " + name + "\n")
	if id != "" {
		e.WriteString("id: " + id + "\n")
	}
	e.WriteString("data: ")
	e.Write(b)
	e.WriteString("\n\n")
	return s.Send(e.String())
}
