// Package sandbox is the interface for running one program confined.
//
// Adapters: sandbox/plain (a session of its own, no isolation) and sandbox/lxc
// (a fresh container). What an adapter must do is said here and proven by
// sandboxtest.
package sandbox

import (
	"context"
	"io"
	"time"
)

// StepVar is the one environment variable that an adapter may add to
// [Spec.Env]: a mark by which it finds a step's processes again.
const StepVar = "DISTCI_STEP"

// Spec says what to run.
type Spec struct {
	// Args is the program and its arguments. A program without a "/" is looked
	// for in the PATH of Env.
	Args []string
	// Env is the whole environment, as "NAME=value"; but see StepVar. An
	// adapter with images adds what the image asks for, and a PATH, where Env
	// does not set it.
	Env []string
	// Dir is the working directory, as it is called inside.
	Dir string

	// Mounts are what the program gets of the host's files. An adapter that
	// has no file system of its own leaves them where they are; see Inside.
	Mounts []Mount
	// Image names the root file system; empty is the adapter's default. It
	// never is a path. This and what follows is for adapters that make
	// containers; the others do without.
	Image string
	// ReadOnly makes the root file system read-only. Mounts and /tmp are not.
	ReadOnly bool
	// Network is "none", which empty means too, "bridge", "bridge:NAME" or
	// "host". None has a loopback of its own and nothing else.
	Network string
	// User is who runs the program inside, as "UID" or "UID:GID" or as a name
	// that the image knows; empty is an unprivileged one. It owns the mounts.
	User string

	// Stdin is what the program reads; nil is the empty input. An *os.File is
	// passed on as it is; of anything else more may be read than the program
	// uses.
	Stdin io.Reader
	// Stdout and Stderr take the program's output; nil drops it. An *os.File
	// is passed on as it is. Otherwise a Write that blocks holds the program
	// up, so that memory stays bounded, and one that fails drops the rest.
	Stdout, Stderr io.Writer

	// Grace is the time between SIGTERM and SIGKILL when the context is done.
	Grace time.Duration
	// Limits bounds what the program may use, as far as the adapter can.
	Limits Limits
}

// Mount is a file, a folder or a socket of the host that a program may use.
type Mount struct {
	Source   string // on the host, absolute
	Target   string // inside, absolute and clean; its folders need not exist
	ReadOnly bool
}

// Limits bounds a program and all its descendants together. Zero is no limit.
type Limits struct {
	Memory    int64   // bytes
	CPUs      float64 // processors' worth of time
	Processes int     // processes and threads
	Disk      int64   // bytes
}

// Result tells how the program ended.
type Result struct {
	Status int  // its exit status; 128+n if signal n killed it
	Signal int  // the signal that killed it; or 0
	OOM    bool // it, or a part of it, was killed for using too much memory
	Full   bool // it was killed for using too much disk
	Usage  Usage
	// When the program was started and when it had ended; what was before and
	// after belongs to the sandbox.
	Started, Ended time.Time `json:"-"`
}

// Usage is what the program used, with those of its descendants that it has
// waited for, or with all of them if the adapter can tell.
type Usage struct {
	User, System time.Duration
	MaxRSS       int64 // bytes, of the largest process
	Memory       int64 // bytes, the most that all had at once, with what they cache; 0 if it was not measured
}

// Sandbox runs programs. It may be used by several goroutines.
type Sandbox interface {
	// Run runs the program until it ends. When it returns, all output has been
	// written and no process that the program has started is left, whatever
	// its parent, group and session. If this process is killed, all of them
	// are soon killed as well.
	//
	// When ctx is done, the program's process group gets SIGTERM and after
	// Grace everything gets SIGKILL; the Result tells how the program ended.
	//
	// An error means that the program could not be run (a program that is
	// missing is a fault.MissingTool) or could not be cleaned up after.
	Run(ctx context.Context, s Spec) (Result, error)
	// Inside tells what the program calls m, which must be one of its Mounts:
	// m.Target, or m.Source if the adapter mounts nothing.
	Inside(m Mount) string
	// Describe says in a sentence what the sandbox confines and what not.
	Describe() string
}
