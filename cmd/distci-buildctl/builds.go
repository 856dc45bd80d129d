package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
)

// number reads a build number.
func number(s string) (ticket.Number, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 {
		return 0, fault.Errorf(fault.Usage, "%q: expected a build number", s)
	}
	return ticket.Number(n), nil
}

func trigger(e env, fs *pflag.FlagSet) int {
	begin := beginFlags(fs)
	params := parameterFlag(fs)
	ref := fs.String("ref", "", "check out this branch, tag or commit instead of the job's `REF`")
	connect := connection(fs)
	if status, ok := e.parse(fs, 1, 1); !ok {
		return status
	}
	values, err := parameters(*params)
	if err != nil {
		return e.fail(err)
	}
	c, done, err := connect(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	return begin(e, c, fs.Arg(0), func(key string) (ticket.Number, error) {
		return c.Begin(e.ctx, fs.Arg(0), client.Start{Parameters: values, Ref: *ref, Key: key})
	})
}

func retry(e env, fs *pflag.FlagSet) int {
	begin := beginFlags(fs)
	from := fs.String("from", "", "run again from step `KEY` on (default: the first that did not succeed)")
	return onBuild(e, fs, func(c *client.Client, job string, n ticket.Number) int {
		return begin(e, c, job, func(key string) (ticket.Number, error) {
			return c.Retry(e.ctx, job, n, *from, key)
		})
	})
}

// beginFlags declares the flags of a command that begins a build, and returns
// what carries it out. Each run has a key of its own unless one is given, so
// that no answer that gets lost begins a second build.
func beginFlags(fs *pflag.FlagSet) func(e env, c *client.Client, job string, do func(key string) (ticket.Number, error)) int {
	follow := fs.BoolP("follow", "f", false, "show the build until it is finished; the status is its result")
	key := fs.String("key", "", "an idempotency `KEY`: a repeat with the same one begins no second build")
	how := followFlags(fs)
	return func(e env, c *client.Client, job string, do func(key string) (ticket.Number, error)) int {
		if *key == "" {
			*key = uuid.NewString()
		}
		n, err := do(*key)
		if err != nil {
			return e.fail(err)
		}
		if !*follow {
			fmt.Fprintln(e.stdout, n)
			return 0
		}
		fmt.Fprintf(e.stderr, "%s #%d\n", job, n)
		return how.follow(e, c, job, n)
	}
}

// parameterFlag declares the flag that sets a job's parameters.
func parameterFlag(fs *pflag.FlagSet) *[]string {
	return fs.StringArrayP("parameter", "p", nil, "a value for one of the job's parameters, `NAME=VALUE` (may be repeated)")
}

// parameters reads the values that the flag has got.
func parameters(list []string) (map[string]string, error) {
	values := map[string]string{}
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			return nil, fault.Errorf(fault.Usage, "--parameter %q: expected NAME=VALUE", s)
		}
		values[name] = value
	}
	return values, nil
}

// followBuild prints a build's log until it is finished, with tail > 0 from its
// last lines on; the status is its result.
func followBuild(e env, c *client.Client, job string, n ticket.Number, tail int64) int {
	if err := c.Follow(e.ctx, job, n, tail, e.stdout); err != nil {
		return e.fail(err)
	}
	s, err := c.Build(e.ctx, job, n)
	if err != nil {
		return e.fail(err)
	}
	return conclude(e, job, n, s)
}

// conclude tells a build's result, on stderr and as a status.
func conclude(e env, job string, n ticket.Number, s *build.State) int {
	text := s.Result
	if s.Error != "" {
		text += ": " + s.Error
	}
	fmt.Fprintf(e.stderr, "%s #%d: %s\n", job, n, text)
	return fault.FromResult(s.Result, fault.None).Status()
}

