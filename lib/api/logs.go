package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
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
		c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		c.w.Header().Set("Cache-Control", "no-cache")
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
	ctx := c.r.Context()
	if c.r.Method == http.MethodGet && c.r.URL.Query().Get("follow") == "1" {
		return c.follow(ctx)
	}
	w := &textWriter{c: c}
	if err := c.repo.Console(ctx, c.job, c.build, w); err != nil {
		return err
	}
	w.begin() // a log may be empty
	return nil
}

// follow sends the log as it grows, until the build is finished. When the
// server ends, the reply does, too; whoever reads it looks at the build.
func (c *call) follow(ctx context.Context) error {
	if _, err := c.repo.Build(ctx, c.job, c.build); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-c.Done:
			cancel()
		case <-ctx.Done():
		}
	}()
	defer func() {
		cancel()
		<-ended
	}()
	w := &textWriter{c: c, flush: true}
	if _, err := w.Write(nil); err != nil { // the client learns at once that it is so
		return err
	}
	err := c.repo.Follow(ctx, c.job, c.build, w)
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

func (c *call) getStepLog() error {
	attempt := 0
	if s := c.r.URL.Query().Get("attempt"); s != "" {
		var err error
		if attempt, err = strconv.Atoi(s); err != nil || attempt < 1 {
			return status(http.StatusBadRequest, "attempt: expected a number from 1 on")
		}
	}
	w := &textWriter{c: c}
	if err := c.repo.StepLog(c.r.Context(), c.job, c.build, c.step, attempt, w); err != nil {
		return err
	}
	w.begin()
	return nil
}
