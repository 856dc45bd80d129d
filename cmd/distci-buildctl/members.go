package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/api/client"
	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/queue"
)

func members(e env, fs *pflag.FlagSet) int {
	return tabulate(e, fs, (*client.Client).Members, func(w io.Writer, ms []member.Member) {
		row(w, "KIND", "NAME", "HOST", "PID", "VERSION", "SINCE", "RUNS")
		for _, m := range ms {
			pid := "-"
			if m.PID != 0 {
				pid = fmt.Sprint(m.PID)
			}
			row(w, m.Kind, or(m.Name, "-"), or(m.Host, "-"), pid, or(m.Version, "-"), when(m.Since), doing(m))
			for _, r := range m.Runs[min(1, len(m.Runs)):] {
				row(w, "", "", "", "", "", "", running(r))
			}
		}
	})
}

// doing is what a member does, in its own row: the first of what it runs.
func doing(m member.Member) string {
	switch {
	case len(m.Runs) > 0:
		return running(m.Runs[0])
	case m.Listen != "":
		return m.Listen
	}
	return "-"
}

func running(r member.Run) string {
	what := r.Type + " " + r.Ticket
	switch {
	case r.JobID != "" && r.Step != "":
		what = fmt.Sprintf("%s #%d step %s", r.JobID, r.Build, r.Step)
		if r.Name != "" {
			what += " (" + r.Name + ")"
		}
	case r.JobID != "":
		what = fmt.Sprintf("%s #%d %s", r.JobID, r.Build, r.Type)
	}
	if r.Attempt > 1 {
		what += fmt.Sprintf(", attempt %d", r.Attempt)
	}
	if r.Since != nil {
		what += ", for " + span(time.Since(*r.Since))
	}
	return what
}

func loads(e env, fs *pflag.FlagSet) int {
	return tabulate(e, fs, (*client.Client).Queue, func(w io.Writer, ls []queue.Load) {
		row(w, "READY", "RUNNING", "OLDEST", "PRIORITY", "CAPABILITIES")
		for _, l := range ls {
			oldest := "-"
			if l.Ready > 0 {
				oldest = span(time.Duration(l.OldestAge * float64(time.Second)))
			}
			row(w, fmt.Sprint(l.Ready), fmt.Sprint(l.Running), oldest, fmt.Sprint(l.Priority), or(strings.Join(l.Capabilities, " "), "(any)"))
		}
	})
}

// tabulate asks for a list and prints it as a table, or as one JSON object a
// line.
func tabulate[T any](e env, fs *pflag.FlagSet, ask func(*client.Client, context.Context) ([]T, error), table func(io.Writer, []T)) int {
	asJSON := fs.Bool("json", false, "print one JSON object a line")
	connect := connection(fs)
	if status, ok := e.parse(fs, 0, 0); !ok {
		return status
	}
	c, done, err := connect(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	list, err := ask(c, e.ctx)
	if err != nil {
		return e.fail(err)
	}
	if *asJSON {
		enc := json.NewEncoder(e.stdout)
		for _, v := range list {
			if err := enc.Encode(v); err != nil {
				return e.fail(err)
			}
		}
		return 0
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	table(w, list)
	return e.fail(w.Flush())
}

// row writes one line of a table. What a cell holds may come from elsewhere
// and must neither move the table nor speak to the terminal.
func row(w io.Writer, cells ...string) {
	for i, c := range cells {
		cells[i] = strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return '?'
			}
			return r
		}, c)
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// span is a duration as people say it.
func span(d time.Duration) string {
	d = max(d, 0).Truncate(time.Second)
	if d >= 24*time.Hour {
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
	return d.String()
}
