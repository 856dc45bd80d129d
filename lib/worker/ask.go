package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/secret"
	"github.com/distci/distci/lib/ticket"
)

// A ticket asks for secrets, limits and a network. What the worker's operator
// does not allow is refused, with an error that another attempt would not mend:
// it is for the operator or the job's owner to change something.

// insideSecrets is where a step finds its secrets, in a sandbox that has a file
// system of its own.
const insideSecrets = "/run/distci/secrets"

// secretsVar names the folder of its secrets to a step.
const secretsVar = "DISTCI_SECRETS"

// minMemory is what a container needs.
const minMemory = 8 << 20

// Execute runs the tool of tk as spec says, with what tk asks for besides. The
// limits of spec are the most that it gets. What is worth telling goes to note,
// a line each.
func (t *Tools) Execute(ctx context.Context, sb sandbox.Sandbox, tk *ticket.Ticket, spec sandbox.Spec, note func(format string, args ...any)) (*ticket.Ticket, error) {
	if err := t.confine(sb, tk, &spec, note); err != nil {
		return refuse(tk, err)
	}
	if len(tk.Secrets) == 0 {
		return Execute(ctx, sb, tk, spec)
	}
	job := tk.JobID
	// Anybody may post a ticket that names a job; only its build posts its steps,
	// and what a status is told with is not from its ticket.
	if tk.Step == "" && !repo.IsStatus(tk) {
		job = ""
	}
	secrets, err := t.Secrets.Get(job, tk.Secrets)
	if err != nil {
		return refuse(tk, err)
	}
	dir, remove, err := t.Secrets.Memory.Put(secrets)
	if err != nil {
		return refuse(tk, err)
	}
	defer func() {
		if err := remove(); err != nil {
			note("removing the secrets: %v", err)
		}
	}()
	m := sandbox.Mount{Source: dir, Target: insideSecrets, ReadOnly: true}
	spec.Mounts = append(slices.Clip(spec.Mounts), m)
	spec.Env = append(slices.Clip(spec.Env), secretsVar+"="+sb.Inside(m))
	masker, short := secret.NewMasker(secrets)
	for _, name := range short {
		note("secret %s is too short to be masked: no line of it has %d characters", name, secret.MinMasked)
	}
	if spec.Stderr != nil {
		console := masker.Writer(spec.Stderr)
		defer console.Flush() // whoever reads the log knows its errors
		spec.Stderr = console
	}
	out, err := Execute(ctx, sb, tk, spec)
	out.Error = masker.String(out.Error)
	return out, masked(masker, err)
}

// refuse ends a ticket that is not run, unless another attempt may help.
func refuse(tk *ticket.Ticket, err error) (*ticket.Ticket, error) {
	out := tk.Clone()
	if fault.Of(err).Retry() {
		return out, err
	}
	out.Finish(err)
	return out, nil
}

// masked is err without secrets in its words.
func masked(m *secret.Masker, err error) error {
	if err == nil || m.String(err.Error()) == err.Error() {
		return err
	}
	e := fault.Error{Kind: fault.Of(err)}
	if was := (*fault.Error)(nil); errors.As(err, &was) {
		e = *was
	}
	e.Err = errors.New(m.String(err.Error()))
	return &e
}

// contained tells whether a sandbox has a file system, a network and limits of
// its own.
func contained(sb sandbox.Sandbox) bool {
	m := sandbox.Mount{Source: "/outside", Target: "/inside"}
	return sb.Inside(m) == m.Target
}

// confine sets the network and the limits that tk asks for. Where there are no
// containers it says what is not in force.
func (t *Tools) confine(sb sandbox.Sandbox, tk *ticket.Ticket, spec *sandbox.Spec, note func(format string, args ...any)) error {
	if !contained(sb) {
		var lacks []string
		if tk.Limits != nil {
			lacks = append(lacks, "the step's limits")
		}
		if tk.Network != "" && tk.Network != "host" {
			lacks = append(lacks, fmt.Sprintf("its network %q", tk.Network))
		}
		if len(lacks) > 0 {
			note("not in force, as this worker runs steps without containers: %s", strings.Join(lacks, ", "))
		}
		return nil
	}
	if n := tk.Network; n != "" {
		if n != "none" && n != spec.Network && !slices.Contains(t.Networks, n) {
			return fault.Errorf(fault.Denied, "network: the step asks for %q, and this worker's operator allows only %s; distci-claim --network %[1]s allows it",
				n, strings.Join(append([]string{"none"}, t.Networks...), ", "))
		}
		spec.Network = n
	}
	if tk.Limits == nil {
		return nil
	}
	if m := tk.Limits.Memory; m > 0 && m < minMemory {
		return fault.Errorf(fault.BadTicket, "limits.memory: expected at least %d bytes, found %d", minMemory, m)
	}
	return cmp.Or(
		lower(&spec.Limits.Memory, tk.Limits.Memory, "memory", " bytes"),
		lower(&spec.Limits.CPUs, tk.Limits.CPUs, "cpus", ""),
		lower(&spec.Limits.Processes, tk.Limits.Processes, "pids", ""),
		lower(&spec.Limits.Disk, tk.Limits.Disk, "disk", " bytes"),
	)
}

// lower sets a limit to what a step asks for, which may not be more than it is.
func lower[N cmp.Ordered](limit *N, asked N, name, unit string) error {
	var zero N
	switch {
	case asked == zero:
	case *limit > zero && asked > *limit:
		return fault.Errorf(fault.Denied, "limits.%[1]s: the step asks for %[2]v%[4]s, and this worker's operator allows %[3]v (distci-claim --%[1]s); a label can lead it to a larger worker",
			name, asked, *limit, unit)
	default:
		*limit = asked
	}
	return nil
}

// ReadNetworks reads a list of networks that steps may ask for, separated by
// commas. Errors are of kind Usage.
func ReadNetworks(list string) ([]string, error) {
	var networks []string
	for n := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' }) {
		if err := (Grant{Network: n}).check(); err != nil {
			return nil, fault.Wrap(fault.Usage, err)
		}
		if n != "none" {
			networks = append(networks, n)
		}
	}
	return networks, nil
}
