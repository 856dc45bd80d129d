package main

import (
	"strings"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/tool"
)

// sessions ends the sessions of people. It works on the store itself, as tokens
// does.
func sessions(e env, fs *pflag.FlagSet) int {
	tool.Describe(fs, "session end ID…|--all", "End sessions of people who have signed in at a frontend.")
	all := fs.Bool("all", false, "end those of everybody")
	open := direct(fs)
	if status, ok := e.parse(fs, 1, 1000); !ok {
		return status
	}
	verb, ids := fs.Arg(0), fs.Args()[1:]
	switch {
	case verb != "end":
		return e.fail(fault.Errorf(fault.Usage, "session: unknown command %q (known: end)", verb))
	case *all == (len(ids) > 0):
		return e.fail(fault.Errorf(fault.Usage, "session end: expected the ids of sessions, as the audit log has them, or --all"))
	}
	r, done, err := open(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	if *all {
		if err := access.EndSessions(e.ctx, r.Store()); err != nil {
			return e.fail(err)
		}
		return e.fail(tellAudit(e.ctx, r.Store(), "end session", "all"))
	}
	for _, id := range ids {
		if err := access.EndSession(e.ctx, r.Store(), id); err != nil {
			return e.fail(err)
		}
	}
	return e.fail(tellAudit(e.ctx, r.Store(), "end session", strings.Join(ids, " ")))
}
