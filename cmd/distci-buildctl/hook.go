package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/tool"
	"github.com/distci/distci/lib/webhook"
)

// hooks makes, lists, rotates and removes the secrets by which the deliveries of
// forges are believed. As with tokens, it works on the store itself.
func hooks(e env, fs *pflag.FlagSet) int {
	tool.Describe(fs, "hook create JOB --forge FORGE | list [JOB] | rotate JOB --forge FORGE | remove JOB --forge FORGE",
		"Make, list, rotate and remove the secrets with which forges sign what they send to a job.")
	forge := fs.String("forge", "", "the `FORGE` that sends: github, gitlab or gitea, which is Forgejo, too")
	url := fs.String("url", "", "create, rotate: the frontends' `URL`, as the forge reaches them, for the address to be shown")
	keep := fs.String("keep", "24h", "rotate: the secret before is taken for so long a `TIME`, such as 12h or 2d; 0 is no more at all")
	asJSON := fs.Bool("json", false, "list: print JSON, a hook in each line")
	open := direct(fs)
	if status, ok := e.parse(fs, 1, 2); !ok {
		return status
	}
	verb, id := fs.Arg(0), fs.Arg(1)
	f, kept, err := readHook(verb, id, *forge, *keep)
	if err != nil {
		return e.fail(err)
	}
	r, done, err := open(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	h := webhook.NewHooks(r.Store())
	var hook webhook.Hook
	switch verb {
	case "list":
		return e.fail(listHooks(e, h, id, *asJSON))
	case "create":
		if _, err = r.Job(e.ctx, id); err == nil {
			hook, err = h.Create(e.ctx, id, f, time.Now())
		}
	case "rotate":
		hook, err = h.Rotate(e.ctx, id, f, kept, time.Now())
	case "remove":
		err = h.Remove(e.ctx, id, f)
	}
	if err != nil {
		return e.fail(fmt.Errorf("hook of %s for %s: %w", id, f, err))
	}
	told := tellAudit(e.ctx, r.Store(), verb+" hook", fmt.Sprintf("%s %s", f, id))
	if verb == "remove" {
		return e.fail(told)
	}
	return e.fail(errors.Join(showHook(e, hook, *url), told))
}

// readHook reads what the command line says.
func readHook(verb, id, forge, keep string) (f webhook.Forge, kept time.Duration, err error) {
	switch verb {
	case "create", "rotate", "remove":
		if id == "" {
			return "", 0, fault.Errorf(fault.Usage, "hook %s: which job?", verb)
		}
		if f, err = webhook.ParseForge(forge); err != nil {
			return "", 0, fault.Errorf(fault.Usage, "--%w", err)
		}
	case "list":
	default:
		return "", 0, fault.Errorf(fault.Usage, "hook: unknown command %q (known: create, list, rotate, remove)", verb)
	}
	if id != "" && !repo.ValidJob(id) {
		return "", 0, fault.Errorf(fault.Usage, "job %.300q: expected 1 to 256 of A-Z a-z 0-9 _ -", id)
	}
	if keep == "0" {
		return f, 0, nil
	}
	if kept, err = timeSpan(keep); err != nil || kept < 0 {
		return "", 0, fault.Errorf(fault.Usage, "--keep %q: expected a time such as 12h or 2d", keep)
	}
	return f, kept, nil
}

// showHook shows the secret, this once, and to people what to do with it.
func showHook(e env, hook webhook.Hook, url string) error {
	if _, err := fmt.Fprintln(e.stdout, hook.Secret); err != nil {
		return err
	}
	address := "/hooks/" + string(hook.Forge) + "/" + hook.JobID
	if url != "" {
		address = strings.TrimSuffix(url, "/") + address
	} else {
		address += " (behind the frontends' address)"
	}
	fmt.Fprintf(e.stderr, "%s: the secret above is not shown again; give it to the forge with the address %s\n", name, address)
	if hook.Previous != "" {
		fmt.Fprintf(e.stderr, "%s: the one before is taken until %s\n", name, hook.Until.Local().Format(time.DateTime))
	}
	return nil
}

func listHooks(e env, h webhook.Hooks, id string, asJSON bool) error {
	all, err := h.List(e.ctx, id)
	if asJSON {
		enc := json.NewEncoder(e.stdout)
		for _, hook := range all {
			if e := enc.Encode(struct {
				webhook.Hook
				Secret   bool `json:"secret,omitempty"` // in place of those of Hook
				Previous bool `json:"previous,omitempty"`
			}{Hook: hook}); e != nil {
				return e
			}
		}
		return err
	}
	w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	for _, hook := range all {
		note := ""
		if time.Now().Before(hook.Until) {
			note = "and the one before, until " + hook.Until.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%s\t%s\tsecret of %s\t%s\n", hook.JobID, hook.Forge, hook.Created.Local().Format(time.DateTime), note)
	}
	return errors.Join(err, w.Flush())
}
