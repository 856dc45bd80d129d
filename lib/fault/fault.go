// Package fault names the kinds of failure and ties them to exit statuses.
//
// It is the only place that knows the numbers. A tool returns an error of one
// kind; the program that ran it learns the kind from the exit status alone,
// and so decides between "the job is red", "try again elsewhere" and "this can
// never work". The numbers above 63 are those of sysexits(3), 126 and 127
// those of the POSIX shell, and 128+n is a program killed by signal n.
package fault

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// Kind is the kind of a failure, as it stands in a ticket's "fault".
type Kind string

// The kinds. Their statuses and consequences are in the table of Info.
const (
	None        Kind = ""             // success
	Verdict     Kind = "verdict"      // the job said no; the tools worked
	Usage       Kind = "usage"        // wrong flags or arguments
	BadTicket   Kind = "bad-ticket"   // not a ticket, or wrong parameters
	Unavailable Kind = "unavailable"  // a thing that the job names does not exist
	Internal    Kind = "internal"     // a defect of ours
	Temporary   Kind = "temporary"    // may succeed later or elsewhere
	Interrupted Kind = "interrupted"  // a signal, or the claim was lost
	Denied      Kind = "denied"       // not permitted
	Config      Kind = "config"       // configuration
	MissingTool Kind = "missing-tool" // the tool cannot run on this machine
	Lost        Kind = "lost"         // killed by a signal, out of memory
)

// info is what a kind means for a program and for a ticket.
type info struct {
	kind   Kind
	status int
	result string // the result that a ticket gets; "" if it is to be tried again
}

// table is in order of preference where a status serves two kinds.
var table = []info{
	{None, 0, "success"},
	{Verdict, 1, "failure"},
	{Usage, 64, "error"},
	{BadTicket, 65, "error"},
	{Unavailable, 69, "error"},
	{Internal, 70, "error"},
	{Temporary, 75, ""},
	{Interrupted, 75, ""},
	{Denied, 77, "error"},
	{Config, 78, "error"},
	{MissingTool, 127, ""},
	{Lost, 128, ""},
}

func (k Kind) info() info {
	i := slices.IndexFunc(table, func(i info) bool { return i.kind == k })
	if i < 0 {
		return Internal.info()
	}
	return table[i]
}

// Status is the exit status of a program that ends with this kind. For Lost it
// is 128, to which the signal's number is added; see [Status].
func (k Kind) Status() int { return k.info().status }

// Retry tells whether a step that ended so is given back for another attempt
// instead of being committed.
func (k Kind) Retry() bool { return k.info().result == "" }

// Result is the result that a step commits when it ends so: "success",
// "failure" or "error". A kind that is tried again becomes "error" once its
// attempts are used up.
func (k Kind) Result() string {
	if r := k.info().result; r != "" {
		return r
	}
	return "error"
}

// Known tells whether k is one of the kinds above.
func Known(k Kind) bool {
	return slices.ContainsFunc(table, func(i info) bool { return i.kind == k })
}

// Error is an error of one kind.
type Error struct {
	Kind   Kind
	Signal int // for Lost: the signal's number
	Err    error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of kind k; the rest is as for [fmt.Errorf].
func Errorf(k Kind, format string, args ...any) error {
	return &Error{Kind: k, Err: fmt.Errorf(format, args...)}
}

// Wrap gives err the kind k, unless it is nil or has a kind already.
func Wrap(k Kind, err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &Error{Kind: k, Err: err}
}

// Killed is the error of a program that was killed by the given signal.
func Killed(signal int, format string, args ...any) error {
	return &Error{Kind: Lost, Signal: signal, Err: fmt.Errorf(format, args...)}
}

// Of tells the kind of err: None for nil, Interrupted for a canceled context,
// Temporary for one whose time ran out, and Internal for an error that nobody
// gave a kind.
func Of(err error) Kind {
	var e *Error
	switch {
	case err == nil:
		return None
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.Canceled):
		return Interrupted
	case errors.Is(err, context.DeadlineExceeded):
		return Temporary
	}
	return Internal
}

// Status is the exit status for err; 0 for nil.
func Status(err error) int {
	var e *Error
	if errors.As(err, &e) && e.Kind == Lost {
		return e.Kind.Status() + e.Signal
	}
	return Of(err).Status()
}

// FromStatus tells the kind behind a program's exit status. A status that no
// kind has is the program's own "no": Verdict.
func FromStatus(status int) Kind {
	if status == 126 {
		return MissingTool
	}
	if status > 128 {
		return Lost
	}
	for _, i := range table {
		if i.status == status {
			return i.kind
		}
	}
	return Verdict
}

// FromResult tells the kind of a ticket that already has a result, from that
// result and its "fault". It is Verdict for a canceled one: the job did not
// get its way, and no tool failed.
func FromResult(result string, k Kind) Kind {
	switch {
	case result == "success":
		return None
	case k != None && Known(k):
		return k
	case result == "error":
		return Internal
	}
	return Verdict
}
