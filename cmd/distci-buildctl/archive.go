package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/archive"
	"github.com/distci/distci/lib/fault"
)

func export(e env, fs *pflag.FlagSet) int {
	o := archive.ExportOptions{}
	fs.StringSliceVar(&o.Jobs, "jobs", nil, "only jobs that a `PATTERN` matches, such as 'web-*' (may be repeated)")
	since := fs.String("since", "", "only builds that ended since `TIME`: 2026-11-21, 2026-11-21T12:00:00Z, or 7d, 12h ago")
	without := fs.Bool("without-workspaces", false, "leave out the layers of workspaces")
	asJSON := fs.Bool("json", false, "print the summary as JSON")
	open := direct(fs)
	if status, ok := e.parse(fs, 1, 1); !ok {
		return status
	}
	o.Workspaces = !*without
	var err error
	if o.Since, err = moment("since", *since, time.Now()); err != nil {
		return e.fail(err)
	}
	r, done, err := open(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	var rep archive.Report
	file := fs.Arg(0)
	if file == "-" {
		rep, err = archive.Export(e.ctx, r, e.stdout, o)
	} else {
		err = writeWhole(file, func(w io.Writer) error {
			rep, err = archive.Export(e.ctx, r, w, o)
			return err
		})
	}
	// With the archive on stdout the summary goes to stderr.
	out := e.stdout
	if file == "-" {
		out = e.stderr
	}
	return concludeArchive(e, out, rep, err, *asJSON)
}

// writeWhole writes a file that appears when all of it is there, and is safe.
func writeWhole(file string, write func(w io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".")
	if err != nil {
		return fault.Errorf(fault.Config, "%w", err)
	}
	defer os.Remove(f.Name())
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	return err
}

// moment reads a point in time, which a flag has; "" is the beginning of all.
func moment(flag, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fault.Errorf(fault.Usage, "--%s %q: expected a time as 2026-11-21 or 2026-11-21T12:00:00Z, or how long ago, as 7d or 12h", flag, s)
}

func bringIn(e env, fs *pflag.FlagSet) int {
	o := archive.ImportOptions{}
	fs.StringSliceVar(&o.Jobs, "jobs", nil, "only jobs that a `PATTERN` matches (may be repeated)")
	fs.BoolVar(&o.Overwrite, "overwrite", false, "replace what is there and different, and mend what is damaged")
	asJSON := fs.Bool("json", false, "print the summary as JSON")
	open := direct(fs)
	if status, ok := e.parse(fs, 1, 1); !ok {
		return status
	}
	from := io.NopCloser(e.stdin)
	if file := fs.Arg(0); file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return e.fail(fault.Errorf(fault.Config, "%w", err))
		}
		from = f
	}
	defer from.Close()
	r, done, err := open(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	rep, err := archive.Import(e.ctx, r, untilDone{e.ctx, from}, o)
	return concludeArchive(e, e.stdout, rep, err, *asJSON)
}

// untilDone ends the reading when the context is done.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// concludeArchive tells what was moved, and what was not.
func concludeArchive(e env, out io.Writer, rep archive.Report, err error, asJSON bool) int {
	if asJSON {
		_ = json.NewEncoder(out).Encode(rep)
	} else {
		equal := ""
		if rep.Equal > 0 {
			equal = fmt.Sprintf(" (%d more were there already)", rep.Equal)
		}
		fmt.Fprintf(out, "%d jobs, %d builds%s, %d artefacts, %d layers: %d objects, %s\n",
			rep.Jobs, rep.Builds, equal, rep.Artifacts, rep.Layers, rep.Objects, bytesOf(rep.Bytes))
	}
	for _, p := range rep.Problems {
		fmt.Fprintf(e.stderr, "%s: %s\n", name, p)
	}
	if err == nil && len(rep.Problems) > 0 {
		err = fault.Errorf(fault.Verdict, "%d problems, for which see above", len(rep.Problems))
	}
	return e.fail(err)
}
