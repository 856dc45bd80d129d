package worker

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/ticket"
)

// container is a sandbox that has a file system of its own.
type container struct{ sandbox.Sandbox }

func (container) Inside(m sandbox.Mount) string { return m.Target }

// host is one that has none.
type host struct{ sandbox.Sandbox }

func (host) Inside(m sandbox.Mount) string { return m.Source }

func TestReadGrants(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "grants.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	g, err := ReadGrants(write(`{"x": {"network": "bridge:br0", "mounts": [{"source": "/srv", "read_only": true, "env": "SRV"}]}}`))
	if err != nil || g["x"].Network != "bridge:br0" || g["git-checkout"].Network != "host" {
		t.Fatalf("%+v, %v", g, err)
	}
	if g, err := ReadGrants(write(`{"git-checkout": {}}`)); err != nil || g["git-checkout"].Network != "" || len(g["git-checkout"].Mounts) != 0 {
		t.Errorf("a table that takes the defaults away: %+v, %v", g, err)
	}
	for text, want := range map[string]string{
		``:                                       "EOF",
		`[]`:                                     "cannot unmarshal",
		`{"x": {"net": "host"}}`:                 `unknown field "net"`,
		`{"x": {"network": "hosts"}}`:            `"x": network: expected`,
		`{"x": {"network": "bridge:"}}`:          `found "bridge:"`,
		`{"x": {"mounts": [{}]}}`:                `mounts[0].source: expected an absolute path`,
		`{"x": {"mounts": [{"source": "srv"}]}}`: `found "srv"`,
		`{"x": {"mounts": [{"source": "/a/../b"}]}}`:                      `found "/a/../b"`,
		`{"x": {"mounts": [{"source": "/a", "target": "b"}]}}`:            `mounts[0].target`,
		`{"x": {"mounts": [{"source": "/a"},{"source":"/b","env":"="}]}}`: `mounts[1].env`,
	} {
		if _, err := ReadGrants(write(text)); fault.Of(err) != fault.Config || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := ReadGrants("/nonexistent"); fault.Of(err) != fault.Config {
		t.Error(err)
	}
}

// TestSpec: what a tool gets in a container, and without one.
func TestSpec(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("WORKERS_SECRET", "x")
	t.Setenv("PASSED", "y")
	tools := Tools{PassEnv: []string{"PASSED"}, Image: "debian", Grants: DefaultGrants()}
	tools.Grants.Add("git-checkout", GrantMount{Source: dir, Target: "/run/mirror", Env: "DISTCI_MIRROR"})
	tools.Grants.Add("git-checkout", GrantMount{Source: dir + "/none", Env: "NONE"})
	step, checkout := ticket.New("execute-shell"), ticket.New("git-checkout")
	step.Image = "alpine"
	const tool = "/opt/distci-exec"

	s := tools.Spec(container{}, step, []string{tool, "-x"}, "/w/workspace", "/w", "/w/tmp")
	if !slices.Equal(s.Args, []string{"/run/distci/bin/distci-exec", "-x"}) || s.Dir != "/workspace" || s.Image != "alpine" || s.Network != "" {
		t.Errorf("in a container: %+v", s)
	}
	want := []sandbox.Mount{{Source: "/w/workspace", Target: "/workspace"}, {Source: tool, Target: "/run/distci/bin/distci-exec", ReadOnly: true}}
	if !slices.Equal(s.Mounts, want) {
		t.Errorf("mounts %+v", s.Mounts)
	}
	env := strings.Join(s.Env, "\n")
	if strings.Contains(env, "SECRET") || strings.Contains(env, "/w/") || !strings.Contains(env, "PASSED=y") || !strings.Contains(env, "DISTCI_WORKSPACE=/workspace") {
		t.Errorf("environment %q", s.Env)
	}
	for _, v := range s.Env {
		if name, _, _ := strings.Cut(v, "="); slices.Contains([]string{"PATH", "USER", "TMPDIR", "DISTCI_MIRROR"}, name) {
			t.Errorf("environment: %s", v)
		}
	}

	s = tools.Spec(container{}, checkout, []string{tool}, "/w/workspace", "/w", "/w/tmp")
	if s.Network != "host" || s.Image != "debian" || !slices.Contains(s.Env, "DISTCI_MIRROR=/run/mirror") || !slices.Contains(s.Mounts, sandbox.Mount{Source: dir, Target: "/run/mirror"}) {
		t.Errorf("a trusted tool: %+v", s)
	}
	if slices.ContainsFunc(s.Mounts, func(m sandbox.Mount) bool { return strings.HasSuffix(m.Source, "/none") }) {
		t.Errorf("a mount of nothing: %+v", s.Mounts)
	}

	s = tools.Spec(host{}, checkout, []string{tool}, "/w/workspace", "/w", "/w/tmp")
	if s.Args[0] != tool || s.Dir != "/w" || !slices.Contains(s.Env, "DISTCI_WORKSPACE=/w/workspace") || !slices.Contains(s.Env, "TMPDIR=/w/tmp") || !slices.Contains(s.Env, "DISTCI_MIRROR="+dir) {
		t.Errorf("without a container: %+v", s)
	}
}
