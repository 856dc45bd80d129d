package browser

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/distci/distci/test/need"
)

// axeVersion is the version of axe-core that the pages are held against.
const axeVersion = "4.14.1"

// axe returns the source of axe-core, which is installed into the user's cache
// once. Without it and npm the test says so, unless DISTCI_REQUIRE asks for it.
func axe(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "distci-test", "axe-core-"+axeVersion)
	file := filepath.Join(dir, "node_modules", "axe-core", "axe.min.js")
	if _, err := os.Stat(file); err != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, "npm", "install", "--prefix", dir, "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", "axe-core@"+axeVersion).CombinedOutput()
		if err != nil {
			need.Missing(t, "browser", fmt.Sprintf("axe-core cannot be had: %v\n%s", err, out))
		}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// check holds what the tab shows against axe-core's rules. What is serious or
// critical is a failure.
func (b *tab) check(source, what string) {
	b.Helper()
	eval[int](b, source+";0")
	raw := eval[string](b, `axe.run(document, {resultTypes: ["violations"]}).then((r) => JSON.stringify(r.violations))`)
	var found []struct {
		ID, Impact, Help string
		Nodes            []struct {
			HTML           string `json:"html"`
			FailureSummary string `json:"failureSummary"`
		}
	}
	if err := json.Unmarshal([]byte(raw), &found); err != nil {
		b.Fatal(err)
	}
	for _, f := range found {
		if f.Impact != "serious" && f.Impact != "critical" {
			b.Logf("%s: %s: %s: %s", what, f.Impact, f.ID, f.Help)
			continue
		}
		detail := ""
		for _, n := range f.Nodes[:min(3, len(f.Nodes))] {
			detail += fmt.Sprintf("\n  %.300s\n  %s", n.HTML, n.FailureSummary)
		}
		b.Errorf("%s: %s: %s: %s%s", what, f.Impact, f.ID, f.Help, detail)
	}
}
