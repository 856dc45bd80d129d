// Package plain runs programs as process groups on this machine.
package plain

import (
	"context"
	"errors"
	"os/exec"
	"syscall"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
)

// Plain is a sandbox that does not isolate.
type Plain struct{}

// New prepares the sandbox.
func New() (*Plain, error) { return &Plain{}, nil }

// Describe implements sandbox.Sandbox.
func (*Plain) Describe() string { return "plain: process groups, no isolation" }

// Close implements sandbox.Sandbox.
func (*Plain) Close() error { return nil }

// Run implements sandbox.Sandbox.
func (*Plain) Run(ctx context.Context, s sandbox.Spec) (sandbox.Result, error) {
	cmd := exec.CommandContext(ctx, s.Args[0], s.Args[1:]...)
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = s.Env, s.Dir, s.Stdin, s.Stdout, s.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = s.Grace + time.Second
	if err := cmd.Start(); err != nil {
		return sandbox.Result{}, fault.Errorf(fault.MissingTool, "sandbox: %w", err)
	}
	err := cmd.Wait()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		return sandbox.Result{}, fault.Errorf(fault.Temporary, "sandbox: %w", err)
	}
	ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if ws.Signaled() {
		return sandbox.Result{Status: 128 + int(ws.Signal()), Signal: int(ws.Signal())}, nil
	}
	return sandbox.Result{Status: ws.ExitStatus()}, nil
}
