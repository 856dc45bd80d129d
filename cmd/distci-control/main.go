// Command distci-control is distci-buildctl as a tool, without its commands for
// people: it reads a control ticket from standard input and writes it, with the
// build's new record and the tickets to post, to standard output.
//
// Every build needs it twice, so it links neither the stores nor the
// coordination: it starts in less than half of the time. distci-claim runs it in the
// place of the distci-buildctl that it is installed with. It is no program for
// people; see distci-buildctl(1).
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/control"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/tool"
)

const name = "distci-control"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is main without its globals.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	tool.Describe(fs, "[options] <ticket >ticket", "Answer a control ticket, as distci-buildctl does.")
	log, status := tool.Parse(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	return tool.Filter(ctx, name, log, stdin, stdout, func(ctx context.Context, t *ticket.Ticket) error {
		return control.Act(ctx, t, time.Now())
	})
}
