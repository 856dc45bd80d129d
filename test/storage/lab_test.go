// Package storage runs the real programs with their store in a real Ceph and in
// real S3 servers: moves what lasts between them, and hurts them while builds
// run.
package storage

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	cephtest "github.com/distci/distci/test/ceph"
	testlab "github.com/distci/distci/test/lab"
	"github.com/distci/distci/test/need"
)

// bin is the folder with the programs.
var bin string

func TestMain(m *testing.M) { testlab.Main(m, &bin) }

var twins = sync.OnceValue(func() error {
	for _, name := range []string{"distci-buildctl", "distci-claim", "distci-frontend"} {
		cmd := exec.Command("go", "build", "-tags=ceph", "-o", filepath.Join(bin, name+"-ceph"), "github.com/distci/distci/cmd/"+name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
})

// needCeph builds the programs that have librados.
func needCeph(t *testing.T) {
	t.Helper()
	cephtest.Require(t)
	if err := twins(); err != nil {
		need.Missing(t, "ceph", "no librados to build with: "+err.Error())
	}
}

// cluster is where some programs have their coordination and their store.
type cluster struct {
	t            *testing.T
	dir          string
	coord, store string
	spawn        *testlab.Spawner
}

// newCluster makes one; "" is a coordination in a file, or a store in a folder.
func newCluster(t *testing.T, coord, store string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: testlab.Dir(t), coord: coord, store: store, spawn: testlab.NewSpawner(t)}
	if coord == "" {
		c.coord = "local:" + c.path("coord.db")
	}
	if store == "" {
		c.store = "dir:" + c.path("store")
	}
	return c
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) env() []string {
	return testlab.Env(bin, c.dir, "DISTCI_SANDBOX=plain", "DISTCI_COORD="+c.coord, "DISTCI_STORE="+c.store)
}

// command is distci-buildctl, or the one with librados that it becomes.
func (c *cluster) command(args ...string) *exec.Cmd {
	name := "distci-buildctl"
	if strings.HasPrefix(c.store, "ceph:") {
		name += "-ceph"
	}
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Env, cmd.Dir = c.env(), c.dir
	return cmd
}

// try runs distci-buildctl and returns what it prints, and its status.
func (c *cluster) try(args ...string) (string, int) {
	c.t.Helper()
	cmd := c.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return string(out) + stderr.String(), cmd.ProcessState.ExitCode()
}

// run is try for what must succeed.
func (c *cluster) run(args ...string) string {
	c.t.Helper()
	out, status := c.try(args...)
	if status != 0 {
		c.t.Fatalf("distci-buildctl %q: status %d: %s", args, status, out)
	}
	return out
}

func (c *cluster) start(program string, args ...string) *testlab.Proc {
	c.t.Helper()
	cmd := exec.Command(filepath.Join(bin, program), args...)
	cmd.Env = c.env()
	return testlab.Start(c.t, c.spawn, c.dir, program, cmd)
}

func (c *cluster) worker(name string) *testlab.Proc {
	c.t.Helper()
	return c.start("distci-claim", "--loop", "--name", name, "--state", c.path(name), "--session-timeout", "4s")
}

func (c *cluster) job(config string) {
	c.t.Helper()
	file := filepath.Join(c.dir, "job.json")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.run("job", "set", file)
}

// repository makes a git repository with one commit.
func repository(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(testlab.Dir(t), "source")
	script := `git init -q "$0" && cd "$0" && echo hello >file && git add file && git -c user.name=n -c user.email=e@x commit -qm first`
	if out, err := exec.Command("sh", "-c", script, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// maker is a job that checks out, makes a file of its own and publishes it.
func maker(repository string) string {
	return fmt.Sprintf(`{"job_id":"maker","tasks":[
		{"type":"git-checkout","params":{"repository":%q,"ref":"HEAD"}},
		{"type":"execute-shell","params":{"script":"mkdir -p out; for i in $(seq 1 20000); do echo build $BUILD_NUMBER line $i; done | tee out/lines; cat file; sha256sum out/lines"}},
		{"type":"publish-artifacts","params":{"artifacts":["out/*","file"]}}]}`, repository)
}

const taker = `{"job_id":"taker","tasks":[
	{"type":"copy-artifacts","params":{"job":"maker","artifacts":["*"],"target_directory":"in"}},
	{"type":"execute-shell","params":{"script":"test $(wc -l <in/out/lines) = 20000; cp in/out/lines again"}},
	{"type":"publish-artifacts","params":{"artifacts":["again"]}}]}`
