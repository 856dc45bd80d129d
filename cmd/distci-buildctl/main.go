// Command distci-buildctl controls builds.
//
// Without arguments it is a tool: it reads a control ticket from standard
// input and writes it, with the build's new record and the tickets to post, to
// standard output. With a command it is for people. See distci-buildctl(1).
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/control"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/tool"
)

const name = "distci-buildctl"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// env is what a command gets.
type env struct {
	ctx            context.Context
	args           []string
	stdin          io.Reader
	stdout, stderr io.Writer
	declare        bool // the command is only asked for its flags
}

// command is one of the things that people can ask for.
type command struct {
	synopsis string // "trigger JOB"
	summary  string
	run      func(e env, fs *pflag.FlagSet) int
}

func commands() []command {
	return []command{
		{"trigger JOB", "Begin a build of a job.", trigger},
		{"follow JOB BUILD", "Show a build until it is finished.", follow},
		{"list [JOB]", "List the jobs, or a job's builds.", list},
		{"show JOB BUILD", "Show a build's record as JSON.", show},
		{"log JOB BUILD", "Print a build's log.", log},
		{"download JOB BUILD [PATTERN…]", "Download a build's artefacts.", download},
		{"cancel JOB BUILD", "Cancel a build.", cancel},
		{"retry JOB BUILD", "Retry a finished build from where it failed.", retry},
		{"members", "Show who is there and what each runs.", members},
		{"queue", "Show how much waits and runs, by capabilities.", loads},
		{"job list|get|set|delete", "List, print, set and delete jobs.", jobs},
		{"token create|list|revoke", "Make, list and revoke tokens for frontends.", tokens},
		{"session end", "End sessions of people who have signed in.", sessions},
		{"hook create|list|rotate|remove", "Make, list, rotate and remove the secrets of webhooks.", hooks},
		{"audit", "Show who has changed what.", audit},
		{"gc", "Remove from the store what is not kept, and garbage.", collect},
		{"fsck", "Check that what the store holds is whole.", checkStore},
		{"export FILE", "Write jobs and finished builds to an archive.", export},
		{"import FILE", "Bring in what an archive has.", bringIn},
		{"ticket", "Make a ticket and print it.", makeTicket},
		{"run FILE", "Run a whole job here, without any server.", runJob},
		{"completion bash|zsh|fish", "Print the script that lets a shell complete commands.", completion},
	}
}

// run is main without its globals.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return filter(ctx, args, stdin, stdout, stderr)
	}
	if args[0] == completeCommand {
		return complete(ctx, args[1:], stdout)
	}
	for _, c := range commands() {
		if c.name() != args[0] {
			continue
		}
		fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
		tool.Describe(fs, c.synopsis+" [options]", c.summary)
		return c.run(env{ctx: ctx, args: args[1:], stdin: stdin, stdout: stdout, stderr: stderr}, fs)
	}
	return tool.Fail(name, stderr, fault.Errorf(fault.Usage, "unknown command %q", args[0]))
}

func filter(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	var b strings.Builder
	for _, c := range commands() {
		fmt.Fprintf(&b, "\n  %-29s  %s", c.synopsis, c.summary)
	}
	tool.Describe(fs, "[options] <ticket >ticket\n       "+name+" COMMAND [options]",
		"Answer a control ticket or, with a command, control builds:\n"+b.String())
	log, status := tool.Parse(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	return tool.Filter(ctx, name, log, stdin, stdout, func(ctx context.Context, t *ticket.Ticket) error {
		return control.Act(ctx, t, time.Now())
	})
}

// parse parses the flags of a command that takes between least and most
// arguments; ok is false if the program is to end with the status.
func (e env) parse(fs *pflag.FlagSet, least, most int) (status int, ok bool) {
	if e.declare {
		return 0, false
	}
	log, status := tool.ParseArgs(fs, e.args, e.stdout, e.stderr)
	if log == nil {
		return status, false
	}
	if n := fs.NArg(); n < least || n > most {
		return e.fail(fault.Errorf(fault.Usage, "wrong number of arguments: %d", n)), false
	}
	return 0, true
}

func (e env) fail(err error) int { return tool.Fail(name, e.stderr, err) }
