package repo

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/version"
)

// The form of the data in the coordination is numbered, so that a program that
// does not know a later one leaves it alone. The number is in a node that is
// there before anything else is; it changes when a program of before would
// misread or damage what a later one writes, and not when fields are added that
// it may ignore.
const (
	formatPath = "/format"
	format     = 1 // what this program reads and writes
)

// formatRecord is the data of the node.
type formatRecord struct {
	Format int    `json:"format"`
	By     string `json:"by"` // the program that made the tree, or brought it to this form
}

// unnumbered are the folders of a tree that was made before there was a number.
// Its form is that of number 1.
var unnumbered = []string{"builds", "c", "jobs", "lease", "q", "run"}

// checkFormat asserts that the tree is of our format before anything is written
// to it, and gives an empty one its number. Errors are of kind Config, or what
// the service says; then nothing was written.
func checkFormat(ctx context.Context, conn coord.Conn) error {
	for {
		data, _, err := conn.Get(ctx, formatPath)
		if err == nil {
			return readFormat(data)
		}
		if !errors.Is(err, coord.ErrNoNode) {
			return err
		}
		names, err := conn.Children(ctx, "/")
		if err != nil {
			return err
		}
		if slices.Contains(names, formatPath[1:]) { // somebody was faster
			continue
		}
		slices.Sort(names)
		if len(names) > 0 && !slices.Equal(names, unnumbered) {
			return fault.Errorf(fault.Config, "repo: this is not a DistCI tree: there is no %s, but %s", formatPath, list(names))
		}
		data, err = json.Marshal(formatRecord{format, "distci " + version.Number})
		if err != nil {
			return err
		}
		_, err = conn.Txn(ctx, coord.Create(formatPath, data))
		if !errors.Is(err, coord.ErrNodeExists) {
			return err
		}
	}
}

// readFormat tells what is wrong with the data of the format's node.
func readFormat(data []byte) error {
	var r formatRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return fault.Errorf(fault.Config, `repo: %s: expected an object like {"format": %d}, found %.100q`, formatPath, format, data)
	}
	if r.By == "" {
		r.By = "an unknown program"
	}
	switch {
	case r.Format > format:
		return fault.Errorf(fault.Config, "repo: the coordination's data are of format %d, made by %.100q; distci %s knows formats up to %d: use a newer version",
			r.Format, r.By, version.Number, format)
	case r.Format < format: // there was none
		return fault.Errorf(fault.Config, "repo: %s: format %d, made by %.100q: the formats that distci %s knows are %d to %d",
			formatPath, r.Format, r.By, version.Number, format, format)
	}
	return nil
}

// list names what was found, but not all of a large tree.
func list(names []string) string {
	const most = 10
	more := ""
	if len(names) > most {
		names, more = names[:most], ", …"
	}
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = "/" + n
	}
	return strings.Join(quoted, ", ") + more
}
