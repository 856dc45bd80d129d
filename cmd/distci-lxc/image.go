package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/image"
	"github.com/distci/distci/lib/tool"
)

const imageName = "distci-lxc image"

// imageEnv is what a command on images gets.
type imageEnv struct {
	ctx            context.Context
	args           []string
	stdout, stderr io.Writer
	fs             *pflag.FlagSet
	dir            *string
	log            *slog.Logger // once the flags are parsed
}

type imageVerb struct {
	word, arguments string
	summary         string
	run             func(e *imageEnv) int
}

func imageVerbs() []imageVerb {
	return []imageVerb{
		{"build", "NAME", "Make an image of Debian's packages.", buildImage},
		{"import", "NAME FILE|FOLDER", "Make an image of an archive, an OCI layout or a root file system.", importImage},
		{"list", "", "List the images.", listImages},
		{"show", "NAME", "Tell about an image as JSON.", showImage},
		{"verify", "[NAME…]", "Compare images, or all of them, with their digests.", verifyImages},
		{"remove", "[NAME…]", "Remove images, and what no name refers to.", removeImages},
	}
}

// imageCommand is "distci-lxc image", with the arguments after that.
func imageCommand(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	e := &imageEnv{ctx: ctx, args: args, stdout: stdout, stderr: stderr}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return allImageCommands(e)
	}
	for _, v := range imageVerbs() {
		if v.word != args[0] {
			continue
		}
		e.args = args[1:]
		e.flags(imageName+" "+v.word, strings.TrimSpace(v.arguments+" [options]"), v.summary)
		e.dir = tool.Setting(e.fs, "images", "images", image.DefaultDir(), "keep images in `DIR`")
		return v.run(e)
	}
	return tool.Fail(imageName, stderr, fault.Errorf(fault.Usage, "unknown command %q", args[0]))
}

// allImageCommands tells what there is.
func allImageCommands(e *imageEnv) int {
	var b strings.Builder
	for _, v := range imageVerbs() {
		fmt.Fprintf(&b, "\n  %-24s %s", strings.TrimSpace(v.word+" "+v.arguments), v.summary)
	}
	e.flags(imageName, "COMMAND [options]", "Keep the root file systems of containers:\n"+b.String())
	if log, status := tool.ParseArgs(e.fs, e.args, e.stdout, e.stderr); log == nil {
		return status
	}
	return tool.Fail(imageName, e.stderr, fault.Errorf(fault.Usage, "no command"))
}

// flags begins the flags of a command. Its page is not that of distci-lxc.
func (e *imageEnv) flags(name, synopsis, summary string) {
	e.fs = pflag.NewFlagSet(name, pflag.ContinueOnError)
	e.fs.Usage = func() {
		fmt.Fprintf(e.fs.Output(), "Usage: %s %s\n\n%s\n\nOptions:\n%s\nSee distci-lxc-image(1).\n", name, synopsis, summary, e.fs.FlagUsagesWrapped(100))
	}
}

// parse parses the flags of a command that takes between least and most
// arguments, most being -1 for any number. Without a store the program is to
// end with the status.
func (e *imageEnv) parse(least, most int) (*image.Store, int) {
	log, status := tool.ParseArgs(e.fs, e.args, e.stdout, e.stderr)
	if log == nil {
		return nil, status
	}
	if n := e.fs.NArg(); n < least || most >= 0 && n > most {
		return nil, e.fail(fault.Errorf(fault.Usage, "wrong number of arguments: %d", n))
	}
	e.log = log
	return image.At(*e.dir), 0
}

func (e *imageEnv) fail(err error) int { return tool.Fail(e.fs.Name(), e.stderr, err) }

func buildImage(e *imageEnv) int {
	b := &image.Bootstrap{Output: e.stderr}
	e.fs.StringVar(&b.Suite, "suite", "bookworm", "take the packages of the release `SUITE`")
	e.fs.StringSliceVar(&b.Include, "include", nil, "install these packages (`NAME`,…) besides the required ones")
	e.fs.StringVar(&b.Mirror, "mirror", "", "fetch them from `URL`")
	s, status := e.parse(1, 1)
	if s == nil {
		return status
	}
	if err := b.Check(); err != nil {
		return e.fail(err)
	}
	return e.take(s, b)
}

func importImage(e *imageEnv) int {
	ref := e.fs.String("ref", "", "take the image called `REF` from an OCI layout")
	s, status := e.parse(2, 2)
	if s == nil {
		return status
	}
	src, err := image.From(e.fs.Arg(1), *ref)
	if err != nil {
		return e.fail(err)
	}
	return e.take(s, src)
}

// take imports an image and prints its digest.
func (e *imageEnv) take(s *image.Store, src image.Source) int {
	info, err := s.Import(e.ctx, e.fs.Arg(0), src, func(note string) { e.log.Info(note) })
	if err != nil {
		return e.fail(err)
	}
	_, err = fmt.Fprintln(e.stdout, info.Digest)
	return e.fail(err)
}

func listImages(e *imageEnv) int {
	asJSON := e.fs.Bool("json", false, "print one JSON object a line")
	s, status := e.parse(0, 0)
	if s == nil {
		return status
	}
	list, err := s.List()
	if err != nil {
		return e.fail(err)
	}
	if *asJSON {
		for _, info := range list {
			if err := json.NewEncoder(e.stdout).Encode(info); err != nil {
				return e.fail(err)
			}
		}
		return 0
	}
	w := tabwriter.NewWriter(e.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tDIGEST\tSIZE\tCREATED\tIN USE")
	for _, i := range list {
		used := "no"
		if i.InUse {
			used = "yes"
		}
		fmt.Fprintf(w, "%s\t%.19s\t%d MB\t%s\t%s\n", i.Name, i.Digest, (i.Size+999_999)/1_000_000, i.Created.Local().Format(time.DateTime), used)
	}
	return e.fail(w.Flush())
}

func showImage(e *imageEnv) int {
	s, status := e.parse(1, 1)
	if s == nil {
		return status
	}
	info, err := s.Show(e.fs.Arg(0))
	if err != nil {
		return e.fail(err)
	}
	enc := json.NewEncoder(e.stdout)
	enc.SetIndent("", "  ")
	return e.fail(enc.Encode(info))
}

// verifyImages goes on after one that is damaged.
func verifyImages(e *imageEnv) int {
	s, status := e.parse(0, -1)
	if s == nil {
		return status
	}
	names := e.fs.Args()
	if len(names) == 0 {
		var err error
		if names, err = s.Names(); err != nil {
			return e.fail(err)
		}
	}
	for _, name := range names {
		err := s.Verify(e.ctx, name)
		if err == nil {
			e.log.Debug(name + ": sound")
			continue
		}
		status = e.fail(err)
		if !errors.Is(err, image.ErrDamaged) {
			break
		}
	}
	return status
}

func removeImages(e *imageEnv) int {
	s, status := e.parse(0, -1)
	if s == nil {
		return status
	}
	return e.fail(s.Remove(e.fs.Args()...))
}
