package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/tool"
)

// audit shows who has changed what.
func audit(e env, fs *pflag.FlagSet) int {
	tool.Describe(fs, "audit [options]", "Show who has changed what, or was refused, at all frontends, in the order of time.")
	since := fs.String("since", "24h", "from `TIME` on, such as 2030-12-31 or 2030-12-31T23:59:00Z, or so long ago, as 7d or 12h")
	till := fs.String("until", "", "to `TIME`, as --since")
	var filter access.Filter
	fs.StringVar(&filter.Who, "who", "", "of those only whose name matches `PATTERN`, or of the token with this id")
	fs.StringVar(&filter.Job, "job", "", "about the jobs only that match `PATTERN`")
	asJSON := fs.Bool("json", false, "print JSON, a record in each line")
	forget := fs.String("delete-before", "", "show nothing, and remove what is older than `TIME`, as --since")
	open := direct(fs)
	if status, ok := e.parse(fs, 0, 0); !ok {
		return status
	}
	now := time.Now()
	var before time.Time
	for _, t := range []struct {
		flag, value string
		to          *time.Time
	}{{"since", *since, &filter.Since}, {"until", *till, &filter.Until}, {"delete-before", *forget, &before}} {
		var err error
		if *t.to, err = moment(t.flag, t.value, now); err != nil {
			return e.fail(err)
		}
	}
	r, done, err := open(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	if !before.IsZero() {
		n, err := access.ForgetAudit(e.ctx, r.Store(), before)
		if err == nil {
			err = tellAudit(e.ctx, r.Store(), "delete audit log", "before "+before.UTC().Format(time.RFC3339))
			fmt.Fprintf(e.stdout, "%d objects removed\n", n)
		}
		return e.fail(err)
	}
	enc := json.NewEncoder(e.stdout)
	return e.fail(access.Audits(e.ctx, r.Store(), filter, func(r access.Record) error {
		if *asJSON {
			return enc.Encode(r)
		}
		return auditLine(e.stdout, r)
	}))
}

// auditLine prints a record in one line: when, who, from where, what, how it
// ended. What comes from outside is quoted if it could deceive.
func auditLine(w io.Writer, r access.Record) error {
	what := r.Action
	if what == "" {
		what = r.Method + " " + r.Route
	}
	var about []string
	for _, a := range []struct{ name, value string }{
		{"job", r.Job}, {"build", digits(r.Build)}, {"object", r.Object}, {"detail", r.Detail}, {"lost", digits(int64(r.Lost))},
	} {
		if a.value != "" {
			about = append(about, a.name+"="+legible(a.value))
		}
	}
	about = append(about, r.Outcome)
	if r.Status != 0 {
		about = append(about, strconv.Itoa(r.Status))
	}
	if r.Error != "" {
		about = append(about, strconv.Quote(r.Error))
	}
	who := legible(r.Who)
	if r.Via != "" {
		who += " (" + legible(strings.TrimSpace(r.Via+" "+r.ID)) + ")"
	}
	_, err := fmt.Fprintf(w, "%s  %s from %s: %s  %s\n", r.Time.Local().Format("2006-01-02 15:04:05.000"), who, legible(or(r.From, "-")), what, strings.Join(about, " "))
	return err
}

func digits(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

// legible is s as it is, or quoted if it has anything in it that is not to be
// seen as it is.
func legible(s string) string {
	if q := strconv.QuoteToGraphic(s); q != `"`+s+`"` {
		return q
	}
	return s
}
