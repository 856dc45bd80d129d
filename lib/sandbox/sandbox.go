// Package sandbox is the interface to what confines a program while it runs.
//
// Adapters: sandbox/plain (a process group on this machine; no isolation) and
// sandbox/lxc. What an adapter must do is said here and proven by sandboxtest.
package sandbox

import (
	"context"
	"io"
	"time"
)

// Spec is one program to run.
type Spec struct {
	Args   []string // the program, an absolute path or a name in PATH, and its arguments
	Env    []string // NAME=VALUE, all of its environment
	Dir    string   // working directory
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	// Grace is the time between SIGTERM, to the whole process group, and
	// SIGKILL, to everything, when the context is done.
	Grace time.Duration
}

// Result is how the program ended.
type Result struct {
	Status int // exit status, or 128+n if it was killed by signal n
	Signal int // n, or 0
	OOM    bool
	User   time.Duration // CPU time in user mode
	System time.Duration // CPU time in the kernel
	MaxRSS int64         // bytes
}

// Sandbox runs programs. It may be used by several goroutines.
type Sandbox interface {
	// Run runs a program to its end, or until ctx is done. When it returns,
	// nothing of what the program has started is left. The error is for a
	// program that could not be run; it is of kind MissingTool if there is no
	// such program here.
	Run(ctx context.Context, s Spec) (Result, error)
	// Describe says in a few words what the sandbox does, and does not do.
	Describe() string
	// Close frees what the sandbox holds.
	Close() error
}
