package spine

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/distci/distci/lib/ticket"
	testlab "github.com/distci/distci/test/lab"
)

// TestRelativeState: a worker may be told of its folder by a relative path,
// though its tools start elsewhere.
func TestRelativeState(t *testing.T) { inEach(t, testRelativeState) }

func testRelativeState(t *testing.T, l *lab) {
	l.frontend()
	cmd := exec.Command(filepath.Join(l.bin, "distci-claim"), "--loop", "--state", "here")
	cmd.Dir, cmd.Env = l.dir, l.env()
	testlab.Start(t, l.spawn, l.dir, "w", cmd)
	l.shellJob("j", "echo x > file", "cat file")
	if s := l.finished("j", l.trigger("j")); s.Result != ticket.Success {
		t.Errorf("%s: %+v", s.Result, s.Tasks["0"])
	}
}
