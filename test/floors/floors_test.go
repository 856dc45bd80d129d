// Package floors holds the structure of the code: what may import what.
package floors

import (
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/distci/distci/"

// floor tells on which floor a package is. It may import packages of lower
// floors only. An adapter stands on its interface, and nothing else of ours
// but the kinds of failure.
var floor = map[string]int{
	"lib/fault":               0,
	"lib/version":             0,
	"lib/ticket":              1,
	"lib/job":                 2,
	"lib/build":               3,
	"lib/coord":               1,
	"lib/coord/local":         2,
	"lib/coord/zk":            2,
	"lib/coord/coordtest":     2,
	"lib/coord/sim":           2,
	"lib/member":              2,
	"lib/store":               1,
	"lib/store/dir":           2,
	"lib/store/rados":         2,
	"lib/store/s3":            2,
	"lib/store/sim":           2,
	"lib/store/storetest":     2,
	"lib/sandbox":             1,
	"lib/sandbox/stdio":       2,
	"lib/sandbox/wire":        2,
	"lib/sandbox/pid1":        3,
	"lib/sandbox/lxc":         3,
	"lib/sandbox/lxc/engine":  4,
	"lib/sandbox/plain":       3,
	"lib/sandbox/sandboxtest": 2,
	"lib/queue":               3,
	"lib/queue/history":       4,
	"lib/observe":             4,
	"lib/metrics":             5,
	"lib/trace":               5,
	"lib/workspace":           3,
	"lib/image":               4,
	"lib/source/pack":         2,
	"lib/source":              3,
	"lib/script":              3,
	"lib/secret":              1,
	"lib/tool":                4,
	"lib/repo":                4,
	"lib/bundle":              1,
	"lib/repo/repotest":       6,
	"lib/gc":                  5,
	"lib/fsck":                5,
	"lib/archive":             5,
	"lib/access":              2,
	"lib/webhook":             3,
	"lib/status":              4,
	"lib/status/statustest":   0,
	"lib/control":             5,
	"lib/cluster":             5,
	"lib/worker":              5,
	"lib/sse":                 0,
	"lib/api/client":          5,
	"lib/artifact":            6,
	"lib/web":                 5,
	"lib/api":                 6,
}

func TestImportsPointDown(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "../../lib/...")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for dec := json.NewDecoder(out); ; seen++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		own, ok := floor[name]
		if !ok {
			t.Errorf("%s has no floor", name)
			continue
		}
		for _, i := range p.Imports {
			i, ours := strings.CutPrefix(i, module)
			if ours && floor[i] >= own {
				t.Errorf("%s (floor %d) imports %s (floor %d)", name, own, i, floor[i])
			}
			if strings.HasPrefix(i, "cmd/") {
				t.Errorf("%s imports the command %s", name, i)
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if seen < 10 {
		t.Errorf("saw only %d packages", seen)
	}
}