func list(e env, fs *pflag.FlagSet) int {
	asJSON := fs.Bool("json", false, "print one JSON object a line")
	connect := connection(fs)
	if status, ok := e.parse(fs, 0, 1); !ok {
		return status
	}
	c, done, err := connect(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	if fs.NArg() == 0 {
		return listJobs(e, c, *asJSON)
	}
	out := printer{e.stdout, *asJSON}
	ns, err := c.Builds(e.ctx, fs.Arg(0))
	if err != nil {
		return e.fail(err)
	}
	for _, n := range ns {
		s, err := c.Build(e.ctx, fs.Arg(0), n)
		if fault.Of(err) == fault.Unavailable {
			continue // deleted meanwhile
		}
		if err != nil {
			return e.fail(err)
		}
		if err := out.build(fs.Arg(0), n, s); err != nil {
			return e.fail(err)
		}
	}
	return 0
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func when(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func took(s *build.State) string {
	if s.Created == nil || s.Ended == nil {
		return "-"
	}
	return s.Ended.Sub(*s.Created).Round(10 * time.Millisecond).String()
}

// onBuild parses the flags and arguments of a command about one build,
// connects, and runs act.
func onBuild(e env, fs *pflag.FlagSet, act func(c *client.Client, job string, n ticket.Number) int) int {
	connect := connection(fs)
	if status, ok := e.parse(fs, 2, 2); !ok {
		return status
	}
	n, err := number(fs.Arg(1))
	if err != nil {
		return e.fail(err)
	}
	c, done, err := connect(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	return act(c, fs.Arg(0), n)
}

func show(e env, fs *pflag.FlagSet) int {
	return onBuild(e, fs, func(c *client.Client, job string, n ticket.Number) int {
		s, err := c.Build(e.ctx, job, n)
		if err != nil {
			return e.fail(err)
		}
		enc := json.NewEncoder(e.stdout)
		enc.SetIndent("", "  ")
		return e.fail(enc.Encode(s))
	})
}

func log(e env, fs *pflag.FlagSet) int {
	follow := fs.BoolP("follow", "f", false, "go on as the log grows; the status is the build's result")
	step := fs.String("step", "", "only the log of step `KEY`")
	lines := fs.String("lines", "", "only the lines `FROM-TO`, which count from 1; FROM- goes to the last")
	tail := fs.Int64("tail", 0, "only the last `N` lines; with --follow, and what comes")
	return onBuild(e, fs, func(c *client.Client, job string, n ticket.Number) int {
		l, err := linesOf(*lines, *tail)
		switch {
		case fs.Changed("tail") && *tail < 1:
			return e.fail(fault.Errorf(fault.Usage, "--tail %d: expected a number of lines from 1 on", *tail))
		case err != nil:
			return e.fail(err)
		case *follow && *step != "":
			return e.fail(fault.Errorf(fault.Usage, "--follow and --step exclude each other"))
		case *follow && *lines != "":
			return e.fail(fault.Errorf(fault.Usage, "--follow and --lines exclude each other"))
		case *follow:
			return followBuild(e, c, job, n, l.Tail)
		case l != (client.Lines{}) && *step != "":
			return e.fail(c.StepLines(e.ctx, job, n, *step, l, e.stdout))
		case l != (client.Lines{}):
			return e.fail(c.ConsoleLines(e.ctx, job, n, l, e.stdout))
		case *step != "":
			return e.fail(c.StepLog(e.ctx, job, n, *step, 0, e.stdout))
		}
		return e.fail(c.Console(e.ctx, job, n, e.stdout))
	})
}

// linesOf reads which lines are wanted; the zero value: all.
func linesOf(lines string, tail int64) (l client.Lines, err error) {
	if lines == "" {
		return client.Lines{Tail: tail}, nil
	}
	if tail != 0 {
		return l, fault.Errorf(fault.Usage, "--lines and --tail exclude each other")
	}
	from, to, ranged := strings.Cut(lines, "-")
	l.From, err = strconv.ParseInt(from, 10, 64)
	if l.To = l.From; ranged {
		l.To = 0
	}
	if to != "" && err == nil {
		l.To, err = strconv.ParseInt(to, 10, 64)
	}
	if err != nil || l.From < 1 || l.To != 0 && l.To < l.From || ranged && to == "0" {
		return l, fault.Errorf(fault.Usage, "--lines %q: expected FROM-TO, FROM- or one number, from 1 on", lines)
	}
	return l, nil
}

func cancel(e env, fs *pflag.FlagSet) int {
	return onBuild(e, fs, func(c *client.Client, job string, n ticket.Number) int {
		return e.fail(c.Cancel(e.ctx, job, n))
	})
}

func makeTicket(e env, fs *pflag.FlagSet) int {
	typ := fs.String("type", "", "the ticket's type, such as execute-shell")
	params := fs.String("params", "", "its parameters, a JSON `OBJECT`")
	labels := fs.StringArray("label", nil, "a `LABEL` that the worker must have (may be repeated)")
	envs := fs.StringArray("env", nil, "a variable for the script, `NAME=VALUE` (may be repeated)")
	timeout := fs.Int("timeout", 0, "seconds that the step may take")
	if status, ok := e.parse(fs, 0, 0); !ok {
		return status
	}
	t, err := ticketOf(*typ, *params, *labels, *envs, *timeout)
	if err != nil {
		return e.fail(err)
	}
	return e.fail(t.Write(e.stdout))
}
