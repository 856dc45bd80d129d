package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/job"
	"github.com/distci/distci/lib/sandbox/plain"
	"github.com/distci/distci/lib/secret"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/tool"
	"github.com/distci/distci/lib/worker"
)

// connection declares where to find the cluster. What it returns connects: to
// a frontend if there is a URL, else to the coordination and the store
// themselves, by the frontend's own handlers.
func connection(fs *pflag.FlagSet) func(e env) (*client.Client, func(), error) {
	server := client.Declare(fs, "the frontend's `URL`; without it the coordination and the store are used directly")
	coord := tool.Setting(fs, "coord", "coord", "", "the coordination's `URL`")
	store := tool.Setting(fs, "store", "store", "", "the store's `URL`")
	return func(e env) (*client.Client, func(), error) {
		if server.URL() != "" {
			c, err := server.Open(name)
			if err != nil {
				return nil, nil, err
			}
			return c, c.Close, nil
		}
		log := tool.NewLog(name, e.stderr)
		cl, err := cluster.Open(e.ctx, cluster.Options{Coord: *coord, Store: *store, Log: log})
		if err != nil {
			return nil, nil, err
		}
		c := client.Over(api.New(cl.Repo, api.Options{}))
		return c, func() {
			c.Close() // ends what runs before what it needs
			cl.Close()
		}, nil
	}
}

func listJobs(e env, c *client.Client, asJSON bool) int {
	ids, err := c.Jobs(e.ctx, "", 0)
	if err != nil {
		return e.fail(err)
	}
	for _, id := range ids {
		if err := (printer{e.stdout, asJSON}).job(id); err != nil {
			return e.fail(err)
		}
	}
	return 0
}

