// Package script runs the script of a step: its own process group, its time,
// and its end, after which nothing of that group is left.
package script

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// Script is what is to be run, and how.
type Script struct {
	Text      string            // a first line "#!…" names the interpreter; else it is sh -e
	Workspace string            // a folder
	Dir       string            // in the workspace; "" for the workspace itself
	Env       map[string]string // on top of this process's own environment
	Timeout   time.Duration     // 0: none
	Grace     time.Duration     // from SIGTERM to SIGKILL
	Output    *os.File          // stdout and stderr of the script, as it is
}

// Lines is a script in JSON: a string, or a list of the lines.
type Lines string

// UnmarshalJSON reads either form.
func (l *Lines) UnmarshalJSON(b []byte) error {
	if len(b) == 0 || b[0] != '[' {
		return json.Unmarshal(b, (*string)(l))
	}
	var lines []string
	err := json.Unmarshal(b, &lines)
	*l = Lines(strings.Join(lines, "\n"))
	return err
}

// Run runs the script to its end and returns its exit status; that of one that
// a signal ended is 128 and the signal's number. A status other than 0 comes
// with an error of kind Verdict, and so does a timeout, with status -1. When
// ctx ends, so does the script, and the error is of kind Interrupted. The other
// errors mean that there was nothing to run, or no way to.
func (s Script) Run(ctx context.Context) (int, error) {
	if strings.TrimSpace(s.Text) == "" {
		return -1, fault.Errorf(fault.BadTicket, "script: expected a script, found nothing")
	}
	workspace, dir, err := s.place()
	if err != nil {
		return -1, err
	}
	env, err := s.environ(workspace, dir)
	if err != nil {
		return -1, err
	}
	file, err := s.write(workspace)
	if err != nil {
		return -1, err
	}
	defer os.Remove(file)
	argv, err := s.command(file)
	if err != nil {
		return -1, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return -1, fault.Errorf(fault.Config, "script: standard input: %w", err)
	}
	defer null.Close()
	if ctx.Err() != nil { // do not begin what would end at once
		return -1, fault.Errorf(fault.Interrupted, "script: interrupted before it began")
	}
	g, err := start(argv, dir, env, null, s.Output)
	if err != nil {
		return s.startFailed(argv[0], dir, err)
	}
	return s.wait(ctx, g)
}

// place finds the workspace and the folder to run in, both without links. The
// folder must be in the workspace, wherever links lead. Nothing runs between
// this check and the start that could exchange one.
func (s Script) place() (workspace, dir string, err error) {
	workspace, err = filepath.Abs(cmp.Or(s.Workspace, "."))
	if err == nil {
		workspace, err = folder(workspace)
	}
	if err != nil {
		return "", "", fault.Errorf(fault.Config, "script: workspace: %w", err)
	}
	outside := fault.Errorf(fault.Denied, "script: working directory %q is outside the workspace", s.Dir)
	if s.Dir != "" && !filepath.IsLocal(s.Dir) {
		return "", "", outside
	}
	dir, err = folder(filepath.Join(workspace, s.Dir))
	if err != nil {
		return "", "", fault.Errorf(fault.Unavailable, "script: working directory: %w", err)
	}
	if !inside(workspace, dir) {
		return "", "", outside
	}
	return workspace, dir, nil
}

// folder resolves the links in the path of a folder that can be entered.
func folder(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(real)
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: path, Err: unix.ENOTDIR}
	}
	if err == nil {
		if e := unix.Access(real, unix.X_OK); e != nil {
			err = &fs.PathError{Op: "open", Path: path, Err: e}
		}
	}
	return real, err
}

func inside(workspace, path string) bool {
	rel, err := filepath.Rel(workspace, path)
	return err == nil && filepath.IsLocal(rel)
}

// environ is this process's environment with the script's over it.
func (s Script) environ(workspace, dir string) ([]string, error) {
	env := map[string]string{}
	for _, nv := range os.Environ() {
		name, value, _ := strings.Cut(nv, "=")
		env[name] = value
	}
	maps.Copy(env, map[string]string{"WORKSPACE": workspace, "CI": "true", "PWD": dir})
	delete(env, "OLDPWD")
	for name, value := range s.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return nil, fault.Errorf(fault.BadTicket, "script: variable %q: expected a name without \"=\", and no NUL in name and value", name)
		}
		env[name] = value
	}
	var list []string
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	slices.Sort(list)
	return list, nil
}

