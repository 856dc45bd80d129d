// Package lxc runs a program in a fresh LXC container, by way of the program
// distci-lxc. So this process links no liblxc, and has none of its side
// effects. A process of distci-lxc, an engine, has one container at a time, and
// makes another one when that is gone.
//
// What a program is to run, its environment included, goes through a socket to
// distci-lxc and never through arguments, which everybody can read. If this
// process is killed, the socket's end tells, and the container ends.
package lxc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/stdio"
	"github.com/distci/distci/lib/sandbox/wire"
)

// Options say what containers are made of. The zero value of each is a default.
type Options struct {
	Program string // distci-lxc; by default the one beside this program, or in PATH
	Init    string // distci-init, PID 1; by default the one that belongs to Program
	State   string // absolute: a folder for what containers need on disk
	Images  string // absolute: the image store; by default the one that distci-lxc takes
	Root    string // a folder: the root file system of those that name no image
	IDs     uint32 // first of the host's ids that containers get
	Keep    bool   // do not remove what a container has changed of its root file system
	NoCheck bool   // New does not ask whether containers can be made; the first one tells
}

// Sandbox implements [sandbox.Sandbox].
type Sandbox struct {
	o Options

	mu   sync.Mutex
	idle []*engine // the one that was used last at the end
}

var _ sandbox.Sandbox = (*Sandbox)(nil)

// unresponsive is how long distci-lxc may take to end what it was told to end.
const unresponsive = time.Minute

// New checks that containers can be made here. An error of kind Config says
// what is missing and what to do.
func New(o Options) (*Sandbox, error) {
	var err error
	if o.Program == "" {
		if o.Program, err = findProgram(); err != nil {
			return nil, err
		}
	}
	if o.Init == "" {
		if o.Init, err = findInit(o.Program); err != nil {
			return nil, err
		}
	}
	if o.State == "" {
		o.State = defaultState()
	}
	for _, p := range []*string{&o.Program, &o.Init, &o.State, &o.Images, &o.Root} {
		if *p != "" {
			if *p, err = filepath.Abs(*p); err != nil {
				return nil, fault.Wrap(fault.Config, err)
			}
		}
	}
	if o.NoCheck {
		return &Sandbox{o: o}, nil
	}
	var errs bytes.Buffer
	cmd := exec.Command(o.Program, "check")
	cmd.Stderr = &errs
	if err := cmd.Run(); err != nil {
		text := strings.TrimPrefix(strings.TrimSpace(errs.String()), "distci-lxc: ")
		if text == "" {
			text = err.Error()
		}
		return nil, fault.Errorf(fault.Config, "sandbox/lxc: %s", text)
	}
	return &Sandbox{o: o}, nil
}

func findProgram() (string, error) {
	if exe, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(exe), "distci-lxc")
		if fi, err := os.Stat(beside); err == nil && fi.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath("distci-lxc")
	if err != nil {
		return "", fault.Errorf(fault.Config, "sandbox/lxc: there is no distci-lxc beside this program or in PATH: install it")
	}
	return path, nil
}

// findInit knows where make and where make install put it.
func findInit(program string) (string, error) {
	real, err := filepath.EvalSymlinks(program)
	if err != nil {
		return "", fault.Errorf(fault.Config, "sandbox/lxc: %w", err)
	}
	dir := filepath.Dir(real)
	places := []string{filepath.Join(dir, "libexec", "distci-init"), filepath.Join(dir, "..", "libexec", "distci", "distci-init")}
	for _, p := range places {
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fault.Errorf(fault.Config, "sandbox/lxc: there is no distci-init in %s", strings.Join(places, " or "))
}

func defaultState() string {
	if os.Geteuid() == 0 {
		return "/var/lib/distci/lxc"
	}
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		dir = filepath.Join(os.Getenv("HOME"), ".local", "state")
	}
	return filepath.Join(dir, "distci", "lxc")
}

// Inside implements [sandbox.Sandbox].
func (s *Sandbox) Inside(m sandbox.Mount) string { return m.Target }

