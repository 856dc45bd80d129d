// Command distci-status tells a forge what becomes of a commit's build.
//
// It reads one ticket from standard input and writes it to standard output. See
// distci-status(1).
package main

import (
	"cmp"
	"context"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/status"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/tool"
)

const name = "distci-status"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is main without its globals: tests call it, and only main exits.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	tool.Describe(fs, "[options] <ticket", "Tell a forge what becomes of a commit's build.")
	var flags build.Report
	fs.StringVar(&flags.Forge, "forge", "", "the forge is `KIND`: github, gitlab or gitea")
	fs.StringVar(&flags.URL, "url", "", "the `URL` of the forge's API")
	fs.StringVar(&flags.Repository, "repository", "", "the repository's `NAME`, as owner/name")
	fs.StringVar(&flags.Commit, "commit", "", "the commit's `ID`, in full")
	fs.StringVar(&flags.Context, "context", "", "the status's `NAME`")
	fs.StringVar(&flags.State, "state", "", "the `STATE`: running, success, failure, error or canceled")
	fs.StringVar(&flags.Description, "description", "", "a few words for people as `TEXT`")
	fs.StringVar(&flags.Target, "target", "", "the `URL` of the build's page")
	file := fs.String("secret-file", "", "take the forge's token from `FILE` (default: the ticket's secret in the folder $DISTCI_SECRETS)")
	timeout := fs.Duration("timeout", time.Minute, "give up after so long a `TIME`; a ticket's timeout wins")
	log, code := tool.Parse(fs, args, stdout, stderr)
	if log == nil {
		return code
	}
	return tool.Filter(ctx, name, log, stdin, stdout, func(ctx context.Context, t *ticket.Ticket) error {
		var r build.Report
		if err := tool.Params(t, ticket.CommitStatus, &r); err != nil {
			return err
		}
		merge(&r, flags)
		token, err := readToken(*file, r.Secret)
		if err != nil {
			return err
		}
		within := *timeout
		if t.Timeout > 0 && !fs.Changed("timeout") {
			within = time.Duration(t.Timeout) * time.Second
		}
		ctx, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		if err := status.Post(ctx, r, status.Options{Token: token, Agent: name + "/" + tool.Version, Log: log}); err != nil {
			return err
		}
		log.Info("told the forge", "state", r.State, "repository", r.Repository, "commit", r.Commit, "context", r.Context)
		return nil
	})
}

// merge puts what the flags say over what the ticket says.
func merge(r *build.Report, flags build.Report) {
	r.Forge, r.URL = cmp.Or(flags.Forge, r.Forge), cmp.Or(flags.URL, r.URL)
	r.Repository, r.Commit = cmp.Or(flags.Repository, r.Repository), cmp.Or(flags.Commit, r.Commit)
	r.Context, r.State = cmp.Or(flags.Context, r.Context), cmp.Or(flags.State, r.State)
	r.Description, r.Target = cmp.Or(flags.Description, r.Description), cmp.Or(flags.Target, r.Target)
}

// readToken reads the forge's token. Its errors have nothing of it.
func readToken(file, secret string) (string, error) {
	if file == "" {
		dir := os.Getenv("DISTCI_SECRETS")
		if dir == "" || secret == "" || secret != filepath.Base(secret) {
			return "", fault.Errorf(fault.Config, "no token: give --secret-file, or a ticket with a secret that its worker has")
		}
		file = filepath.Join(dir, secret)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fault.Errorf(fault.Config, "the token cannot be read: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
