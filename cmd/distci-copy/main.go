// Command distci-copy brings artefacts of another build into the workspace.
//
// It reads one ticket from standard input and writes it, with the build that
// it copied from, to standard output. See distci-copy(1).
package main

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/artifact"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/tool"
)

const name = "distci-copy"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// params are the ticket's own parameters; the first three are the original's.
type params struct {
	Job             string          `json:"job"`
	Artifacts       []string        `json:"artifacts"`
	TargetDirectory string          `json:"target_directory"`
	Build           json.RawMessage `json:"build"` // a number or lastSuccessful
	Flatten         bool            `json:"flatten"`
}

const lastSuccessful = "last-successful"

// run is main without its globals: tests call it, and only main exits.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	tool.Describe(fs, "[options] [glob ...] <ticket", "Copy the artefacts that match a glob, instead of those that the ticket names, into the workspace.")
	job := fs.String("job", "", "copy from the job `ID`")
	number := fs.String("build", "", "copy from build `N`, or \"last-successful\" (the default)")
	target := fs.String("target-directory", "", "copy into `DIR` within the workspace")
	flatten := fs.Bool("flatten", false, "leave out the artefacts' folders")
	workspace := tool.Setting(fs, "workspace", "workspace", ".", "the workspace `DIR`")
	from := fs.String("from", "", "copy from the folder `DIR` that distci-publish --to has written, without a server")
	jobs := fs.Uint8("jobs", 4, "copy `N` files at the same time")
	server := client.Declare(fs, "the server: http(s)://host or unix:/path as `URL`")
	log, status := tool.ParseArgs(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	if *jobs == 0 {
		return tool.Fail(name, stderr, fault.Errorf(fault.Usage, "--jobs: at least one"))
	}
	return tool.Filter(ctx, name, log, stdin, stdout, func(ctx context.Context, t *ticket.Ticket) error {
		var p params
		if err := tool.Params(t, "copy-artifacts", &p); err != nil {
			return err
		}
		build := strings.Trim(string(p.Build), `"`)
		override(fs, "job", &p.Job, *job)
		override(fs, "build", &build, *number)
		override(fs, "target-directory", &p.TargetDirectory, *target)
		override(fs, "flatten", &p.Flatten, *flatten)
		if fs.NArg() > 0 {
			p.Artifacts = fs.Args()
		}
		if len(p.Artifacts) == 0 {
			return fault.Errorf(fault.BadTicket, "nothing to copy: neither arguments nor the ticket's params.artifacts name artefacts")
		}
		o := artifact.CopyOptions{Workspace: *workspace, Target: p.TargetDirectory, Globs: p.Artifacts, Flatten: p.Flatten, Jobs: int(*jobs), Log: log}
		if *from != "" {
			folder, err := artifact.OpenFolder(*from)
			if err != nil {
				return err
			}
			defer folder.Close()
			return artifact.Copy(ctx, o, folder)
		}
		if p.Job == "" {
			return fault.Errorf(fault.BadTicket, "no job to copy from: neither --job nor the ticket's params.job is given")
		}
		if server.URL() == "" {
			return fault.Errorf(fault.Config, "no server to copy from: give --url, or --from for a folder")
		}
		c, err := server.Open(name)
		if err != nil {
			return err
		}
		defer c.Close()
		n, err := choose(ctx, c, p.Job, build)
		if err != nil {
			return err
		}
		if err := artifact.Copy(ctx, o, &artifact.Server{Client: c, Job: p.Job, Build: n}); err != nil {
			return err
		}
		return t.Set("copied_from", map[string]any{"job_id": p.Job, "build_number": n})
	})
}

// override gives dst the value of a flag that was given.
func override[T any](fs *pflag.FlagSet, flag string, dst *T, value T) {
	if fs.Changed(flag) {
		*dst = value
	}
}

// choose finds the build that is meant.
func choose(ctx context.Context, c *client.Client, job, build string) (ticket.Number, error) {
	if build == "" || build == "null" || build == lastSuccessful {
		return artifact.LastSuccessful(ctx, c, job)
	}
	var n ticket.Number
	if err := n.UnmarshalJSON([]byte(build)); err != nil || n == 0 {
		return 0, fault.Errorf(fault.BadTicket, "build: expected a build number or %q, found %q", lastSuccessful, build)
	}
	return n, nil
}
