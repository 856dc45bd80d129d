package worker

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/ticket"
)

// Grant is what the tool for one type of ticket gets besides the workspace and
// the build's part of the REST interface. It is for tools that run none of the
// job's code. In a sandbox without a file system and network of its own it
// changes nothing but the variables.
type Grant struct {
	Network string       `json:"network,omitempty"` // "none", "bridge", "bridge:NAME" or "host"; empty is none
	Mounts  []GrantMount `json:"mounts,omitempty"`
}

// GrantMount is a file or folder of the host.
type GrantMount struct {
	Source   string `json:"source"`              // absolute; one that is not there is left out
	Target   string `json:"target,omitempty"`    // inside; empty: as on the host
	ReadOnly bool   `json:"read_only,omitempty"` //
	Env      string `json:"env,omitempty"`       // a variable that names it to the tool
}

// Grants are what tools get, by the type of ticket.
type Grants map[string]Grant

// DefaultGrants let distci-checkout and distci-status reach the network, with
// what they need to find servers and to know them.
func DefaultGrants() Grants {
	g := Grant{Network: "host"}
	for _, path := range []string{"/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/ssl/certs"} {
		g.Mounts = append(g.Mounts, GrantMount{Source: path, ReadOnly: true})
	}
	return Grants{ticket.GitCheckout: g, ticket.CommitStatus: g}
}

// ReadGrants reads a table from a JSON file; the types in it replace the
// default ones. Errors are of kind Config and name the file and the type.
func ReadGrants(path string) (Grants, error) {
	grants := DefaultGrants()
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.Errorf(fault.Config, "grants: %w", err)
	}
	var table Grants
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&table); err != nil {
		return nil, fault.Errorf(fault.Config, `grants: %s: %w; expected {"TYPE": {"network": …, "mounts": [{"source": …}]}}`, path, err)
	}
	for typ, g := range table {
		if err := g.check(); err != nil {
			return nil, fault.Errorf(fault.Config, "grants: %s: %q: %w", path, typ, err)
		}
		grants[typ] = g
	}
	return grants, nil
}

func (g Grant) check() error {
	bridge, isBridge := strings.CutPrefix(g.Network, "bridge:")
	if !slices.Contains([]string{"", "none", "bridge", "host"}, g.Network) && !(isBridge && bridge != "") {
		return fmt.Errorf(`network: expected "none", "bridge", "bridge:NAME" or "host", found %q`, g.Network)
	}
	for i, m := range g.Mounts {
		for name, p := range map[string]string{"source": m.Source, "target": m.Target} {
			if (p != "" || name == "source") && (!filepath.IsAbs(p) || filepath.Clean(p) != p) {
				return fmt.Errorf("mounts[%d].%s: expected an absolute path, found %q", i, name, p)
			}
		}
		if strings.ContainsAny(m.Env, "=\x00") {
			return fmt.Errorf("mounts[%d].env: expected a variable's name, found %q", i, m.Env)
		}
	}
	return nil
}

// Add gives tools of a type one more thing.
func (g Grants) Add(typ string, m GrantMount) {
	grant := g[typ]
	grant.Mounts = append(slices.Clip(grant.Mounts), m)
	g[typ] = grant
}

// mounts are those of a grant whose sources are there, and the variables that
// name them.
func (g Grant) mounts(sb sandbox.Sandbox) (mounts []sandbox.Mount, env []string) {
	for _, gm := range g.Mounts {
		if _, err := os.Stat(gm.Source); err != nil {
			continue
		}
		m := sandbox.Mount{Source: gm.Source, Target: gm.Target, ReadOnly: gm.ReadOnly}
		if m.Target == "" {
			m.Target = m.Source
		}
		mounts = append(mounts, m)
		if gm.Env != "" {
			env = append(env, gm.Env+"="+sb.Inside(m))
		}
	}
	return mounts, env
}
