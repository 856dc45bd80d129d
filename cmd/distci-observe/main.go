// Command distci-observe is the part of distci-claim that has the large
// libraries: it reads events from standard input, serves them as metrics, and
// exports them as traces. See distci-observe(1).
package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/metrics"
	"github.com/distci/distci/lib/observe"
	"github.com/distci/distci/lib/tool"
	"github.com/distci/distci/lib/trace"
)

const name = "distci-observe"

// patience is how long the last spans may take to be exported.
const patience = 5 * time.Second

func main() {
	// It ends when its input does, and not before: what a worker says last, when
	// it is told to stop, is worth knowing, too.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is main without its globals.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	tool.Describe(fs, "[options] <events", "Serve the events of a worker as metrics, and export them as traces.")
	listen := fs.String("listen", "", "serve /metrics at `ADDRESS`, a loopback host:port or unix:/path")
	fd := fs.Int("listen-fd", 0, "serve /metrics at the listening socket with this `NUMBER`")
	file := fs.String("file", "", "at the end add the metrics to `FILE`, for the textfile collector of node_exporter")
	traces := fs.Bool("trace", false, "export traces to where the variables OTEL_EXPORTER_OTLP_… say")
	program := fs.String("program", "distci-claim", "the `NAME` of the program that is observed")
	pid := fs.Int("pid", 0, "its process `NUMBER`, for the metrics of the process")
	log, status := tool.Parse(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	fail := func(err error) int { return tool.Fail(name, stderr, err) }
	m := metrics.New(metrics.Options{Program: *program, Version: tool.Version, PID: func() (int, error) {
		if *pid == 0 {
			return 0, errors.New("not known")
		}
		return *pid, nil
	}})
	sinks := []observe.Sink{m.Add}
	if *traces {
		t, err := trace.New(ctx, tool.Version)
		if err != nil {
			return fail(err)
		}
		defer func() {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			if err := t.Close(ctx); err != nil {
				log.Warn("the last spans are lost: " + err.Error())
			}
		}()
		sinks = append(sinks, t.Add)
	}
	l, err := open(*listen, *fd)
	if err != nil {
		return fail(err)
	}
	if l != nil {
		defer m.Serve(l, log)()
	}
	err = observe.Read(stdin, func(e observe.Event) {
		for _, s := range sinks {
			s.Tell(e)
		}
	})
	if *file != "" {
		err = errors.Join(err, m.WriteTextfile(*file))
	}
	return fail(err)
}

// open listens, or takes the socket that somebody has opened; nil: neither.
func open(address string, fd int) (net.Listener, error) {
	if fd > 0 {
		f := os.NewFile(uintptr(fd), "listener")
		defer f.Close()
		l, err := net.FileListener(f)
		return l, fault.Wrap(fault.Usage, err)
	}
	if address == "" {
		return nil, nil
	}
	return observe.Listen(address)
}
