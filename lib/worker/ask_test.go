package worker

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/secret"
	"github.com/distci/distci/lib/ticket"
)

// acting is a sandbox whose program is a function. It has a file system of its
// own if contained.
type acting struct {
	contained bool
	program   func(sandbox.Spec) (sandbox.Result, error)
	ran       *sandbox.Spec
}

func (a *acting) Inside(m sandbox.Mount) string {
	if a.contained {
		return m.Target
	}
	return m.Source
}

func (a *acting) Describe() string { return "acting" }

func (a *acting) Run(_ context.Context, s sandbox.Spec) (sandbox.Result, error) {
	a.ran = &s
	if a.program != nil {
		return a.program(s)
	}
	_, err := io.Copy(s.Stdout, s.Stdin)
	return sandbox.Result{}, err
}

// execute runs a ticket, and returns what was noted of it, too.
func execute(t *testing.T, tools Tools, a *acting, tk *ticket.Ticket, spec sandbox.Spec) (out *ticket.Ticket, notes string, err error) {
	t.Helper()
	a.ran = nil
	spec.Args = []string{"tool"}
	out, err = tools.Execute(t.Context(), a, tk, spec, func(format string, args ...any) { notes += fmt.Sprintf(format, args...) + "\n" })
	if out == nil {
		t.Fatal("no ticket")
	}
	return out, notes, err
}

func step(limits ticket.Limits, network string) *ticket.Ticket {
	tk := ticket.New("execute-shell")
	tk.JobID, tk.Step, tk.Network = "job", "0", network
	if limits != (ticket.Limits{}) {
		tk.Limits = &limits
	}
	return tk
}

func TestNetwork(t *testing.T) {
	networks, err := ReadNetworks("bridge:br0, host,none")
	if err != nil || !slices.Equal(networks, []string{"bridge:br0", "host"}) {
		t.Fatal(networks, err)
	}
	tools := Tools{Networks: networks}
	for _, c := range []struct{ grant, asked, want string }{
		{"", "", ""}, {"", "none", "none"}, {"", "host", "host"}, {"", "bridge:br0", "bridge:br0"},
		{"bridge", "", "bridge"}, {"bridge", "bridge", "bridge"}, {"bridge", "none", "none"},
	} {
		a := &acting{contained: true}
		out, _, err := execute(t, tools, a, step(ticket.Limits{}, c.asked), sandbox.Spec{Network: c.grant})
		if err != nil || out.Result != ticket.Success || a.ran.Network != c.want {
			t.Errorf("%q with a grant of %q: %+v, %v, ran %+v", c.asked, c.grant, out, err, a.ran)
		}
	}
	for _, asked := range []string{"bridge", "bridge:br1", "hots"} {
		a := &acting{contained: true}
		out, _, err := execute(t, tools, a, step(ticket.Limits{}, asked), sandbox.Spec{})
		want := fmt.Sprintf(`network: the step asks for %q, and this worker's operator allows only none, bridge:br0, host; distci-claim --network %s allows it`, asked, asked)
		if err != nil || out.Result != ticket.Error || out.Fault != fault.Denied || out.Error != want || a.ran != nil {
			t.Errorf("%q: %s (%s) %s, %v, ran %v", asked, out.Result, out.Fault, out.Error, err, a.ran)
		}
	}
	for _, list := range []string{"hots", "bridge:", "host;none"} {
		if _, err := ReadNetworks(list); fault.Of(err) != fault.Usage || !strings.Contains(err.Error(), "expected") {
			t.Errorf("%q: %v", list, err)
		}
	}
}

