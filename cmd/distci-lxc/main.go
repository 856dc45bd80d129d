// Command distci-lxc keeps the images of containers.
//
// See distci-lxc-image(1).
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/tool"
)

const name = "distci-lxc"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := fault.Usage.Status()
	if args := os.Args[1:]; len(args) > 0 && args[0] == "image" {
		status = imageCommand(ctx, args[1:], os.Stdout, os.Stderr)
	} else {
		tool.Fail(name, os.Stderr, fault.Errorf(fault.Usage, "expected a command (known: image)"))
	}
	stop()
	os.Exit(status)
}
