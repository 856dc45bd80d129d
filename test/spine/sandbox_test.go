package spine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/rootfs"
)

// claim runs distci-claim, with settings of its own, on a cluster where there
// is nothing to do. The programs are in a folder; its user may be another one.
func (l *lab) claim(programs string, user *syscall.Credential, settings ...string) *proc {
	l.t.Helper()
	cmd := exec.Command(filepath.Join(programs, "distci-claim"), "--state", l.path("w"))
	cmd.Env = append(l.env(), settings...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	p := l.startProc("distci-claim", cmd)
	p.status()
	return p
}

// TestNoContainers: where something is missing for containers, lxc refuses,
// auto says the same and goes on plain, and so does the default if there is
// something to be missed.
func TestNoContainers(t *testing.T) {
	type missing struct {
		name     string
		lxc      bool // the case needs a machine that can make containers
		says     []string
		programs func(*lab) string // other programs
		user     *syscall.Credential
		settings []string
	}
	for _, c := range []missing{
		{name: "NoProgram", says: []string{"there is no distci-lxc beside this program or in PATH: install it"},
			programs: func(l *lab) string { return l.folder("distci-claim") }, settings: []string{"PATH=/nowhere", "DISTCI_IMAGE=small"}},
		{name: "BuiltWithoutLXC", says: []string{"distci-lxc was built without LXC: install", "; ", "no such image: small"},
			programs: func(l *lab) string { return l.folder("distci-claim", "distci-lxc", "libexec/distci-init") }, settings: []string{"DISTCI_IMAGE=small"}},
		{name: "UserWithoutIDs", lxc: true, says: []string{"/etc/subuid"}, user: &syscall.Credential{Uid: 64001, Gid: 64001}, settings: []string{"DISTCI_IMAGE=small"}},
		{name: "NoImage", lxc: true, says: []string{"there is no image in /nowhere: distci-lxc image build NAME makes one"}, settings: []string{"DISTCI_IMAGE=", "DISTCI_IMAGES=/nowhere"}},
		{name: "UnknownImage", lxc: true, says: []string{"no such image: other (there are: small)", "distci-lxc image build other"}, settings: []string{"DISTCI_IMAGE=other"}},
		{name: "SeveralImages", lxc: true, says: []string{"there are the images a, b: --image says which"}, settings: []string{"DISTCI_IMAGE=", "DISTCI_IMAGES=@images"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			if c.lxc {
				rootfs.Need(t)
				l.containers()
			}
			programs := l.bin
			if c.programs != nil {
				programs = c.programs(l)
			}
			if c.user != nil {
				if err := os.Chown(l.dir, int(c.user.Uid), int(c.user.Gid)); err != nil {
					t.Fatal(err)
				}
			}
			for i, s := range c.settings {
				if strings.HasSuffix(s, "@images") {
					c.settings[i] = "DISTCI_IMAGES=" + l.images("a", "b")
				}
			}
			for kind, want := range map[string]int{"lxc": 78, "auto": 0, "": 0} {
				p := l.claim(programs, c.user, append(c.settings, "DISTCI_SANDBOX="+kind)...)
				if p.status() != want {
					t.Errorf("--sandbox %s: status %d, want %d: %s", kind, p.status(), want, p.stderr())
				}
				if c.name == "NoImage" && kind == "" {
					if p.stderr() != "" {
						t.Errorf("with nothing to be missed it says %q", p.stderr())
					}
					continue
				}
				if lines := strings.Count(p.stderr(), "\n"); lines != 1 || want == 0 && !strings.Contains(p.stderr(), "steps run without containers: ") {
					t.Errorf("--sandbox %s: it says %q", kind, p.stderr())
				}
				for _, says := range c.says {
					if !strings.Contains(p.stderr(), says) {
						t.Errorf("--sandbox %s: it does not say %q, but %q", kind, says, p.stderr())
					}
				}
			}
		})
	}
}

// folder makes a folder with some of the programs as they are built without C.
func (l *lab) folder(programs ...string) string {
	l.t.Helper()
	dir := l.path("programs")
	for _, name := range programs {
		to := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(to), 0o755)
		if err == nil {
			err = os.Link(filepath.Join(bin, filepath.Base(name)), to)
		}
		if err != nil {
			l.t.Fatal(err)
		}
	}
	return dir
}

// images makes a store of images that nobody starts.
func (l *lab) images(names ...string) string {
	l.t.Helper()
	dir, root := l.path("images"), l.path("root")
	if err := os.MkdirAll(filepath.Join(root, "bin"), 0o755); err != nil {
		l.t.Fatal(err)
	}
	for _, name := range names {
		cmd := exec.Command(filepath.Join(l.bin, "distci-lxc"), "image", "import", "--images", dir, name, root)
		if out, err := cmd.CombinedOutput(); err != nil {
			l.t.Fatalf("import: %v: %s", err, out)
		}
	}
	return dir
}

// TestOnlyImage: with one image on the machine and nothing said, steps run in
// containers of it.
func TestOnlyImage(t *testing.T) {
	l := newContainedLab(t)
	l.sandbox = append(l.sandbox, "DISTCI_SANDBOX=", "DISTCI_IMAGE=")
	l.frontend()
	l.worker("w")
	l.shellJob("j", `test "$(id -u)" = 1000; pwd`)
	n := l.trigger("j")
	if s := l.finished("j", n); s.Result != ticket.Success || !strings.Contains(l.console("j", n), "\n/workspace\n") {
		t.Errorf("%s\n%s", s.Result, l.console("j", n))
	}
}
