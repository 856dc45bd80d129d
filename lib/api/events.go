package api

import (
	"context"
	"net/http"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/repo"
)

// ended is the data of the event that is the last of its stream.
type ended struct {
	Status string `json:"status"`
	Result string `json:"result,omitempty"`
}

// buildEvents tells what becomes of a build and its steps. A client that comes
// again and has missed nothing is not told again how things are.
func (c *call) buildEvents() error {
	b, err := c.repo.Build(c.r.Context(), c.job, c.build)
	if err != nil {
		return err
	}
	seen := c.r.Header.Get("Last-Event-ID")
	if b.State.Status == build.Complete && seen == "end" {
		return c.none() // for a browser: do not come again
	}
	return c.events(func(ctx context.Context, s *stream) error {
		err := c.repo.WatchBuildChanges(ctx, c.job, c.build, func(changes []repo.Change) error {
			if seen != "" && changes[len(changes)-1].Tag == seen {
				changes = nil
			}
			seen = ""
			return s.changes(changes)
		})
		if err != nil {
			return err
		}
		end := ended{Status: repo.StatusDeleted}
		if b, err := c.repo.Build(ctx, c.job, c.build); err == nil {
			end = ended{b.State.Status, b.State.Result}
		}
		return s.event("end", "end", end)
	})
}

// allEvents tells what becomes of all builds that the client may see.
func (c *call) allEvents() error {
	return c.events(func(ctx context.Context, s *stream) error {
		return c.repo.WatchAllChanges(ctx, func(changes []repo.Change) error {
			var mine []repo.Change
			for _, k := range changes {
				if c.sees(k.JobID) {
					k.Tag = "" // there is no resuming where several builds are told of
					mine = append(mine, k)
				}
			}
			return s.changes(mine)
		})
	})
}

func (s *stream) changes(changes []repo.Change) error {
	for _, k := range changes {
		if err := s.event(k.Kind, k.Tag, k.Data); err != nil {
			return err
		}
	}
	return nil
}

// consoleEvents tells what is added to a build's logs.
func (c *call) consoleEvents() error {
	seen := c.r.Header.Get("Last-Event-ID")
	over := seen == "end"
	if over {
		seen = ""
	}
	at, err := readPosition(seen)
	if err != nil {
		return err
	}
	ctx := c.r.Context()
	logs, complete, err := c.repo.Logs(ctx, c.job, c.build)
	if err != nil {
		return err
	}
	if complete && (over || at.has(logs)) {
		return c.none()
	}
	return c.events(func(ctx context.Context, s *stream) error {
		p := &pieces{s: s, at: at}
		if err := c.repo.FollowFrom(ctx, c.job, c.build, at.read(logs), p.piece); err != nil {
			return err
		}
		if err := p.flush(); err != nil {
			return err
		}
		end := ended{Status: repo.StatusDeleted}
		if b, err := c.repo.Build(ctx, c.job, c.build); err == nil {
			end = ended{b.State.Status, b.State.Result}
		}
		return s.event("end", "end", end)
	})
}

// logEvents tells what is added to one log, from start on.
func (c *call) logEvents(t *repo.Text, name string, start int64) error {
	at, err := readPosition(c.r.Header.Get("Last-Event-ID"))
	if err != nil {
		return err
	}
	if at.log == name {
		if start = at.offset; t.Sealed && start >= t.Size {
			return c.none()
		}
	} else if at.log != "" {
		return status(http.StatusBadRequest, "Last-Event-ID: it is of another log")
	}
	return c.events(func(ctx context.Context, s *stream) error {
		p := &pieces{s: s}
		w := &logPieces{p, name, start}
		var err error
		if t.Sealed {
			err = copyText(ctx, w, t, start)
		} else {
			err = c.repo.FollowLog(ctx, c.job, c.build, name, start, w)
		}
		if err == nil {
			err = p.flush()
		}
		if err != nil {
			return err
		}
		return s.event("end", "", map[string]any{"log": name, "size": w.offset})
	})
}