// write writes the script to a file of its own, outside the workspace, so that
// it is no part of what the step leaves there.
func (s Script) write(workspace string) (string, error) {
	for _, tmp := range []string{os.TempDir(), "/tmp", "/var/tmp"} {
		if real, err := filepath.EvalSymlinks(tmp); err == nil && inside(workspace, real) {
			continue
		}
		f, err := os.CreateTemp(tmp, "distci-exec-")
		if err != nil {
			return "", writeFailed(err)
		}
		_, err = f.WriteString(strings.TrimSuffix(s.Text, "\n") + "\n")
		err = errors.Join(err, f.Chmod(0o700), f.Close())
		if err != nil {
			os.Remove(f.Name())
			return "", writeFailed(err)
		}
		return f.Name(), nil
	}
	return "", fault.Errorf(fault.Config, "script: no temporary folder outside the workspace %s: set TMPDIR", workspace)
}

// writeFailed tells a full disk, which may be another worker's luck, from a
// wrong TMPDIR.
func writeFailed(err error) error {
	kind := fault.Config
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		kind = fault.Temporary
	}
	return fault.Errorf(kind, "script: writing it to a temporary file: %w", err)
}

// command is what the kernel would make of the file: the interpreter, all that
// follows it as one argument, the file. Doing that here lets a script also run
// from a temporary folder that is mounted noexec, and tells a missing
// interpreter from a missing file.
func (s Script) command(file string) ([]string, error) {
	line, ok := strings.CutPrefix(s.Text, "#!")
	if !ok {
		return []string{"/bin/sh", "-e", file}, nil
	}
	line, _, _ = strings.Cut(line, "\n")
	line = strings.Trim(line, " \t")
	if line == "" {
		return nil, fault.Errorf(fault.BadTicket, "script: its first line, #!, names no interpreter")
	}
	i := strings.IndexAny(line, " \t")
	if i < 0 {
		return []string{line, file}, nil
	}
	return []string{line[:i], strings.TrimLeft(line[i:], " \t"), file}, nil
}

// startFailed explains an interpreter that cannot be started. One that the
// script names is the job's affair, as a program that it calls is: it must ask
// for a worker that has it by a label, and the verdict is the same whether the
// line says /usr/bin/foo or /usr/bin/env foo. Without a shell, on the other
// hand, this worker cannot run scripts at all.
func (s Script) startFailed(interpreter, dir string, err error) (int, error) {
	path := interpreter
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	status, what := 126, err
	if e := unix.Access(path, unix.X_OK); e != nil {
		what = e
	}
	if errors.Is(what, unix.ENOENT) {
		status = 127
	}
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOMEM):
		return -1, fault.Errorf(fault.Temporary, "script: starting it: %w", err)
	case errors.Is(err, unix.E2BIG):
		return -1, fault.Errorf(fault.BadTicket, "script: its variables are too large: %w", err)
	case strings.HasPrefix(s.Text, "#!"):
		return status, fault.Errorf(fault.Verdict, "script: interpreter %q: %w", interpreter, what)
	}
	return -1, fault.Errorf(fault.MissingTool, "script: %s: %w", interpreter, what)
}

// verdict puts the end of a script into words.
func verdict(ws unix.WaitStatus) (int, error) {
	switch {
	case ws.Signaled():
		sig := ws.Signal()
		return 128 + int(sig), fault.Errorf(fault.Verdict, "script: killed by signal %d (%s)", int(sig), cmp.Or(unix.SignalName(sig), "unnamed"))
	case ws.ExitStatus() != 0:
		return ws.ExitStatus(), fault.Errorf(fault.Verdict, "script: exit status %d", ws.ExitStatus())
	}
	return 0, nil
}

// seconds formats d as people write it.
func seconds(d time.Duration) string { return fmt.Sprintf("%g s", d.Seconds()) }
