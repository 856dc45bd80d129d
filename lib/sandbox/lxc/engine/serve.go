// Package engine runs one program in one fresh LXC container: the part of
// distci-lxc that is a process of its own for each container.
//
// It is root's, or a user's with ranges of ids of its own. It starts PID 1
// (package pid1) through liblxc, gives it the program and its streams, waits,
// and removes everything. Whoever of these processes is killed, the others
// notice: by the end of a socket (worker, engine, PID 1) or by a signal that
// the kernel sends (LXC's monitor), and end as well.
package engine

import (
	"context"
	"encoding/json"
	"os"
	"os/signal"
	"syscall"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox/wire"
)

// Lookup finds an image by its name in a store; an empty store is the default.
// It returns the folder with its root file system and the environment that it
// asks for. The image must stay until it is released.
type Lookup func(store, name string) (path string, env []string, release func(), err error)

// Serve runs what the socket asks for, and answers there. Descriptors 0 to 2
// are the program's.
func Serve(socket *os.File, lookup Lookup) int {
	// Terminals' signals are for the worker, which says what is to be done.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	defer socket.Close()
	in := json.NewDecoder(socket)
	var req wire.Request
	if err := in.Decode(&req); err != nil {
		return fault.Usage.Status()
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	// Its end is the worker's, and ends the container at once.
	stop := make(chan wire.Stop, 1)
	go func() {
		var s wire.Stop
		if in.Decode(&s) == nil {
			stop <- s
			if in.Decode(&s) == nil {
				return
			}
		}
		close(stop)
	}()
	reply := serve(ctx, req, stop, lookup)
	if err := json.NewEncoder(socket).Encode(reply); err != nil {
		return fault.Interrupted.Status()
	}
	return 0
}

func serve(ctx context.Context, req wire.Request, stop <-chan wire.Stop, lookup Lookup) wire.Reply {
	failed := func(err error) wire.Reply { return wire.Reply{Error: err.Error(), Fault: fault.Of(err)} }
	if err := Check(); err != nil {
		return failed(err)
	}
	var imageEnv []string
	if req.Root == "" || req.Spec.Image != "" {
		if req.Spec.Image == "" {
			return failed(fault.Errorf(fault.Config, "no image is named, and there is no root file system instead"))
		}
		path, env, release, err := lookup(req.Images, req.Spec.Image)
		if err != nil {
			return failed(err)
		}
		defer release()
		req.Root, imageEnv = path, env
	}
	req.Spec.Env = environment(imageEnv, req.Spec.Env)
	result, stats, err := Run(ctx, req, stop, [3]*os.File{os.Stdin, os.Stdout, os.Stderr})
	if err != nil {
		r := failed(err)
		r.Stats = stats
		return r
	}
	return wire.Reply{Result: result, Stats: stats}
}
