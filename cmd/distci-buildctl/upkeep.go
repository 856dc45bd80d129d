package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/fsck"
	"github.com/distci/distci/lib/gc"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/tool"
)

// direct declares where the coordination and the store are, for commands that
// no frontend carries out. What it returns opens them.
func direct(fs *pflag.FlagSet) func(e env) (*repo.Repo, func(), error) {
	coord := tool.Setting(fs, "coord", "coord", "", "the coordination's `URL`")
	store := tool.Setting(fs, "store", "store", "", "the store's `URL`")
	return func(e env) (*repo.Repo, func(), error) {
		cl, err := cluster.Open(e.ctx, cluster.Options{Coord: *coord, Store: *store, Log: tool.NewLog(name, e.stderr)})
		if err != nil {
			return nil, nil, err
		}
		return cl.Repo, func() { cl.Close() }, nil
	}
}

func collect(e env, fs *pflag.FlagSet) int {
	o := gc.Options{}
	fs.BoolVarP(&o.DryRun, "dry-run", "n", false, "remove nothing, print what would go")
	fs.DurationVar(&o.Grace, "grace", 24*time.Hour, "leave alone what is younger than `TIME`; at least 1h")
	fs.IntVar(&o.Keep.Builds, "keep-builds", 0, "of each job the last `N` builds; 0 is all")
	fs.IntVar(&o.Keep.Days, "keep-days", 0, "builds for so many `DAYS` after their end; 0 is for ever")
	fs.IntVar(&o.Keep.ArtifactsDays, "keep-artifacts-days", 0, "the same for their artefacts alone")
	fs.IntVar(&o.Keep.WorkspaceDays, "keep-workspace-days", 0, "the same for their workspaces alone")
	fs.BoolVar(&o.Adopt, "adopt", false, "the coordination is new: what it does not know of runs nowhere else")
	verbose := fs.BoolP("list", "l", false, "print each thing that goes")
	asJSON := fs.Bool("json", false, "print JSON: each thing that goes in a line, and the summary in the last one")
	open := direct(fs)
	if status, ok := e.parse(fs, 0, 0); !ok {
		return status
	}
	if o.Grace < time.Hour {
		return e.fail(fault.Errorf(fault.Usage, "--grace %s: expected at least 1h", o.Grace))
	}
	if min(o.Keep.Builds, o.Keep.Days, o.Keep.ArtifactsDays, o.Keep.WorkspaceDays) < 0 {
		return e.fail(fault.Errorf(fault.Usage, "--keep-…: expected 0 or more"))
	}
	r, done, err := open(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	enc := json.NewEncoder(e.stdout)
	o.Tell = func(i gc.Item) {
		switch {
		case *asJSON:
			_ = enc.Encode(i)
		case *verbose || o.DryRun:
			fmt.Fprintln(e.stdout, itemLine(i))
		}
	}
	rep, err := gc.Run(e.ctx, r, o)
	if *asJSON {
		_ = enc.Encode(rep)
	} else {
		summarize(e.stdout, rep)
	}
	for _, p := range rep.Problems {
		fmt.Fprintf(e.stderr, "%s: %s\n", name, p)
	}
	if err == nil && len(rep.Problems) > 0 {
		err = fault.Errorf(fault.Verdict, "gc: %d problems, for which see above; distci-buildctl fsck tells more", len(rep.Problems))
	}
	return e.fail(err)
}

// itemLine is a thing that goes, in words.
func itemLine(i gc.Item) string {
	where := i.Key
	if i.JobID != "" {
		where = fmt.Sprintf("%s #%d", i.JobID, i.Number)
	}
	return strings.TrimSpace(fmt.Sprintf("%-9s %s", i.Kind, where)) + fmt.Sprintf(": %d objects, %s: %s", i.Count, bytesOf(i.Bytes), i.Reason)
}

func summarize(w io.Writer, rep gc.Report) {
	went := "went"
	if rep.DryRun {
		went = "would go"
	}
	var total gc.Total
	for _, kind := range slices.Sorted(maps.Keys(rep.Gone)) {
		t := rep.Gone[kind]
		fmt.Fprintf(w, "%-9s %d: %d objects, %s\n", kind, t.Items, t.Count, bytesOf(t.Bytes))
		total.Count, total.Bytes = total.Count+t.Count, total.Bytes+t.Bytes
	}
	fmt.Fprintf(w, "%d jobs, %d finished builds stay; %d objects, %s %s\n", rep.Jobs, rep.Builds, total.Count, bytesOf(total.Bytes), went)
}

// bytesOf is a number of bytes as people say it.
func bytesOf(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if v /= 1024; v < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

func checkStore(e env, fs *pflag.FlagSet) int {
	o := fsck.Options{}
	fs.BoolVar(&o.Quick, "quick", false, "look at references and sizes only, not at contents")
	asJSON := fs.Bool("json", false, "print JSON: each fault in a line, and the summary in the last one")
	open := direct(fs)
	if status, ok := e.parse(fs, 0, 0); !ok {
		return status
	}
	r, done, err := open(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	enc := json.NewEncoder(e.stdout)
	o.Tell = func(f fsck.Fault) {
		if *asJSON {
			_ = enc.Encode(f)
		} else {
			fmt.Fprintln(e.stdout, f)
		}
	}
	rep, err := fsck.Run(e.ctx, r, o)
	if *asJSON {
		_ = enc.Encode(rep)
	} else {
		fmt.Fprintf(e.stdout, "%d jobs, %d finished builds, %d others, %d artefacts, %d sealed logs, %d layers, %s read: %d faults\n",
			rep.Jobs, rep.Builds, rep.Unfinished, rep.Artifacts, rep.Logs, rep.Layers, bytesOf(rep.Read), rep.Faults)
	}
	if err == nil && rep.Faults > 0 {
		err = fault.Errorf(fault.Verdict, "fsck: %d faults", rep.Faults)
	}
	return e.fail(err)
}
