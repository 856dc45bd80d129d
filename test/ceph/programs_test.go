package cephtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/test/lab"
	"github.com/distci/distci/test/need"
)

// TestPrograms: the programs have no C in them, and become those that were
// built with librados if the store is in Ceph.
func TestPrograms(t *testing.T) {
	c := Start(t, Options{})
	dir := lab.Dir(t)
	bin := filepath.Join(dir, "bin")
	build := func(cgo, tags, output string) error {
		cmd := exec.Command("go", "build", "-tags="+tags, "-o", filepath.Join(bin, output), "github.com/distci/distci/cmd/distci-buildctl")
		cmd.Env = append(os.Environ(), "CGO_ENABLED="+cgo)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Logf("%s", out)
		}
		return err
	}
	if err := build("0", "", "distci-buildctl"); err != nil {
		t.Fatal(err)
	}
	run := func(stdin string, args ...string) (string, int) {
		cmd := exec.Command(filepath.Join(bin, "distci-buildctl"), args...)
		cmd.Env = lab.Env(bin, dir, "DISTCI_STORE="+c.Address("programs"), "DISTCI_COORD=local:"+dir+"/coord.db")
		cmd.Stdin = strings.NewReader(stdin)
		out, _ := cmd.CombinedOutput()
		return string(out), cmd.ProcessState.ExitCode()
	}
	if out, status := run("", "list"); status != 78 || !strings.Contains(out, "install librados-dev") {
		t.Errorf("without a program with Ceph: status %d: %s", status, out)
	}
	if err := build("1", "ceph", "distci-buildctl-ceph"); err != nil {
		need.Missing(t, "ceph", "no librados to build with: "+err.Error())
	}
	job := `{"job_id":"j","tasks":[{"type":"execute-shell","params":{"script":"true"}}]}`
	if out, status := run(job, "job", "set", "-"); status != 0 {
		t.Errorf("job set: status %d: %s", status, out)
	}
	if out, status := run("", "job", "get", "j"); status != 0 || !strings.Contains(out, "execute-shell") {
		t.Errorf("job get: status %d: %s", status, out)
	}
}
