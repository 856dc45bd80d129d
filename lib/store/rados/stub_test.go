//go:build !(ceph && cgo)

package rados

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/test/need"
)

func TestStub(t *testing.T) {
	if _, err := Open("ceph://pool"); fault.Of(err) != fault.Config || !strings.Contains(err.Error(), "install librados-dev") {
		t.Errorf("open without librados: %v (%s)", err, fault.Of(err))
	}
	if _, err := Open("ceph://pool?x=1"); fault.Of(err) != fault.Config || !strings.Contains(err.Error(), `unknown key "x"`) {
		t.Errorf("a wrong address: %v", err)
	}
}

// TestLibrados: the other tests of this package are built with the tag ceph,
// which make does where librados' header is.
func TestLibrados(t *testing.T) {
	cmd := exec.Command("cc", "-E", "-")
	cmd.Stdin = strings.NewReader("#include <rados/librados.h>\n")
	if err := cmd.Run(); err != nil {
		need.Missing(t, "ceph", "no librados to build with: "+err.Error())
	}
}