func jobs(e env, fs *pflag.FlagSet) int {
	tool.Describe(fs, "job list | get JOB | set FILE… | delete JOB…", "List, print, set and delete jobs. FILE may be \"-\" for standard input.")
	asJSON := fs.Bool("json", false, "list: print one JSON object a line")
	connect := connection(fs)
	if status, ok := e.parse(fs, 1, 1000); !ok {
		return status
	}
	verb, args := fs.Arg(0), fs.Args()[1:]
	if (verb == "list") != (len(args) == 0) || verb == "get" && len(args) != 1 {
		return e.fail(fault.Errorf(fault.Usage, "job %s: wrong number of arguments: %d", verb, len(args)))
	}
	c, done, err := connect(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	switch verb {
	case "list":
		return listJobs(e, c, *asJSON)
	case "get":
		b, err := c.Job(e.ctx, args[0])
		if err != nil {
			return e.fail(err)
		}
		_, err = fmt.Fprintf(e.stdout, "%s\n", b)
		return e.fail(err)
	case "set":
		for _, file := range args {
			if err := setJob(e, c, file); err != nil {
				return e.fail(err)
			}
		}
	case "delete":
		for _, id := range args {
			if err := c.DeleteJob(e.ctx, id); err != nil {
				return e.fail(err)
			}
		}
	default:
		return e.fail(fault.Errorf(fault.Usage, "job: unknown command %q (known: list, get, set, delete)", verb))
	}
	return 0
}

// readJob reads and checks a job's file.
func readJob(e env, file string) (*job.Job, []byte, error) {
	var b []byte
	var err error
	if file == "-" {
		b, err = io.ReadAll(e.stdin)
	} else {
		b, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, nil, fault.Errorf(fault.Usage, "%w", err)
	}
	j, err := job.Parse(b)
	if err != nil {
		return nil, nil, fault.Errorf(fault.Of(err), "%s: %w", file, err)
	}
	return j, b, nil
}

func setJob(e env, c *client.Client, file string) error {
	j, b, err := readJob(e, file)
	if err != nil {
		return err
	}
	return c.PutJob(e.ctx, j.ID, b)
}

// ticketOf makes a ticket from the words of the command line.
func ticketOf(typ, params string, labels, envs []string, timeout int) (*ticket.Ticket, error) {
	if typ == "" {
		return nil, fault.Errorf(fault.Usage, "--type is missing")
	}
	t := ticket.New(typ, ticket.Capability(typ))
	for _, l := range labels {
		t.Capabilities = append(t.Capabilities, "nodelabel_"+l)
	}
	if params != "" {
		var object map[string]json.RawMessage
		if err := json.Unmarshal([]byte(params), &object); err != nil {
			return nil, fault.Errorf(fault.Usage, "--params: expected a JSON object: %w", err)
		}
		t.Params = json.RawMessage(params)
	}
	for _, v := range envs {
		key, value, ok := strings.Cut(v, "=")
		if !ok || key == "" {
			return nil, fault.Errorf(fault.Usage, "--env %q: expected NAME=VALUE", v)
		}
		if t.Env == nil {
			t.Env = map[string]string{}
		}
		t.Env[key] = value
	}
	if timeout < 0 {
		return nil, fault.Errorf(fault.Usage, "--timeout %d: expected seconds", timeout)
	}
	t.Timeout = timeout
	return t, nil
}

func runJob(e env, fs *pflag.FlagSet) int {
	dir := fs.String("workspace", "", "work in `DIR` and keep it (default: a new folder, removed afterwards)")
	keep := fs.Bool("keep", false, "keep the workspace, and tell where it is")
	artifacts := fs.String("artifacts", "artifacts", "publish to and copy from `DIR`, with a folder for each job")
	path := tool.Setting(fs, "path", "path", "", "`FOLDERS` in which the tools are, separated by colons (default: this program's, then PATH)")
	pass := fs.StringSlice("pass-env", nil, "variables that the steps get besides the usual ones (`NAME`,…)")
	secrets := tool.Setting(fs, "secrets", "secrets", "", "`FOLDER` of the secrets that steps ask for: JOB_ID/NAME, or _all/NAME for all jobs")
	params := parameterFlag(fs)
	if status, ok := e.parse(fs, 1, 1); !ok {
		return status
	}
	j, _, err := readJob(e, fs.Arg(0))
	if err != nil {
		return e.fail(err)
	}
	values, err := parameters(*params)
	if err == nil {
		j, err = j.WithParameters(values)
	}
	if err != nil {
		return e.fail(err)
	}
	vault, err := secret.Open(*secrets)
	if err == nil {
		err = vault.Memory.Clean()
	}
	if err != nil {
		return e.fail(err)
	}
	defer vault.Memory.Close()
	ws := *dir
	if ws == "" {
		if ws, err = os.MkdirTemp("", "distci-"+j.ID+"-"); err == nil && !*keep {
			defer removeAll(e, ws)
		}
	} else {
		err = os.MkdirAll(ws, 0o777)
	}
	if err == nil {
		ws, err = filepath.Abs(ws)
	}
	out := *artifacts
	if err == nil {
		out, err = filepath.Abs(out)
	}
	if err != nil {
		return e.fail(fault.Errorf(fault.Config, "%w", err))
	}
	if *keep || *dir != "" {
		fmt.Fprintf(e.stderr, "workspace: %s\n", ws)
	}
	sb, err := plain.New()
	if err != nil {
		return e.fail(err)
	}
	defer sb.Close()
	l := worker.Local{Tools: worker.Tools{Path: worker.ToolPath(*path), PassEnv: *pass, Secrets: vault}, Sandbox: sb,
		Workspace: ws, Artifacts: out, Console: e.stderr, Grace: 10 * time.Second}
	s, err := l.Run(e.ctx, j)
	if err != nil {
		return e.fail(err)
	}
	return conclude(e, j.ID, 1, s)
}

func removeAll(e env, dir string) {
	if err := errors.Join(os.RemoveAll(dir)); err != nil {
		e.fail(err)
	}
}
