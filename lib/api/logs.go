package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/distci/distci/lib/repo"
)

// textWriter writes a log. The reply begins with the first byte, so that what
// goes wrong before it can still be told.
type textWriter struct {
	c     *call
	flush bool // after every write
}

func (t *textWriter) begin() {
	c := t.c
	if recorderOf(c.w).code == 0 {
		h := c.w.Header()
		h.Set("Content-Type", "text/plain; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		c.w.WriteHeader(http.StatusOK)
	}
}

func (t *textWriter) Write(p []byte) (int, error) {
	t.begin()
	n, err := t.c.w.Write(p)
	if err == nil && t.flush {
		err = http.NewResponseController(t.c.w).Flush()
	}
	return n, gone(err)
}

func (c *call) getConsole() error {
	v, err := c.view()
	if err != nil {
		return err
	}
	c.w.Header().Add("Vary", "Accept")
	if v.follow || v.events {
		if v.given() {
			return status(http.StatusBadRequest, "follow: a whole build's console is followed from its beginning; a single log may be from elsewhere")
		}
		if v.events {
			return c.consoleEvents()
		}
		if _, err := c.repo.Build(c.r.Context(), c.job, c.build); err != nil {
			return err
		}
		return c.followed(func(ctx context.Context, w io.Writer) error {
			return c.repo.Follow(ctx, c.job, c.build, w)
		})
	}
	t, err := c.repo.ConsoleText(c.r.Context(), c.job, c.build)
	if err != nil {
		return err
	}
	return c.text(t, v, false)
}

// followed sends what follow writes as it comes. When the server ends, the
// reply does, too; whoever reads it looks at the build.
func (c *call) followed(follow func(ctx context.Context, w io.Writer) error) error {
	ctx, cancel := context.WithCancel(c.r.Context())
	defer cancel()
	stop := c.untilDone(cancel)
	defer stop()
	c.Meter.Following(1)
	defer c.Meter.Following(-1)
	w := &textWriter{c: c, flush: true}
	if _, err := w.Write(nil); err != nil { // the client learns at once that it is so
		return err
	}
	err := follow(ctx, w)
	if errors.Is(err, context.Canceled) && c.r.Context().Err() == nil {
		return nil
	}
	return err
}

func (c *call) appendConsole() error {
	text, err := c.document(maxConsole)
	if err != nil {
		return err
	}
	if err := c.repo.AppendConsole(c.r.Context(), c.job, c.build, text); err != nil {
		return err
	}
	return c.none()
}

// untilDone calls cancel when the server is to end, until stop is called.
func (c *call) untilDone(cancel func()) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-c.Done:
			cancel()
		case <-over:
		}
	}()
	return func() {
		close(over)
		<-ended
	}
}

// logsWait bounds how long a client waits for another list of logs.
const logsWait = 20 * time.Second

// listLogs tells what logs there are; with seen, as soon as the list is another
// one.
func (c *call) listLogs() error {
	ctx := c.r.Context()
	reply := struct {
		ID       string         `json:"job_id"`
		Number   int64          `json:"build_number"`
		Complete bool           `json:"complete"`
		Tag      string         `json:"tag"`
		Logs     []repo.LogInfo `json:"logs"`
	}{ID: c.job, Number: int64(c.build)}
	wait, cancel := context.WithTimeout(ctx, logsWait)
	defer cancel()
	stop := c.untilDone(cancel)
	defer stop()
	var err error
	reply.Logs, reply.Complete, reply.Tag, err = c.repo.WaitLogs(wait, c.job, c.build, c.r.URL.Query().Get("seen"))
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, reply)
}

// getStepLog sends the log of an attempt at a step, by default the last.
func (c *call) getStepLog() error {
	attempt := 0
	if s := c.r.URL.Query().Get("attempt"); s != "" {
		var err error
		if attempt, err = strconv.Atoi(s); err != nil || attempt < 1 {
			return status(http.StatusBadRequest, "attempt: expected a number from 1 on")
		}
	} else if !c.repo.Reachable() {
		return errUnreachable
	}
	name, err := c.repo.StepLogName(c.r.Context(), c.job, c.build, c.step, attempt)
	if err != nil {
		return err
	}
	return c.sendLog(name, attempt > 0)
}

func (c *call) getLog() error { return c.sendLog(c.log, true) }

// sendLog sends a log. A sealed one is sent without a question to the
// coordination, and is kept by whoever has it if its address means it for ever.
func (c *call) sendLog(name string, fixed bool) error {
	v, err := c.view()
	if err != nil {
		return err
	}
	ctx := c.r.Context()
	t, err := c.repo.LogText(ctx, c.job, c.build, name)
	if err != nil || !t.Sealed {
		if !c.repo.Reachable() {
			return errUnreachable
		}
		if err != nil {
			return err
		}
	}
	c.w.Header().Add("Vary", "Accept")
	if !v.follow && !v.events {
		return c.text(t, v, t.Sealed && fixed)
	}
	if v.to >= 0 {
		return status(http.StatusBadRequest, "follow: the lines have an end already")
	}
	start, _, err := v.find(ctx, t)
	if err != nil {
		return err
	}
	if v.events {
		return c.logEvents(t, name, start)
	}
	c.w.Header().Set(headerOffset, strconv.FormatInt(start, 10))
	return c.followed(func(ctx context.Context, w io.Writer) error {
		if t.Sealed {
			return copyText(ctx, w, t, start)
		}
		return c.repo.FollowLog(ctx, c.job, c.build, name, start, w)
	})
}
