// Package engine runs programs in fresh LXC containers: the part of distci-lxc
// that is a process of its own, for one container at a time.
//
// It is root's, or a user's with ranges of ids of its own. It has a small copy
// of itself start PID 1 (package pid1) through liblxc, gives that the program
// and its streams, waits, and removes everything. Whoever of these processes is
// killed, the others notice: by the end of a socket (worker, engine, starter,
// PID 1) or by a signal that the kernel sends (LXC's monitor), and end as well.
package engine

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox/wire"
)

// Lookup finds an image by its name in a store; an empty store is the default.
// It returns the folder with its root file system and the environment that it
// asks for. The image must stay until it is released.
type Lookup func(store, name string) (path string, env []string, release func(), err error)

// engine is what one container leaves to the next.
type engine struct {
	lookup  Lookup
	mapper  *mapper
	slot    *slot       // nil before the first
	cgroups []hierarchy // nil as well
	missing error       // why containers cannot be made here
}

// Serve makes the containers that the control socket asks for, one after the
// other, until it ends.
func Serve(socket int, lookup Lookup) int {
	control := pollable(socket, "worker")
	// Terminals' signals are for the worker, which says what is to be done.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT)
	defer endStarter()
	e := &engine{lookup: lookup, mapper: newMapper(), missing: Check()}
	for {
		files, err := wire.TakeFiles(control, 4)
		if err != nil {
			return 0 // the worker is gone, or needs no more
		}
		err = e.serve(files[0], [3]*os.File(files[1:]))
		for _, f := range files {
			f.Close()
		}
		if err != nil {
			return fault.Interrupted.Status()
		}
	}
}

// pollable makes a file of a socket for which Go waits without a thread: while
// one waits, and be it for milliseconds, Go looks after it all the time.
func pollable(socket int, name string) *os.File {
	_ = unix.SetNonblock(socket, true)
	return os.NewFile(uintptr(socket), name)
}

// serve does what the socket asks for, and answers there. The files are the
// program's streams.
func (e *engine) serve(f *os.File, files [3]*os.File) error {
	socket, err := net.FileConn(f)
	if err != nil {
		return err
	}
	defer socket.Close()
	in := json.NewDecoder(socket)
	var req wire.Request
	if err := in.Decode(&req); err != nil {
		return err
	}
	if e.cgroups == nil && e.missing == nil {
		if e.cgroups, e.missing = layout(); req.Own && e.missing == nil {
			e.cgroups = hide(e.cgroups)
		}
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
	return json.NewEncoder(socket).Encode(e.reply(ctx, req, stop, files))
}

func (e *engine) reply(ctx context.Context, req wire.Request, stop <-chan wire.Stop, files [3]*os.File) wire.Reply {
	failed := func(err error) wire.Reply { return wire.Reply{Error: err.Error(), Fault: fault.Of(err)} }
	if e.missing != nil {
		return failed(e.missing)
	}
	var imageEnv []string
	if req.Root == "" || req.Spec.Image != "" {
		if req.Spec.Image == "" {
			return failed(fault.Errorf(fault.Config, "no image is named, and there is no root file system instead"))
		}
		path, env, release, err := e.lookup(req.Images, req.Spec.Image)
		if err != nil {
			return failed(err)
		}
		defer release()
		req.Root, imageEnv = path, env
	}
	req.Spec.Env = environment(imageEnv, req.Spec.Env)
	result, stats, err := e.contain(ctx, req, stop, files)
	if err != nil {
		r := failed(err)
		r.Stats = stats
		return r
	}
	return wire.Reply{Result: result, Stats: stats}
}
