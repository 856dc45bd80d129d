package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/tool"
)

// tokens makes, lists and revokes tokens. It works on the store itself: who can
// write there needs no permission of a frontend, and none need be running.
func tokens(e env, fs *pflag.FlagSet) int {
	tool.Describe(fs, "token create --name NAME --role ROLE [options] | list | revoke ID…", "Make, list and revoke the tokens by which frontends know who asks.")
	name := fs.String("name", "", "create: `NAME` of the token's holder, for the list and the audit log")
	role := fs.String("role", "", "create: the `ROLE`: read, trigger, worker or admin")
	jobs := fs.StringArray("job", nil, "create: for the jobs that match `PATTERN` only; may be repeated")
	expires := fs.String("expires", "90d", "create: it ends after this `TIME`, such as 12h or 90d, or on a date, such as 2030-12-31; or \"never\"")
	out := fs.StringP("output", "o", "", "create: write the token to `FILE`, which must not exist, instead of printing it")
	asJSON := fs.Bool("json", false, "list: print JSON, a token in each line")
	open := direct(fs)
	if status, ok := e.parse(fs, 1, 1000); !ok {
		return status
	}
	verb, args := fs.Arg(0), fs.Args()[1:]
	switch {
	case verb != "create" && verb != "list" && verb != "revoke":
		return e.fail(fault.Errorf(fault.Usage, "token: unknown command %q (known: create, list, revoke)", verb))
	case (verb == "revoke") != (len(args) > 0):
		return e.fail(fault.Errorf(fault.Usage, "token %s: wrong number of arguments: %d", verb, len(args)))
	}
	var t access.Token
	var secret string
	if verb == "create" { // what is wrong with it is told before anything is opened
		now := time.Now()
		until, err := expiry(*expires, now)
		if err == nil {
			t, secret, err = access.NewToken(access.Token{Name: *name, Role: access.Role(*role), Jobs: *jobs, Expires: until}, now)
		}
		if err != nil {
			return e.fail(err)
		}
	}
	r, done, err := open(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	switch verb {
	case "create":
		err = createToken(e, r.Store(), t, secret, *out)
	case "list":
		err = listTokens(e, r.Store(), *asJSON)
	case "revoke":
		for _, id := range args {
			if err = revokeToken(e, r.Store(), id); err != nil {
				break
			}
		}
	}
	return e.fail(err)
}

// expiry reads when a token ends; zero is never.
func expiry(s string, now time.Time) (time.Time, error) {
	if s == "never" {
		return time.Time{}, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, s, time.Local); err == nil {
		return t.AddDate(0, 0, 1), nil // that day is the last
	}
	d, err := timeSpan(s)
	if err != nil || d <= 0 {
		return time.Time{}, fault.Errorf(fault.Usage, "--expires %q: expected a time such as 12h or 90d, a date such as 2030-12-31, or never", s)
	}
	return now.Add(d), nil
}

// timeSpan is a duration, also in days.
func timeSpan(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// createToken keeps the token's record and shows the token, this once.
func createToken(e env, st store.Store, t access.Token, token, out string) (err error) {
	if out != "" {
		f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fault.Errorf(fault.Config, "--output: %w", err)
		}
		defer func() {
			if e := f.Close(); err == nil {
				err = e
			}
			if err != nil {
				os.Remove(out)
			}
		}()
		if _, err := fmt.Fprintln(f, token); err != nil {
			return fault.Errorf(fault.Config, "--output: %w", err)
		}
	}
	if err := access.CreateToken(e.ctx, st, t); err != nil {
		return err
	}
	told := tellAudit(e.ctx, st, "create token", describe(t))
	if out == "" {
		if _, err := fmt.Fprintln(e.stdout, token); err != nil {
			return err
		}
	}
	fmt.Fprintf(e.stderr, "%s: token %s (%s, %s, %s, %s); it is not shown again\n", name, t.ID, t.Name, t.Role, jobsOf(t), until(t))
	return told
}

func jobsOf(t access.Token) string {
	if len(t.Jobs) == 0 {
		return "all jobs"
	}
	return "jobs " + strings.Join(t.Jobs, " ")
}

func until(t access.Token) string {
	switch {
	case t.Expires.IsZero():
		return "never ends"
	case !time.Now().Before(t.Expires):
		return "ended " + t.Expires.Local().Format(time.DateTime)
	}
	return "until " + t.Expires.Local().Format(time.DateTime)
}

func listTokens(e env, st store.Store, asJSON bool) error {
	all, bad, err := access.ListTokens(e.ctx, st)
	if err != nil {
		return err
	}
	if asJSON {
		enc := json.NewEncoder(e.stdout)
		for _, t := range all {
			t.Hash = "" // nobody needs it
			if err := enc.Encode(t); err != nil {
				return err
			}
		}
	} else {
		w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
		row(w, "ID", "NAME", "ROLE", "JOBS", "CREATED", "EXPIRES", "ENDS IN")
		for _, t := range all {
			row(w, t.ID, t.Name, string(t.Role), strings.TrimPrefix(jobsOf(t), "jobs "), t.Created.Local().Format(time.DateTime), until(t), "…"+t.Last)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if len(bad) > 0 {
		return fault.Errorf(fault.Verdict, "token: the records of these cannot be read, and they are refused: %s", strings.Join(bad, " "))
	}
	return nil
}

func revokeToken(e env, st store.Store, id string) error {
	all, _, err := access.ListTokens(e.ctx, st)
	if err != nil {
		return err
	}
	t := access.Token{ID: id}
	for _, known := range all {
		if known.ID == id {
			t = known
		}
	}
	if err := access.RevokeToken(e.ctx, st, id); err != nil {
		return fmt.Errorf("token %.40q: %w", id, err)
	}
	return tellAudit(e.ctx, st, "revoke token", describe(t))
}

func describe(t access.Token) string {
	if t.Name == "" {
		return t.ID
	}
	return fmt.Sprintf("%s: %s, %s, %s", t.ID, t.Name, t.Role, jobsOf(t))
}

// tellAudit adds to the audit log what was done here, by whoever the system
// says that we are.
func tellAudit(ctx context.Context, st store.Store, action, detail string) error {
	who := "uid " + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	host, _ := os.Hostname()
	err := access.WriteRecord(ctx, st, uuid.NewString(), access.Record{Time: time.Now(), Who: who, Via: access.ViaLocal, From: host,
		Action: action, Detail: detail, Outcome: access.Done})
	if err != nil {
		return fmt.Errorf("it was done, and is not in the audit log: %w", err)
	}
	return nil
}
