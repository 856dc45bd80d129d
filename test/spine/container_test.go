package spine

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/lib/worker"
	testlab "github.com/distci/distci/test/lab"
	"github.com/distci/distci/test/rootfs"
)

// inEach runs a test in each sandbox: plain, and in containers where they can
// be made. What a test wants to see of its steps, they leave outside of their
// workspaces, see [lab.outside].
func inEach(t *testing.T, test func(*testing.T, *lab)) {
	t.Run("Plain", func(t *testing.T) { test(t, newLab(t)) })
	t.Run("LXC", func(t *testing.T) { test(t, newContainedLab(t)) })
}

// contained tells whether steps run in containers.
func (l *lab) contained() bool { return l.sandbox[0] == "DISTCI_SANDBOX=lxc" }

// newContainedLab makes a cluster whose workers run each step in a container.
// Their operator has granted the tools that need it the folder outside.
func newContainedLab(t *testing.T) *lab {
	t.Helper()
	rootfs.Need(t)
	l := newLab(t)
	l.containers()
	outside := []worker.GrantMount{{Source: filepath.Clean(l.outside(""))}}
	grants, err := json.Marshal(worker.Grants{
		"execute-shell": {Mounts: outside},
		"git-checkout":  {Mounts: outside, Network: "host"},
	})
	if err == nil {
		err = os.WriteFile(l.path("grants.json"), grants, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.sandbox = append(l.sandbox, "DISTCI_GRANTS="+l.path("grants.json"))
	return l
}

// containers makes the lab's workers run steps in containers, with nothing
// granted. It returns a folder of the programs for this lab alone, and flags
// that say the same as the environment.
func (l *lab) containers() (programs string, flags []string) {
	l.t.Helper()
	k, err := makeKit()
	if err == nil {
		err = k.link(l.path("bin"))
	}
	if err == nil {
		err = os.Chmod(l.dir, 0o711) // containers' users pass through it
	}
	if err != nil {
		l.t.Fatal(err)
	}
	l.bin = l.path("bin")
	l.sandbox = []string{"DISTCI_SANDBOX=lxc", "DISTCI_IMAGE=small", "DISTCI_IMAGES=" + k.images}
	return l.bin, []string{"--sandbox", "lxc", "--image", "small", "--images", k.images}
}

// kit is what all labs with containers are made from.
type kit struct {
	bin    string // distci-lxc and what belongs to it
	root   string // a root file system
	images string // the store of images; there is one of it, "small"
}

// makeKit makes it at the first need; it goes with the programs.
var makeKit = sync.OnceValues(func() (k kit, err error) {
	dir := filepath.Join(bin, "lxc")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return k, err
	}
	made, err := rootfs.Make(dir, "sed", "tee", "printenv", "git", "git-upload-pack") // git serves repositories in folders
	if err != nil {
		return k, err
	}
	k = kit{made.Bin, made.Root, filepath.Join(dir, "images")}
	cmd := exec.Command(made.Program, "image", "import", "small", made.Root, "--images", k.images)
	cmd.Env = testlab.Env(made.Bin, dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return k, fmt.Errorf("import: %w: %s", err, out)
	}
	return k, nil
})

// link makes a folder of all programs, as make install does.
func (k kit) link(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "libexec"), 0o755); err != nil {
		return err
	}
	programs, err := filepath.Glob(filepath.Join(bin, "distci-*"))
	if err != nil {
		return err
	}
	for _, p := range programs {
		name := filepath.Base(p)
		switch name {
		case "distci-lxc": // that one is without LXC
			p = filepath.Join(k.bin, name)
		case "distci-init", "distci-control":
			name = "libexec/" + name
		}
		if err := os.Link(p, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// TestContainers runs a build whose steps are in containers of their own: they
// share the workspace and nothing else, publish and copy, and leave nothing.
func TestContainers(t *testing.T) {
	rootfs.Need(t)
	l := newLab(t)
	l.containers()
	l.frontend()
	secret := l.path("secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	l.startCommand("w", append(l.env(), "WORKERS_SECRET=x"), filepath.Join(l.bin, "distci-claim"), "--loop", "--state", l.path("w"))
	l.job(`{"job_id": "made", "tasks": [
		{"type": "execute-shell", "image": "small", "params": {"script": "echo user $(id -u); echo text > file; mkdir sub; ln -s /etc/passwd sub/link; echo x > /tmp/left; sleep 4711 & setsid nohup sleep 4711 >/dev/null 2>&1 &"}},
		{"type": "execute-shell", "params": {"script": "set -e; cat file; test -L sub/link; test ! -e /tmp/left; test ! -e ` + secret + `; test -z \"$WORKERS_SECRET\"; test \"$(pwd)\" = /workspace; ps | cat; echo more >> file"}},
		{"type": "publish-artifacts", "params": {"artifacts": ["file"]}}]}`)
	l.job(`{"job_id": "used", "tasks": [
		{"type": "copy-artifacts", "params": {"job": "made", "artifacts": ["file"]}},
		{"type": "execute-shell", "params": {"script": "cat file; exit 7"}}]}`)
	n := l.trigger("made")
	s := l.finished("made", n)
	console := l.console("made", n)
	if s.Result != ticket.Success || !strings.Contains(console, "user 1000\n") || strings.Contains(console, "4711") {
		t.Fatalf("%s:\n%s", s.Result, console)
	}
	n = l.trigger("used")
	s = l.finished("used", n)
	console = l.console("used", n)
	if s.Result != ticket.Failure || !strings.Contains(console, "text\nmore\n") || !strings.Contains(s.Tasks["1"].Error, "7") {
		t.Fatalf("%s (%s):\n%s", s.Result, s.Tasks["1"].Error, console)
	}
	for _, m := range l.members() {
		if m.Kind == "worker" && (!slices.Contains(m.Capabilities, "image_small") || !strings.Contains(m.Sandbox, "container")) {
			t.Errorf("the worker says of itself: %+v", m)
		}
	}
}
