package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sse"
)

// find sends the numbers of the lines that have a text, as JSON.
func (p *Pages) find(w http.ResponseWriter, r *http.Request, q request) error {
	t, err := p.repo.LogText(r.Context(), q.Job, q.Build, q.Log)
	if err != nil {
		return err
	}
	f, err := p.search(r.Context(), t, r.URL.Query().Get("find"))
	if err != nil {
		return err
	}
	b, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return reply(w, r, http.StatusOK, "application/json", b)
}

// follow sends the lines of a log as they come, as server-sent events; the first
// is that of ?follow=N. An event "lines" has elements as a window of the log has
// them. Its id is the number of the line that the reader needs next, so that a
// browser that has lost us goes on with another frontend by itself. The last
// line may be sent before it is whole, and then once more. An event "end" tells
// that the log is complete.
func (p *Pages) follow(w http.ResponseWriter, r *http.Request, q request) error {
	next := r.URL.Query().Get("follow")
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		next = id
	}
	from, err := strconv.ParseInt(next, 10, 64)
	if err != nil || from < 1 {
		return fault.Errorf(fault.Usage, "follow: expected the number of a line, from 1 on")
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	go func() { // ends with the request
		select {
		case <-p.Done:
			cancel()
		case <-ctx.Done():
		}
	}()
	t, err := p.repo.LogText(ctx, q.Job, q.Build, q.Log)
	if err != nil {
		return err
	}
	start, _, err := t.Lines(ctx, from, -1)
	if err != nil {
		return err
	}
	step, _ := logOf(q.Log)
	err = sse.Serve(ctx, w, r, func(ctx context.Context, out *sse.Stream) error {
		if err := p.repo.FollowLog(ctx, q.Job, q.Build, q.Log, start, &stream{out: out, anchor: anchor(step), next: from}); err != nil {
			return err
		}
		return out.Send("event: end\ndata:\n\n")
	})
	if errors.Is(err, sse.ErrGone) || errors.Is(err, context.Canceled) {
		return nil // the reader has gone, or we go, and another frontend is asked
	}
	return err
}

// stream makes events of what is written to it.
type stream struct {
	out    *sse.Stream
	anchor string
	next   int64  // number of the line that comes next
	rest   []byte // the beginning of that line
	cut    int64  // bytes of it that were left out
	rend   renderer
}

// burst is how many lines one event has at most.
const burst = 500

func (s *stream) Write(b []byte) (int, error) {
	n := len(b)
	for {
		var lines strings.Builder
		count := 0
		for ; count < burst; count++ {
			i := bytes.IndexByte(b, '\n')
			if i < 0 {
				break
			}
			s.take(b[:i])
			writeLine(&lines, s.anchor, s.next, s.rend.render(s.rest), s.cut)
			s.rest, s.cut = s.rest[:0], 0
			s.next++
			b = b[i+1:]
		}
		if count == burst {
			if err := s.event(lines.String()); err != nil {
				return 0, err
			}
			continue
		}
		if s.take(b); len(s.rest) > 0 { // what there is of the last line
			pen := s.rend.pen
			writeLine(&lines, s.anchor, s.next, s.rend.render(s.rest), s.cut)
			s.rend.pen = pen
		}
		if lines.Len() == 0 {
			return n, nil
		}
		return n, s.event(lines.String())
	}
}

// take adds to the line that is not whole yet.
func (s *stream) take(b []byte) {
	room := max(0, maxLine-len(s.rest))
	s.rest = append(s.rest, b[:min(room, len(b))]...)
	s.cut += int64(max(0, len(b)-room))
}

func (s *stream) event(lines string) error {
	return s.out.Send(fmt.Sprintf("event: lines\nid: %d\ndata: %s\n\n", s.next, strings.ReplaceAll(strings.TrimSuffix(lines, "\n"), "\n", "\ndata: ")))
}
