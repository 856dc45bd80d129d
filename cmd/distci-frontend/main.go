// Command distci-frontend serves the REST interface. See distci-frontend(8).
package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/tool"
	"github.com/distci/distci/lib/web"
	"github.com/distci/distci/lib/workspace"
)

const name = "distci-frontend"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

// run is main without its globals.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	tool.Describe(fs, "[options]", "Serve the REST interface over the cluster's coordination and store.")
	listen := fs.String("listen", "127.0.0.1:8088", "serve at `ADDRESS`, host:port or unix:/path; port 0: a free one")
	door, signIn := newDoor(fs), newSignIn(fs)
	measured := metricsFlags(fs)
	portFile := fs.String("port-file", "", "write the port to `FILE` once it is served")
	coord := tool.Setting(fs, "coord", "coord", "", "the coordination's `URL`")
	store := tool.Setting(fs, "store", "store", "", "the store's `URL`")
	history := tool.Setting(fs, "history", "history", "", "append to `FILE` what is done to tickets, one JSON object a line")
	state := tool.Setting(fs, "state", "state", tool.StateDir(), "`FOLDER` for the cache of workspace layers")
	upload := fs.Int64("max-upload", api.DefaultMaxUpload, "take artefacts and workspaces of at most so many `BYTES`")
	session := fs.Duration("session-timeout", 10*time.Second, "how long the coordination may be silent before requests are refused")
	grace := fs.Duration("grace", 10*time.Second, "how long requests may take to end after a signal")
	log, status := tool.Parse(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	fail := func(err error) int { return tool.Fail(name, stderr, err) }
	door.signIn = signIn.wanted()
	if err := errors.Join(door.check(*listen), signIn.check()); err != nil {
		return fail(err)
	}
	l, err := open(*listen, door)
	if err != nil {
		return fail(err)
	}
	defer l.Close()
	meter := measured.new()
	cl, err := cluster.Open(ctx, cluster.Options{Coord: *coord, Store: *store, Session: *session, History: *history, Log: log, Observe: meter.Add})
	if err != nil {
		return fail(err)
	}
	defer cl.Close()
	cache, err := workspace.OpenCache(filepath.Join(*state, "layers"), 10<<30)
	if err != nil {
		return fail(err)
	}
	people, err := signIn.open(cl.Store)
	if err != nil {
		return fail(err)
	}
	self := member.Self(member.Frontend, "", tool.Version)
	self.Listen = door.url(l)
	audit := access.NewAudit(cl.Store, uuid.NewString(), log)
	ending, traffic := make(chan struct{}), &api.Traffic{}
	stop, err := measured.look(meter, cl, cache, traffic, log)
	if err != nil {
		return fail(err)
	}
	defer stop()
	srv := &http.Server{
		Handler: api.New(cl.Repo, api.Options{Layers: workspace.NewLayers(cl.Store, cache, workspace.Limits{}),
			MaxUpload: *upload, Log: log, Done: ending, Traffic: traffic, Meter: meter, Metrics: meter.Handler(),
			Access: door.chain(l, cl.Store, log, known(people)...), SignIn: people, Pages: web.New(cl.Repo, web.Options{SignIn: people != nil, Done: ending}), URL: signIn.url, Audit: audit, Name: self.Name, Limits: door.limits(), Proxies: door.trusted}),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	if err := announce(l, *portFile); err != nil {
		return fail(err)
	}
	defer member.Join(cl.Conn, func() member.Info { return self }, log)()
	failed := make(chan error, 1)
	serve, err := door.serve(srv, l, log)
	if err != nil {
		return fail(err)
	}
	log.Info("listening on " + self.Listen)
	defer greet(people, log)()
	go func() { failed <- serve() }()
	select {
	case err := <-failed:
		return fail(errors.Join(fault.Wrap(fault.Temporary, err), closeAudit(audit)))
	case <-ctx.Done():
	}
	log.Info("finishing the requests that run")
	close(ending) // those that follow a log would go on for hours
	drain, cancel := context.WithTimeout(context.Background(), *grace)
	defer cancel()
	err = srv.Shutdown(drain)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("requests were broken off that did not end", "grace", *grace)
		err = srv.Close()
	}
	log.Info("served", "bytes", traffic)
	return fail(errors.Join(err, closeAudit(audit)))
}
