// Command distci-exec runs the script of a ticket in the workspace; the
// script's exit status is the verdict.
//
// It reads one ticket from standard input and writes it, with the result, to
// standard output. All that the script prints goes to standard error. See
// distci-exec(1).
package main

import (
	"cmp"
	"context"
	"io"
	"maps"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/script"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/tool"
)

const name = "distci-exec"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// params are those of an execute-shell ticket.
type params struct {
	Script     script.Lines `json:"script"`
	Dir        string       `json:"working_directory"`
	NodeLabels []string     `json:"nodelabels"` // chose the worker; nothing is left to do here
}

// run is main without its globals. stderr is a file because the script gets it
// as it is: what is printed passes through no buffer of ours.
func run(ctx context.Context, args []string, stdin io.Reader, stdout io.Writer, stderr *os.File) int {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	tool.Describe(fs, "[options] < TICKET", "Run the script of a ticket in the workspace.")
	text := fs.String("script", "", "the script, as `TEXT`, instead of the ticket's")
	dir := fs.String("working-directory", "", "run it in `DIR` of the workspace")
	workspace := tool.Setting(fs, "workspace", "workspace", ".", "the workspace `DIR`")
	timeout := fs.Float64("timeout", 0, "end it after so many `SECONDS`; 0: never")
	grace := fs.Float64("grace", 10, "`SECONDS` from SIGTERM to SIGKILL")
	vars := fs.StringArray("env", nil, "set a variable, `NAME=VALUE`; may be repeated")
	log, status := tool.Parse(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	env, err := environment(*vars)
	if err == nil {
		err = check(*timeout, *grace)
	}
	if err != nil {
		return tool.Fail(name, stderr, err)
	}
	return tool.Filter(ctx, name, log, stdin, stdout, func(ctx context.Context, t *ticket.Ticket) error {
		var p params
		if err := tool.Params(t, ticket.ExecuteShell, &p); err != nil {
			return err
		}
		s := script.Script{
			Text: string(p.Script), Workspace: *workspace, Dir: p.Dir, Output: stderr,
			Env: variables(t, env), Timeout: time.Duration(t.Timeout) * time.Second, Grace: duration(*grace),
		}
		if fs.Changed("script") {
			s.Text = *text
		}
		if fs.Changed("working-directory") {
			s.Dir = *dir
		}
		if fs.Changed("timeout") {
			s.Timeout = duration(*timeout)
		}
		delete(t.Extra, "exit_status") // of another script, earlier in the pipe
		log.Debug("running the script", "dir", cmp.Or(s.Dir, "."), "timeout", s.Timeout)
		status, err := s.Run(ctx)
		if status >= 0 {
			if err := t.Set("exit_status", status); err != nil {
				return err
			}
		}
		return err
	})
}

// variables are the ticket's, over those that name its build, and those of the
// flags over both.
func variables(t *ticket.Ticket, flags map[string]string) map[string]string {
	env := map[string]string{}
	if t.JobID != "" {
		env["JOB_NAME"] = t.JobID
	}
	if t.BuildNumber != 0 {
		env["BUILD_NUMBER"] = t.BuildNumber.String()
	}
	maps.Copy(env, t.Env)
	maps.Copy(env, flags)
	return env
}

func environment(vars []string) (map[string]string, error) {
	env := map[string]string{}
	for _, v := range vars {
		name, value, ok := strings.Cut(v, "=")
		if !ok || name == "" {
			return nil, fault.Errorf(fault.Usage, "--env: expected NAME=VALUE, found %q", v)
		}
		env[name] = value
	}
	return env, nil
}

// maxSeconds is what a time.Duration can hold, roughly.
const maxSeconds = 9e9

func check(timeout, grace float64) error {
	if !(timeout >= 0 && timeout <= maxSeconds) { // also if it is not a number
		return fault.Errorf(fault.Usage, "--timeout: expected 0 to %g seconds, found %g", float64(maxSeconds), timeout)
	}
	if !(grace >= 0 && grace <= maxSeconds) {
		return fault.Errorf(fault.Usage, "--grace: expected 0 to %g seconds, found %g", float64(maxSeconds), grace)
	}
	return nil
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
