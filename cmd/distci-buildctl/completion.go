package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/tool"
)

// A shell asks this program what may come next: "distci-buildctl __complete
// WORDS", of which the last is the one that is being written. The answers are
// lines, with a tab before what they mean. So the commands, their flags and
// arguments are told in one place, which is the table of commands, and jobs and
// builds are those of the cluster.

// completeCommand is for shells and in no help.
const completeCommand = "__complete"

var scripts = map[string]string{
	"bash": `# bash completion for distci-buildctl
_distci_buildctl() {
	local IFS=$'\n'
	COMPREPLY=($("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
}
complete -o default -F _distci_buildctl distci-buildctl
`,
	"zsh": `#compdef distci-buildctl
_distci-buildctl() {
	local -a found
	found=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
	found=("${(@)found//:/\\:}")
	found=("${(@)found/$'\t'/:}")
	if [[ -n "${found[*]}" ]]; then
		_describe distci-buildctl found
	else
		_files
	fi
}
if [[ "$funcstack[1]" == _distci-buildctl ]]; then
	_distci-buildctl "$@"
else
	compdef _distci-buildctl distci-buildctl
fi
`,
	"fish": `# fish completion for distci-buildctl
function __distci_buildctl_complete
	set -l words (commandline -opc) (commandline -ct)
	set -l found ($words[1] __complete $words[2..-1] 2>/dev/null)
	if test -n "$found"
		printf '%s\n' $found
	else
		__fish_complete_path (commandline -ct)
	end
end
complete -c distci-buildctl -f -a '(__distci_buildctl_complete)'
`,
}

func completion(e env, fs *pflag.FlagSet) int {
	if status, ok := e.parse(fs, 1, 1); !ok {
		return status
	}
	script, ok := scripts[fs.Arg(0)]
	if !ok {
		return e.fail(fault.Errorf(fault.Usage, "completion %q: expected bash, zsh or fish", fs.Arg(0)))
	}
	_, err := io.WriteString(e.stdout, script)
	return e.fail(err)
}

// complete prints what the last word may be. What cannot be found out is left
// out: somebody is writing.
func complete(ctx context.Context, words []string, stdout io.Writer) int {
	if len(words) == 0 {
		words = []string{""}
	}
	word := words[len(words)-1]
	for _, c := range candidates(ctx, words[:len(words)-1], word) {
		if strings.HasPrefix(c.word, word) {
			fmt.Fprintf(stdout, "%s\t%s\n", c.word, c.means)
		}
	}
	return 0
}

type candidate struct{ word, means string }

func candidates(ctx context.Context, before []string, word string) (all []candidate) {
	if len(before) == 0 {
		for _, c := range commands() {
			all = append(all, candidate{c.name(), c.summary})
		}
		return all
	}
	i := slices.IndexFunc(commands(), func(c command) bool { return c.name() == before[0] })
	if i < 0 {
		return nil
	}
	c := commands()[i]
	fs := c.flags(ctx)
	if strings.HasPrefix(word, "-") {
		fs.VisitAll(func(f *pflag.Flag) {
			all = append(all, candidate{"--" + f.Name, f.Usage})
		})
		return all
	}
	before = before[1:]
	if n := len(before); n > 0 && takesValue(fs, before[n-1]) {
		return nil // the shell's file names will do
	}
	_ = fs.Parse(before) // as far as it goes
	return arguments(ctx, c, fs)
}

// takesValue tells whether what follows word is the value of a flag.
func takesValue(fs *pflag.FlagSet, word string) bool {
	var f *pflag.Flag
	if long, ok := strings.CutPrefix(word, "--"); ok {
		f = fs.Lookup(long)
	} else if short, ok := strings.CutPrefix(word, "-"); ok && len(short) == 1 {
		f = fs.ShorthandLookup(short)
	}
	return f != nil && f.NoOptDefVal == ""
}

// arguments are what the next argument can be, which the synopsis says: one of
// several words, a job, a build of it.
func arguments(ctx context.Context, c command, fs *pflag.FlagSet) (all []candidate) {
	wanted := strings.Fields(strings.NewReplacer("[", "", "]", "", "…", "").Replace(c.synopsis))[1:]
	if len(wanted) > 0 && strings.Contains(wanted[0], "|") {
		if fs.NArg() == 0 {
			for w := range strings.SplitSeq(wanted[0], "|") {
				all = append(all, candidate{w, ""})
			}
			return all
		}
		if c.name() == "job" && (fs.Arg(0) == "get" || fs.Arg(0) == "delete") {
			return known(ctx, fs, "")
		}
		return nil
	}
	switch {
	case fs.NArg() >= len(wanted):
	case wanted[fs.NArg()] == "JOB":
		return known(ctx, fs, "")
	case wanted[fs.NArg()] == "BUILD" && fs.NArg() > 0:
		return known(ctx, fs, fs.Arg(0))
	}
	return nil
}

const (
	completeWait = 3 * time.Second // somebody waits for the answer
	completeMost = 30              // builds, the last ones
)

// known lists the jobs of the cluster, or the builds of one.
func known(ctx context.Context, fs *pflag.FlagSet, job string) (all []candidate) {
	ctx, cancel := context.WithTimeout(ctx, completeWait)
	defer cancel()
	own := pflag.NewFlagSet(name, pflag.ContinueOnError)
	connect := connection(own)
	own.VisitAll(func(f *pflag.Flag) { // what is said in the line that is being written
		if said := fs.Lookup(f.Name); said != nil && said.Changed {
			_ = own.Set(f.Name, said.Value.String())
		}
	})
	if log, _ := tool.ParseArgs(own, nil, io.Discard, io.Discard); log == nil {
		return nil
	}
	c, done, err := connect(env{ctx: ctx, stdout: io.Discard, stderr: io.Discard})
	if err != nil {
		return nil
	}
	defer done()
	if job == "" {
		ids, _ := c.Jobs(ctx, "", 0)
		for _, id := range ids {
			all = append(all, candidate{id, "job"})
		}
		return all
	}
	ns, _ := c.Builds(ctx, job)
	for _, n := range slices.Backward(ns[max(0, len(ns)-completeMost):]) {
		means := "build"
		if s, err := c.Build(ctx, job, n); err == nil {
			means = or(s.Result, s.Status)
		}
		all = append(all, candidate{n.String(), means})
	}
	return all
}

// flags are those of a command, which it declares itself.
func (c command) flags(ctx context.Context) *pflag.FlagSet {
	fs := pflag.NewFlagSet(name, pflag.ContinueOnError)
	c.run(env{ctx: ctx, stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, declare: true}, fs)
	if fs.Lookup("help") == nil {
		fs.BoolP("help", "h", false, "print this help and exit")
	}
	fs.Usage = func() {}
	fs.SetOutput(io.Discard)
	return fs
}

// name is the word that says which command it is.
func (c command) name() string {
	word, _, _ := strings.Cut(c.synopsis, " ")
	return word
}