func TestLimits(t *testing.T) {
	most := sandbox.Limits{Memory: 1 << 30, CPUs: 2, Disk: 0, Processes: 100}
	for _, c := range []struct {
		asked ticket.Limits
		want  sandbox.Limits
	}{
		{ticket.Limits{}, most},
		{ticket.Limits{Memory: 64 << 20, CPUs: 0.5}, sandbox.Limits{Memory: 64 << 20, CPUs: 0.5, Processes: 100}},
		{ticket.Limits{Memory: 1 << 30, Disk: 1 << 40, Processes: 1}, sandbox.Limits{Memory: 1 << 30, CPUs: 2, Disk: 1 << 40, Processes: 1}},
	} {
		a := &acting{contained: true}
		out, notes, err := execute(t, Tools{}, a, step(c.asked, ""), sandbox.Spec{Limits: most})
		if err != nil || out.Result != ticket.Success || a.ran.Limits != c.want || notes != "" {
			t.Errorf("%+v: %+v, %v, %q; ran %+v", c.asked, out, err, notes, a.ran)
		}
	}
	for _, c := range []struct {
		asked ticket.Limits
		want  string
		kind  fault.Kind
	}{
		{ticket.Limits{Memory: 1<<30 + 1}, "limits.memory: the step asks for 1073741825 bytes, and this worker's operator allows 1073741824 (distci-claim --memory)", fault.Denied},
		{ticket.Limits{CPUs: 2.5}, "limits.cpus: the step asks for 2.5, and this worker's operator allows 2 (distci-claim --cpus)", fault.Denied},
		{ticket.Limits{Processes: 101, CPUs: 1}, "limits.pids: the step asks for 101, and", fault.Denied},
		{ticket.Limits{Memory: 1000}, "limits.memory: expected at least 8388608 bytes, found 1000", fault.BadTicket},
	} {
		a := &acting{contained: true}
		out, _, err := execute(t, Tools{}, a, step(c.asked, ""), sandbox.Spec{Limits: most})
		if err != nil || out.Result != ticket.Error || out.Fault != c.kind || !strings.HasPrefix(out.Error, c.want) || a.ran != nil {
			t.Errorf("%+v: %s (%s) %s, %v; want %s", c.asked, out.Result, out.Fault, out.Error, err, c.want)
		}
	}
}

// TestWithoutContainers: what is not in force is said, and nothing is refused.
func TestWithoutContainers(t *testing.T) {
	for _, c := range []struct {
		limits  ticket.Limits
		network string
		want    string
	}{
		{ticket.Limits{}, "", ""}, {ticket.Limits{}, "host", ""},
		{ticket.Limits{}, "none", "not in force, as this worker runs steps without containers: its network \"none\"\n"},
		{ticket.Limits{CPUs: 1000}, "bridge", "not in force, as this worker runs steps without containers: the step's limits, its network \"bridge\"\n"},
	} {
		a := &acting{}
		out, notes, err := execute(t, Tools{}, a, step(c.limits, c.network), sandbox.Spec{})
		if err != nil || out.Result != ticket.Success || notes != c.want {
			t.Errorf("%+v %q: %+v, %v, %q", c.limits, c.network, out, err, notes)
		}
	}
}

func vault(t *testing.T, files map[string]string) *secret.Vault {
	t.Helper()
	dir := t.TempDir()
	for name, value := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v, err := secret.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Memory.Close() })
	if _, remove, err := v.Memory.Put(nil); err != nil {
		t.Skip(err)
	} else if err := remove(); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestSecrets(t *testing.T) {
	tools := Tools{Secrets: vault(t, map[string]string{"job/TOKEN": "hunter22\n", "_all/PIN": "123", "other/TOKEN": "theirs"})}
	tk := step(ticket.Limits{}, "")
	tk.Secrets = []string{"TOKEN", "PIN"}
	for _, contained := range []bool{true, false} {
		var console bytes.Buffer
		var dir, inside string
		a := &acting{contained: contained, program: func(s sandbox.Spec) (sandbox.Result, error) {
			m := s.Mounts[len(s.Mounts)-1]
			dir, inside = m.Source, strings.TrimPrefix(s.Env[len(s.Env)-1], "DISTCI_SECRETS=")
			value, err := os.ReadFile(dir + "/TOKEN")
			if err != nil || !m.ReadOnly || m.Target != "/run/distci/secrets" {
				t.Errorf("%+v: %v", m, err)
			}
			given, _ := io.ReadAll(s.Stdin)
			if env := strings.Join(s.Env, "\n"); bytes.Contains(given, []byte("hunter")) || strings.Contains(env, "hunter") {
				t.Errorf("the value is in the ticket or a variable: %s, %s", given, env)
			}
			fmt.Fprintf(s.Stderr, "the token is %sand hunt", value)
			io.WriteString(s.Stderr, "er22; hunt")
			io.WriteString(s.Stdout, `{"error": "cannot log in with hunter22", "fault": "verdict"}`)
			return sandbox.Result{Status: 1}, nil
		}}
		out, notes, err := execute(t, tools, a, tk, sandbox.Spec{Stderr: &console})
		if err != nil || out.Result != ticket.Failure || out.Error != "cannot log in with ***" {
			t.Errorf("%+v, %v", out, err)
		}
		if got, want := console.String(), "the token is ***\nand ***; hunt"; got != want {
			t.Errorf("console %q, want %q", got, want)
		}
		if notes != "secret PIN is too short to be masked: no line of it has 4 characters\n" {
			t.Errorf("notes %q", notes)
		}
		if want := map[bool]string{true: "/run/distci/secrets", false: dir}[contained]; inside != want {
			t.Errorf("they are in %s, want %s", inside, want)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Error("they are there after the step")
		}
	}

	// An error that is to be tried again goes to the coordination.
	a := &acting{program: func(s sandbox.Spec) (sandbox.Result, error) {
		io.WriteString(s.Stdout, `{"error": "no answer to hunter22", "fault": "temporary"}`)
		return sandbox.Result{Status: 75}, nil
	}}
	if _, _, err := execute(t, tools, a, tk, sandbox.Spec{}); fault.Of(err) != fault.Temporary || err.Error() != "no answer to ***" {
		t.Error(err)
	}
}

