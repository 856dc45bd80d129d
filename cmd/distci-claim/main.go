// Command distci-claim takes a ticket, runs the matching tool on it and
// commits the result. See distci-claim(1).
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/observe"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/tool"
	"github.com/distci/distci/lib/worker"
	"github.com/distci/distci/lib/workspace"
)

const name = "distci-claim"

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(run(context.Background(), signals, os.Args[1:], os.Stdout, os.Stderr))
}

// run is main without its globals.
func run(ctx context.Context, signals <-chan os.Signal, args []string, stdout, stderr io.Writer) int {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	tool.Describe(fs, "[options] [-- program args]", "Take a ticket, run the matching tool on it, commit the result.")
	fs.Bool("once", true, "take one ticket and exit")
	loop := fs.Bool("loop", false, "go on with further tickets, until a signal")
	jobs := fs.IntP("jobs", "j", 1, "work on `N` tickets at the same time")
	wait := fs.Duration("wait", 0, "wait so long for a ticket if there is none")
	empty := fs.IntP("empty-status", "E", 0, "exit with `STATUS` if there was no ticket")
	labels := fs.StringSliceP("label", "l", nil, "take tickets that ask for `LABEL`, too (may be repeated)")
	capabilities := fs.StringSlice("capability", nil, "offer `CAPABILITY` besides those of the tools found; with a program, only these (may be repeated)")
	coord := tool.Setting(fs, "coord", "coord", "", "the coordination's `URL`")
	store := tool.Setting(fs, "store", "store", "", "the store's `URL`")
	history := tool.Setting(fs, "history", "history", "", "append to `FILE` what is done to tickets, one JSON object a line")
	path := tool.Setting(fs, "path", "path", "", "`FOLDERS` in which the tools are, separated by colons (default: this program's, then PATH)")
	state := tool.Setting(fs, "state", "state", tool.StateDir(), "`FOLDER` for workspaces and the cache of layers")
	mirror := tool.Setting(fs, "mirror", "mirror", "", "`FOLDER` of the mirror cache that distci-checkout uses")
	credentials := tool.Setting(fs, "credentials", "credentials", "", "`FILE` with the credentials that distci-checkout uses")
	cache := fs.Int64("cache-size", 10<<30, "keep at most so many `BYTES` of workspace layers")
	logLimit := fs.Int64("log-limit", 1<<30, "a step that prints more than so many `BYTES` has failed; 0 is no limit")
	session := fs.Duration("session-timeout", 10*time.Second, "a worker that was not heard of for so long has lost its tickets")
	grace := fs.Duration("grace", time.Second, "time between SIGTERM and SIGKILL for a step that is stopped")
	pass := fs.StringSlice("pass-env", nil, "variables that the steps get besides the usual ones (`NAME`,…)")
	sandboxed := sandboxFlags(fs)
	observed := observeFlags(fs)
	id := fs.String("name", defaultName(), "the worker's `NAME`, shown as the assignee")
	log, status := tool.ParseArgs(fs, args, stdout, stderr)
	if log == nil {
		return status
	}
	fail := func(err error) int { return tool.Fail(name, stderr, err) }
	if dash := fs.ArgsLenAtDash(); fs.NArg() > 0 && dash != 0 {
		return fail(fault.Errorf(fault.Usage, "unexpected argument %q", fs.Arg(0)))
	}
	if *jobs < 1 {
		return fail(fault.Errorf(fault.Usage, "--jobs %d: expected 1 or more", *jobs))
	}
	if fs.NArg() > 0 && len(*capabilities) == 0 {
		*capabilities = []string{ticket.Capability("execute-shell")}
	}
	sink, traced, endObserver, err := observed.open(log, stderr)
	if err != nil {
		return fail(err)
	}
	defer endObserver()
	cl, err := cluster.Open(ctx, cluster.Options{Coord: *coord, Store: *store, History: *history, Session: *session, Log: log, Observe: sink})
	if err != nil {
		return fail(err)
	}
	defer cl.Close()
	cached, err := workspace.OpenCache(filepath.Join(*state, "layers"), *cache)
	if err != nil {
		return fail(err)
	}
	if sink != nil {
		cached.Observe(func(hit bool) { sink.Tell(observe.Event{Layer: &observe.Layer{Hit: hit}}) })
	}
	tools := worker.Tools{Path: worker.ToolPath(*path), Program: fs.Args(), Labels: *labels, Capabilities: *capabilities, PassEnv: *pass}
	sb, closeSandbox, err := sandboxed.open(*mirror, *credentials, &tools, log)
	if err != nil {
		return fail(err)
	}
	defer closeSandbox()
	forget, err := sandboxed.ask(&tools, log)
	if err != nil {
		return fail(err)
	}
	defer forget()
	handler := api.New(cl.Repo, api.Options{})
	w, err := worker.New(worker.Options{
		Repo: cl.Repo, Layers: workspace.NewLayers(cl.Store, cached, workspace.Limits{}), Sandbox: sb, Name: *id, Dir: filepath.Join(*state, "work"),
		Slots: *jobs, Loop: *loop, Wait: *wait, Session: cl.Conn.Session().Timeout, Grace: *grace, Log: log,
		API:   func(job string, n ticket.Number) http.Handler { return api.Scoped(handler, job, n) },
		Tools: tools, Limits: sandboxed.limits(), LogLimit: *logLimit, Observe: sink, Trace: traced,
	})
	if err != nil {
		return fail(err)
	}
	if *loop {
		log.Info("taking tickets", "offer", w.Tools.Offer(), "sandbox", sb.Describe())
	}
	self := member.Self(member.Worker, *id, tool.Version)
	self.Labels, self.Slots, self.Sandbox = *labels, *jobs, sb.Describe()
	defer member.Join(cl.Conn, func() member.Info {
		self.Capabilities = w.Tools.Offer() // tools come and go
		return self
	}, log)()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	drain := make(chan struct{})
	go func() {
		if (<-signals) == syscall.SIGTERM {
			log.Info("finishing what runs; a second signal stops it")
			close(drain)
			<-signals
		}
		stop()
		// What waits for a service that does not answer ends with the session,
		// which gives back all tickets as well.
		time.AfterFunc(*grace+3*time.Second, func() { cl.Close() })
	}()
	n, err := w.Run(ctx, drain)
	if e := w.Close(); err == nil {
		err = e
	}
	if err == nil && n == 0 && !*loop {
		return *empty
	}
	return fail(err)
}

func defaultName() string {
	host, _ := os.Hostname()
	return fmt.Sprintf("%s/%d", host, os.Getpid())
}
