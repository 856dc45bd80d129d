// Command distci-checkout fetches a ticket's source into the workspace.
//
// It reads one ticket from standard input and writes it, with the commit that
// it checked out, to standard output. As "distci-checkout poll" it prints the
// commits that are new in a repository. See distci-checkout(1).
package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/source"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/tool"
)

const name = "distci-checkout"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// params are the ticket's own parameters; the first three are the original's.
type params struct {
	Repository  string `json:"repository"`
	Ref         string `json:"ref"`
	CheckoutDir string `json:"checkout-dir"`
	Depth       int    `json:"depth"`
	Submodules  *bool  `json:"submodules"` // absent: true
}

// run is main without its globals: tests call it, and only main exits.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "poll" {
		return poll(ctx, args[1:], stdout, stderr)
	}
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	tool.Describe(fs, "[options] <ticket", "Fetch a ticket's source into the workspace. \"distci-checkout poll\" lists new commits.")
	repository := fs.String("repository", "", "fetch from `URL`")
	ref := fs.String("ref", "", "check out `REF`: a branch, tag, full ref or commit id (default: the default branch)")
	dir := fs.String("checkout-dir", "", "check out into `DIR` within the workspace")
	depth := fs.Int("depth", 0, "fetch only the last `N` commits")
	bare := fs.Bool("no-submodules", false, "leave submodules empty")
	workspace := tool.Setting(fs, "workspace", "workspace", ".", "the workspace `DIR`")
	access := accessFlags(fs)
	log, status := tool.Parse(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	return tool.Filter(ctx, name, log, stdin, stdout, func(ctx context.Context, t *ticket.Ticket) error {
		var p params
		if err := tool.Params(t, "git-checkout", &p); err != nil {
			return err
		}
		o := source.Options{Access: access(fs, log, stderr), Dir: *workspace, Repository: p.Repository, Ref: p.Ref,
			CheckoutDir: p.CheckoutDir, Depth: p.Depth, Submodules: (p.Submodules == nil || *p.Submodules) && !*bare}
		for flag, set := range map[string]func(){
			"repository":   func() { o.Repository = *repository },
			"ref":          func() { o.Ref = *ref },
			"checkout-dir": func() { o.CheckoutDir = *dir },
			"depth":        func() { o.Depth = *depth },
		} {
			if fs.Changed(flag) {
				set()
			}
		}
		commit, err := source.Checkout(ctx, o)
		if err != nil {
			return err
		}
		log.Info("now at "+commit.Hash[:12], "subject", commit.Subject, "author", commit.Author)
		if err := t.Set("ref", commit.Ref); err != nil {
			return err
		}
		return t.Set("commit", commit.Hash)
	})
}

// poll prints the new commits of each repository. One that cannot be reached
// does not keep the others from being looked at.
func poll(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet(name+" poll", pflag.ContinueOnError)
	tool.Describe(fs, "[options] repository ...", "Print one line of JSON for each commit that is new since the last time.")
	state := fs.String("state", filepath.Join(tool.StateDir(), "poll.json"), "remember in `FILE` what was seen")
	refs := fs.StringArray("ref", nil, "look at refs that match `GLOB` (may be repeated; default: all branches)")
	all := fs.Bool("all", false, "the first time, print all of the history")
	access := accessFlags(fs)
	log, status := tool.ParseArgs(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	if fs.NArg() == 0 {
		return tool.Fail(fs.Name(), stderr, fault.Errorf(fault.Usage, "no repository is given"))
	}
	out := json.NewEncoder(stdout)
	out.SetEscapeHTML(false)
	for _, repository := range fs.Args() {
		o := source.PollOptions{Access: access(fs, log, stderr), Repository: repository, Refs: *refs, State: *state, All: *all}
		err := source.Poll(ctx, o, func(e source.Event) error { return fault.Wrap(fault.Temporary, out.Encode(e)) })
		if err != nil {
			log.Error(err.Error())
			if status == 0 {
				status = fault.Status(err)
			}
		}
	}
	return status
}

// accessFlags declares how repositories are reached, for both uses.
func accessFlags(fs *pflag.FlagSet) func(*pflag.FlagSet, *slog.Logger, io.Writer) source.Access {
	mirror := tool.Setting(fs, "mirror", "mirror", source.DefaultMirror(), "the folder `DIR` of the mirror cache")
	none := fs.Bool("no-mirror", false, "use no mirror cache")
	credentials := tool.Setting(fs, "credentials", "credentials", "", "take passwords from `FILE`, in git's credential-store format")
	key := fs.String("ssh-key", "", "the private key `FILE` for ssh")
	hosts := fs.String("known-hosts", "", "the known_hosts `FILE` for ssh")
	return func(fs *pflag.FlagSet, log *slog.Logger, stderr io.Writer) source.Access {
		a := source.Access{Mirror: *mirror, CredentialsFile: *credentials, SSHKey: *key, KnownHosts: *hosts, Log: log}
		if *none {
			a.Mirror = ""
		}
		if v, _ := fs.GetBool("verbose"); v {
			a.Progress = stderr
		}
		return a
	}
}