// Describe implements [sandbox.Sandbox].
func (s *Sandbox) Describe() string {
	return "lxc: each program runs in a fresh container as an unprivileged user, without capabilities, with nothing of the host but its mounts, " +
		"and with no network unless it is given one"
}

// Run implements [sandbox.Sandbox].
func (s *Sandbox) Run(ctx context.Context, spec sandbox.Spec) (sandbox.Result, error) {
	result, _, err := s.RunStats(ctx, spec)
	return result, err
}

// RunStats is Run, and tells more.
func (s *Sandbox) RunStats(ctx context.Context, spec sandbox.Spec) (result sandbox.Result, stats wire.Stats, err error) {
	if err := ctx.Err(); err != nil {
		return result, stats, fmt.Errorf("sandbox/lxc: %w", err)
	}
	begun := time.Now()
	e, err := s.takeEngine()
	if err != nil {
		return result, stats, fault.Errorf(fault.Config, "sandbox/lxc: %w", err)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		s.giveBack(e)
		return result, stats, fault.Errorf(fault.Temporary, "sandbox/lxc: %w", err)
	}
	defer ours.Close()
	streams, err := stdio.Connect(spec)
	if err != nil {
		theirs.Close()
		s.giveBack(e)
		return result, stats, fault.Errorf(fault.Temporary, "sandbox/lxc: %w", err)
	}
	err = wire.PassFiles(e.control, theirs, streams.Files[0], streams.Files[1], streams.Files[2])
	theirs.Close()
	streams.Started()
	var reply wire.Reply
	if err == nil {
		reply, err = s.talk(ctx, ours, spec)
	}
	switch {
	case err != nil:
		ours.Close() // it has no worker any more
		err = s.after(ctx, e, err)
	case reply.Error != "":
		err = fault.Errorf(reply.Fault, "sandbox/lxc: %s", reply.Error)
		e.end()
	default:
		s.giveBack(e)
	}
	streams.Finish()
	if err == nil {
		reply.Result.Started = begun.Add(seconds(reply.Stats.Start))
		reply.Result.Ended = reply.Result.Started.Add(seconds(reply.Stats.Run))
	}
	return reply.Result, reply.Stats, err
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// talk asks for the container, and returns when it is gone.
func (s *Sandbox) talk(ctx context.Context, socket net.Conn, spec sandbox.Spec) (reply wire.Reply, err error) {
	req := wire.Request{
		Spec: wire.Spec{Args: spec.Args, Env: spec.Env, Dir: spec.Dir, Mounts: spec.Mounts, Image: spec.Image,
			ReadOnly: spec.ReadOnly, Network: spec.Network, User: spec.User, Limits: spec.Limits},
		Images: s.o.Images, State: s.o.State, Root: s.o.Root, Init: s.o.Init, Ids: s.o.IDs, Keep: s.o.Keep, Own: ownsMounts(),
	}
	out := json.NewEncoder(socket)
	sent := make(chan struct{})
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-done:
		case <-ctx.Done():
			_ = socket.SetDeadline(time.Now().Add(spec.Grace + unresponsive))
			<-sent
			_ = out.Encode(wire.Stop{Grace: spec.Grace})
		}
	}()
	// The request is longer than a socket holds, perhaps; a distci-lxc that
	// dies meanwhile ends the writing.
	err = out.Encode(req)
	close(sent)
	if err == nil {
		err = json.NewDecoder(socket).Decode(&reply)
	}
	close(done)
	<-stopped
	return reply, err
}

// after cleans up what an engine has left that did not answer.
func (s *Sandbox) after(ctx context.Context, e *engine, talk error) error {
	if ctx.Err() != nil { // it hangs, perhaps
		_ = e.cmd.Process.Kill()
	}
	what := talk
	var exit *exec.ExitError
	if errors.As(e.end(), &exit) {
		what = exit
	}
	err := fault.Errorf(fault.Temporary, "sandbox/lxc: distci-lxc has ended without an answer: %w", what)
	if out, e := exec.Command(s.o.Program, "reap").CombinedOutput(); e != nil {
		return errors.Join(err, fault.Errorf(fault.Temporary, "cleaning up after it: %s", bytes.TrimSpace(out)))
	}
	return err
}
