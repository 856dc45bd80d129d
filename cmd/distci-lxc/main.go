// Command distci-lxc runs a program in a fresh LXC container, and keeps the
// images that containers are made of.
//
// See distci-lxc(1) and distci-lxc-image(1).
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/image"
	"github.com/distci/distci/lib/sandbox/lxc"
	"github.com/distci/distci/lib/sandbox/lxc/engine"
	"github.com/distci/distci/lib/sandbox/wire"
	"github.com/distci/distci/lib/tool"
)

const name = "distci-lxc"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "engine" { // lib/sandbox/lxc has started this
		os.Exit(engine.Serve(wire.ControlFD, lookup))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is main without its globals. The streams are files because the program
// in the container gets them as they are.
func run(ctx context.Context, args []string, stdin, stdout, stderr *os.File) int {
	if len(args) > 0 {
		switch args[0] {
		case "image":
			return imageCommand(ctx, args[1:], stdout, stderr)
		case "check":
			return check(args[1:], stdout, stderr)
		case "reap":
			return reap(args[1:], stdout, stderr)
		}
	}
	return runProgram(ctx, args, stdin, stdout, stderr)
}

func check(args []string, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet(name+" check", pflag.ContinueOnError)
	tool.Describe(fs, "", "Tell what is missing here for containers, if anything.")
	log, status := tool.Parse(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	if err := engine.Check(lxc.DefaultState()); err != nil {
		return tool.Fail(name, stderr, err)
	}
	fmt.Fprintln(stdout, "containers can be made here, with LXC", engine.Version())
	return 0
}

func reap(args []string, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet(name+" reap", pflag.ContinueOnError)
	tool.Describe(fs, "", "Remove what containers have left whose owners are dead.")
	log, status := tool.Parse(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	n, err := engine.Reap()
	log.Debug("cleaned up", "containers", n)
	return tool.Fail(name, stderr, err)
}

// lookup finds an image for the engine.
func lookup(dir, name string) (string, []string, func(), error) {
	if dir == "" {
		dir = image.DefaultDir()
	}
	i, err := image.At(dir).Open(name)
	if err != nil {
		return "", nil, nil, err
	}
	return i.Path(), i.Env, func() { i.Close() }, nil
}