// TestSecretsRefused: a step without its secrets is not begun, and not tried
// again.
func TestSecretsRefused(t *testing.T) {
	with := vault(t, map[string]string{"job/TOKEN": "hunter22"})
	for name, c := range map[string]struct {
		vault  *secret.Vault
		change func(*ticket.Ticket)
		want   string
	}{
		"another job": {with, func(tk *ticket.Ticket) { tk.JobID = "job2" }, `secret "TOKEN" of job "job2": this worker's operator has not granted it`},
		"by hand":     {with, func(tk *ticket.Ticket) { tk.Step = "" }, `secret "TOKEN" of a ticket that is no step of a build`},
		"missing":     {with, func(tk *ticket.Ticket) { tk.Secrets = []string{"TOKEN", "KEY"} }, `secret "KEY" of job "job"`},
		"no secrets":  {nil, func(*ticket.Ticket) {}, `secret "TOKEN" of job "job": this worker has none`},
	} {
		tk := step(ticket.Limits{}, "")
		tk.Secrets = []string{"TOKEN"}
		c.change(tk)
		a := &acting{contained: true}
		out, _, err := execute(t, Tools{Secrets: c.vault}, a, tk, sandbox.Spec{})
		if err != nil || out.Result != ticket.Error || out.Fault != fault.Config || !strings.HasPrefix(out.Error, c.want) || a.ran != nil {
			t.Errorf("%s: %s (%s) %s, %v, ran %v", name, out.Result, out.Fault, out.Error, err, a.ran)
		}
	}
}

// TestEnds: how a step ended that used too much, and what it used.
func TestEnds(t *testing.T) {
	used := sandbox.Usage{User: 1500e6, MaxRSS: 10 << 20, Memory: 63<<20 + 1<<19}
	limits := sandbox.Limits{Memory: 64 << 20, Disk: 1 << 30}
	for _, c := range []struct {
		res    sandbox.Result
		limits sandbox.Limits
		answer string
		result string
		want   string
	}{
		{sandbox.Result{Usage: used}, limits, `{}`, ticket.Success, ""},
		{sandbox.Result{Usage: used, OOM: true, Status: 137, Signal: 9}, limits, ``, ticket.Failure, "out of memory: it used up to 63.5 MiB, its limit is 64 MiB"},
		{sandbox.Result{Usage: used, OOM: true, Status: 1}, limits, `{"error": "script: killed by signal 9 (SIGKILL)"}`, ticket.Failure,
			"out of memory: it used up to 63.5 MiB, its limit is 64 MiB; script: killed by signal 9 (SIGKILL)"},
		{sandbox.Result{Usage: used, OOM: true, Status: 137}, sandbox.Limits{}, ``, ticket.Failure, "out of memory: it used up to 63.5 MiB, and the machine had no more"},
		{sandbox.Result{Usage: used, Full: true, Status: 137}, limits, ``, ticket.Failure, "too much disk is used: its limit is 1024 MiB"},
	} {
		a := &acting{program: func(s sandbox.Spec) (sandbox.Result, error) {
			io.WriteString(s.Stdout, c.answer)
			return c.res, nil
		}}
		out, err := Execute(t.Context(), a, step(ticket.Limits{}, ""), sandbox.Spec{Args: []string{"tool"}, Limits: c.limits})
		if err != nil || out.Result != c.result || out.Error != c.want {
			t.Errorf("%+v: %s: %q, %v; want %q", c.res, out.Result, out.Error, err, c.want)
		}
		if got := string(out.Extra["usage"]); got != `{"cpu_seconds":1.5,"memory_bytes":66584576}` {
			t.Errorf("usage %s", got)
		}
	}
}
