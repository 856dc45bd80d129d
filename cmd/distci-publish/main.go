// Command distci-publish makes workspace files artefacts of a build.
//
// It reads one ticket from standard input and writes it, with the artefacts'
// ids and paths, to standard output. See distci-publish(1).
package main

import (
	"context"
	"io"
	"maps"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/artifact"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/tool"
)

const name = "distci-publish"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// params are the ticket's own parameters.
type params struct {
	Artifacts  []string `json:"artifacts"`
	AllowEmpty bool     `json:"allow_empty"`
	Always     bool     `json:"always"` // the build's business: whether the step is run
}

// run is main without its globals: tests call it, and only main exits.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	tool.Describe(fs, "[options] [glob ...] <ticket", "Publish the workspace files that match a glob, instead of those that the ticket names.")
	workspace := tool.Setting(fs, "workspace", "workspace", ".", "the workspace `DIR`")
	to := fs.String("to", "", "publish into the folder `DIR`, without a server")
	empty := fs.Bool("allow-empty", false, "a glob without a match is no failure")
	always := fs.Bool("always", false, "publish also if the ticket has failed already; it keeps that result")
	jobs := fs.Uint8("jobs", 4, "publish `N` files at the same time")
	server := client.Declare(fs, "the server: http(s)://host or unix:/path as `URL`")
	log, status := tool.ParseArgs(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	if *jobs == 0 {
		return tool.Fail(name, stderr, fault.Errorf(fault.Usage, "--jobs: at least one"))
	}
	var options []tool.Option
	if *always {
		options = append(options, tool.Always)
	}
	return tool.Filter(ctx, name, log, stdin, stdout, func(ctx context.Context, t *ticket.Ticket) error {
		var p params
		if err := tool.Params(t, "publish-artifacts", &p); err != nil {
			return err
		}
		o := artifact.PublishOptions{Workspace: *workspace, Globs: p.Artifacts, AllowEmpty: p.AllowEmpty, Jobs: int(*jobs), Log: log}
		if fs.NArg() > 0 {
			o.Globs = fs.Args()
		}
		if fs.Changed("allow-empty") {
			o.AllowEmpty = *empty
		}
		if len(o.Globs) == 0 {
			return fault.Errorf(fault.BadTicket, "nothing to publish: neither arguments nor the ticket's params.artifacts name files")
		}
		if *to != "" {
			return intoFolder(ctx, t, o, *to)
		}
		if server.URL() == "" {
			return fault.Errorf(fault.Config, "no server to publish to: give --url, or --to for a folder")
		}
		if t.JobID == "" || t.BuildNumber == 0 {
			return fault.Errorf(fault.BadTicket, "the ticket belongs to no build: it needs job_id and build_number, unless --to is given")
		}
		c, err := server.Open(name)
		if err != nil {
			return err
		}
		defer c.Close()
		return publish(ctx, t, o, &artifact.Server{Client: c, Job: t.JobID, Build: t.BuildNumber})
	}, options...)
}

func intoFolder(ctx context.Context, t *ticket.Ticket, o artifact.PublishOptions, dir string) error {
	folder, err := artifact.CreateFolder(ctx, dir)
	if err != nil {
		return err
	}
	err = publish(ctx, t, o, folder)
	// The index is written also after an error: it says what is there.
	if e := folder.Close(); err == nil {
		err = e
	}
	return err
}

// publish adds what is published to what the ticket names already.
func publish(ctx context.Context, t *ticket.Ticket, o artifact.PublishOptions, sink artifact.Sink) error {
	done, err := artifact.Publish(ctx, o, sink)
	if err != nil {
		return err
	}
	artifacts := maps.Clone(t.Artifacts)
	if artifacts == nil {
		artifacts = map[string][]string{}
	}
	var bytes int64
	if _, err := t.Get("artifact_bytes", &bytes); err != nil {
		return err
	}
	for _, a := range done {
		artifacts[a.ID] = a.Path
		bytes += a.Size
	}
	t.Artifacts = artifacts
	return t.Set("artifact_bytes", bytes)
}
