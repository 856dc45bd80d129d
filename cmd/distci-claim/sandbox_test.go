package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestNoContainers is on a machine whose distci-lxc finds something missing.
func TestNoContainers(t *testing.T) {
	const missing = "containers cannot be made here: there is no newuidmap in PATH: install it (Debian: uidmap)"
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "libexec"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"distci-lxc": "#!/bin/sh\necho 'distci-lxc: " + missing + "' >&2\nexit 78\n", "libexec/distci-init": "#!/bin/sh\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("DISTCI_COORD", "local:"+filepath.Join(dir, "coord"))
	t.Setenv("DISTCI_STORE", "dir:"+filepath.Join(dir, "store"))
	const noTicket = 3 // it went on, and there was none
	for kind, want := range map[string]int{"lxc": 78, "auto": noTicket} {
		t.Run(kind, func(t *testing.T) {
			var out, errs bytes.Buffer
			status := run(t.Context(), make(chan os.Signal), []string{"--sandbox", kind, "--image", "base", "-E", "3", "--state", filepath.Join(dir, "state")}, &out, &errs)
			if status != want || strings.Count(errs.String(), missing) != 1 {
				t.Errorf("status %d, want %d: %s", status, want, &errs)
			}
			if plain := strings.Contains(errs.String(), "steps run without containers"); plain != (kind == "auto") {
				t.Errorf("it says %s", &errs)
			}
		})
	}
}
