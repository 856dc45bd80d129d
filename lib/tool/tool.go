// Package tool is what every command shares: flags with their environment
// variables and configuration file, logging, and the life of a filter.
package tool

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/version"
)

// Version is the version of all programs.
const Version = version.Number

// Describe gives fs its help text: the synopsis without the program's name,
// and a sentence that says what the program does.
func Describe(fs *pflag.FlagSet, synopsis, summary string) {
	page, _, _ := strings.Cut(fs.Name(), " ") // "distci-checkout poll" is in the page of distci-checkout
	fs.Usage = func() {
		fmt.Fprintf(fs.Output(), "Usage: %s %s\n\n%s\n\nOptions:\n%s\nSee %s(%s).\n",
			fs.Name(), synopsis, summary, fs.FlagUsagesWrapped(100), page, section(page))
	}
}

func section(name string) string {
	if name == "distci-frontend" {
		return "8"
	}
	return "1"
}

// Parse parses the flags of a program without further arguments, after adding
// --help, --version and --verbose, and takes the value of a flag that was not
// given from its environment variable or the configuration file (see
// [Setting]). It returns the program's log, which writes to stderr, or nil and
// the status to exit with.
func Parse(fs *pflag.FlagSet, args []string, stdout, stderr io.Writer) (*slog.Logger, int) {
	log, status := ParseArgs(fs, args, stdout, stderr)
	if log != nil && fs.NArg() > 0 {
		return nil, Fail(fs.Name(), stderr, fault.Errorf(fault.Usage, "unexpected argument %q", fs.Arg(0)))
	}
	return log, status
}

// ParseArgs is Parse for a program that takes arguments: they are in fs.Args.
func ParseArgs(fs *pflag.FlagSet, args []string, stdout, stderr io.Writer) (*slog.Logger, int) {
	help := fs.BoolP("help", "h", false, "print this help and exit")
	version := fs.Bool("version", false, "print the version and exit")
	verbose := fs.BoolP("verbose", "v", false, "log more")
	fs.SortFlags = false
	usage := fs.Usage
	if usage == nil {
		usage = fs.PrintDefaults
	}
	fs.Usage = func() {} // pflag would print all of it on any error
	err := fs.Parse(args)
	switch {
	case err == nil && *help:
		fs.SetOutput(stdout)
		usage()
		return nil, 0
	case err == nil && *version:
		fmt.Fprintf(stdout, "%s %s (%s %s/%s%s)\n", fs.Name(), Version, runtime.Version(), runtime.GOOS, runtime.GOARCH, tags())
		return nil, 0
	case err != nil:
		return nil, Fail(fs.Name(), stderr, fault.Errorf(fault.Usage, "%w", err))
	}
	if err := settle(fs); err != nil {
		return nil, Fail(fs.Name(), stderr, err)
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	return slog.New(newHandler(fs.Name(), stderr, level)), 0
}

// NewLog is a log as Parse makes it.
func NewLog(name string, stderr io.Writer) *slog.Logger {
	return slog.New(newHandler(name, stderr, slog.LevelInfo))
}

// tags names the build tags, which tell what parts the program has.
func tags() string {
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "-tags" && s.Value != "" {
				return ", with " + s.Value
			}
		}
	}
	return ""
}

// Fail tells err to people, once, and returns its exit status. A wrong call is
// pointed to the help.
func Fail(name string, stderr io.Writer, err error) int {
	if err == nil {
		return 0
	}
	hint := ""
	if fault.Of(err) == fault.Usage {
		hint = fmt.Sprintf(" (see %s --help)", name)
	}
	fmt.Fprintf(stderr, "%s: %v%s\n", name, err, hint)
	return fault.Status(err)
}

// Option changes what Filter does.
type Option int

// Always makes a filter act on a ticket that has failed already, too. The
// ticket keeps that result.
const Always Option = 1

// Filter reads one ticket from stdin, lets act do the work, and writes the
// ticket with its result to stdout, once, also when act fails or panics. It
// returns the exit status.
//
// A ticket whose result is already not success is passed on as it is, and the
// status is that of its result. Unreadable input gives no output.
func Filter(ctx context.Context, name string, log *slog.Logger, stdin io.Reader, stdout io.Writer,
	act func(ctx context.Context, t *ticket.Ticket) error, options ...Option) int {
	t, err := ticket.Read(stdin)
	if err != nil {
		log.Error(err.Error())
		return fault.Status(err)
	}
	failed := t.Result != "" && t.Result != ticket.Success
	always := len(options) > 0 && options[0] == Always
	status := fault.FromResult(t.Result, t.Fault).Status()
	if !failed || always {
		before := *t
		err := guard(ctx, log, t, act)
		if err != nil {
			log.Error(err.Error())
		}
		t.Finish(err)
		status = fault.Status(err)
		if failed { // what came first is what is told
			t.Result, t.Error, t.Fault = before.Result, before.Error, before.Fault
			status = fault.FromResult(t.Result, t.Fault).Status()
		}
	}
	if err := t.Write(stdout); err != nil {
		log.Error("writing the ticket: " + err.Error())
		return max(status, fault.Temporary.Status())
	}
	return status
}

// guard turns a panic of act into an error of kind Internal.
func guard(ctx context.Context, log *slog.Logger, t *ticket.Ticket, act func(context.Context, *ticket.Ticket) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error(fmt.Sprintf("panic: %v\n%s", p, debug.Stack()))
			err = fault.Errorf(fault.Internal, "panic: %v", p)
		}
	}()
	err = act(ctx, t)
	if err != nil && ctx.Err() != nil && fault.Of(err) == fault.Internal {
		err = fault.Errorf(fault.Interrupted, "interrupted: %w", err)
	}
	return err
}

// Params reads the ticket's parameters into the struct that dst points to, if
// they are this tool's own: a ticket of another tool's type, on its way
// through a pipe, keeps its parameters to itself.
func Params(t *ticket.Ticket, typ string, dst any) error {
	if t.Type != "" && t.Type != typ {
		return nil
	}
	return t.DecodeParams(dst)
}
