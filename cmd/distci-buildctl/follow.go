package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// following is how somebody wants to follow a build.
type following struct{ plain, cancel *bool }

func followFlags(fs *pflag.FlagSet) following {
	return following{
		plain:  fs.Bool("plain", false, "print lines on a terminal, too, instead of a table that changes"),
		cancel: fs.Bool("cancel-on-interrupt", false, "cancel the build on the first ^C; without it the build goes on"),
	}
}

func follow(e env, fs *pflag.FlagSet) int {
	how := followFlags(fs)
	return onBuild(e, fs, func(c *client.Client, job string, n ticket.Number) int {
		if _, err := c.Build(e.ctx, job, n); err != nil {
			return e.fail(err)
		}
		return how.follow(e, c, job, n)
	})
}

// follow shows a build until it is finished, live where somebody looks at it, and
// as lines where not. The status is the build's result.
func (f following) follow(e env, c *client.Client, job string, n ticket.Number) int {
	show := func(ctx context.Context) error { return c.Follow(ctx, job, n, 0, e.stdout) }
	if t := terminal(e.stdout); t != nil && !*f.plain {
		show = func(ctx context.Context) error { return watch(ctx, t, c, job, n) }
	}
	err := show(e.ctx)
	if e.ctx.Err() != nil {
		if !*f.cancel {
			return e.fail(fault.Errorf(fault.Interrupted, "%s #%d goes on; to come back: %s follow %s %d", job, n, name, job, n))
		}
		// The signal is used up: from here on another one ends us.
		ctx, stop := signal.NotifyContext(context.WithoutCancel(e.ctx), os.Interrupt)
		defer stop()
		fmt.Fprintf(e.stderr, "%s #%d: canceling; another ^C leaves it alone\n", job, n)
		if err := c.Cancel(ctx, job, n); err != nil {
			return e.fail(err)
		}
		e.ctx = ctx
		err = show(ctx)
	}
	if err != nil {
		return e.fail(err)
	}
	s, err := c.Build(e.ctx, job, n)
	if err != nil {
		return e.fail(err)
	}
	return conclude(e, job, n, s)
}

// terminal is the terminal that w is; nil if it is none, or one that cannot move
// its cursor.
func terminal(w io.Writer) *os.File {
	f, ok := w.(*os.File)
	if kind := os.Getenv("TERM"); !ok || kind == "" || kind == "dumb" || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	return f
}

// listed is a build in a list, as JSON.
type listed struct {
	JobID   string       `json:"job_id"`
	Number  int64        `json:"build_number,omitempty"`
	Status  string       `json:"status,omitempty"`
	Result  string       `json:"result,omitempty"`
	Error   string       `json:"error,omitempty"`
	Created *time.Time   `json:"created,omitempty"`
	Ended   *time.Time   `json:"ended,omitempty"`
	Cause   *build.Cause `json:"cause,omitempty"`
}

// printer prints a list: as lines, or as one JSON object a line.
type printer struct {
	w    io.Writer
	json bool
}

func (p printer) job(id string) error {
	if p.json {
		return json.NewEncoder(p.w).Encode(listed{JobID: id})
	}
	_, err := fmt.Fprintln(p.w, id)
	return err
}

func (p printer) build(job string, n ticket.Number, s *build.State) error {
	if p.json {
		return json.NewEncoder(p.w).Encode(listed{job, int64(n), s.Status, s.Result, s.Error, s.Created, s.Ended, s.Cause})
	}
	_, err := fmt.Fprintf(p.w, "%d\t%s\t%s\t%s\n", n, or(s.Result, s.Status), when(s.Created), took(s))
	return err
}
