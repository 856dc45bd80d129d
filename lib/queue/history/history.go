// Package history checks what processes did to tickets against what the queue
// promises.
//
// Every process writes down its events (queue.Options.Trace); all of them
// together are a history, whatever the order in which they were collected.
// The check is pure, and it reports only what cannot have happened whichever
// way the open questions went:
//
//   - An operation took effect at one moment between its begin and its end.
//     Two operations are in a known order only if the one had ended before the
//     other began. Events of several machines need clocks that agree better
//     than that.
//   - An operation of unknown outcome may have been carried out, even after its
//     end, or not at all.
//   - A killed process may not have written its last event.
package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
)

var (
	events   = []string{queue.EventPost, queue.EventClaim, queue.EventCommit, queue.EventRelease, queue.EventRequeue}
	outcomes = []string{queue.Done, queue.Lost, queue.Unknown}
)

// Read reads the events that one process wrote, one JSON object a line. The
// last line may be torn, as a killed process leaves it; any other line that is
// not an event is an error of kind BadTicket that names it.
func Read(r io.Reader) ([]queue.Event, error) {
	var all []queue.Event
	for b, n := bufio.NewReader(r), 1; ; n++ {
		line, err := b.ReadBytes('\n')
		last := errors.Is(err, io.EOF)
		if err != nil && !last {
			return nil, fault.Errorf(fault.Temporary, "history: line %d: %w", n, err)
		}
		if len(bytes.TrimSpace(line)) > 0 {
			e, err := parse(line)
			if last && err != nil && !json.Valid(line) {
				return all, nil
			}
			if err != nil {
				return nil, fault.Errorf(fault.BadTicket, "history: line %d: %w", n, err)
			}
			all = append(all, e)
		}
		if last {
			return all, nil
		}
	}
}

// parse reads one event. Unknown fields pass: a newer process may tell more.
func parse(line []byte) (queue.Event, error) {
	var e queue.Event
	if err := json.Unmarshal(line, &e); err != nil {
		return e, err
	}
	switch {
	case !slices.Contains(events, e.Event):
		return e, fault.Errorf(fault.BadTicket, "event %q: expected one of %q", e.Event, events)
	case !slices.Contains(outcomes, e.Outcome):
		return e, fault.Errorf(fault.BadTicket, "outcome %q: expected one of %q", e.Outcome, outcomes)
	case e.Ticket == "":
		return e, fault.Errorf(fault.BadTicket, "an event without a ticket")
	case e.Begin.IsZero() || e.End.Before(e.Begin):
		return e, fault.Errorf(fault.BadTicket, "an event from %v to %v", e.Begin, e.End)
	}
	return e, nil
}
